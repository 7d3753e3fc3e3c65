// Codes of any format in files: packed ones, and ONNX, which has integers of 4 bits.

#include "luq/models/registry.h"
#include "luq/quant/quantize.h"
#include "src/train/onnx_export.h"
#include "src/train/packing.h"
#include "tests/catch.h"
#include "tests/refusal.h"
#include "tests/unit/formats.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

TEST_CASE("Packed codes of any format stand for the values that the layer multiplied", "[packing]") {
  const Kernels& kernels = kernels_for({});
  const Tensor x = random_tensor({3, 2, 5}, "x");
  for (const Format format : {Format::int4, Format::uint4, Format::fp4, int3(), powers_of_3(), radix4()}) {
    CAPTURE(to_string(format));
    const QTensor q = quantize(kernels, x, {format, ScaleMethod::max, Rounding::nearest}, false, {}, "test");
    const Tensor packed = pack_flat(code_numbers(q));
    CHECK(packed.numel() == 15);
    CHECK(values(unpack_flat(packed, q.shape, format, q.scale)) == values(dequantize(kernels, q)));
  }
  QTensor sum = quantize(kernels, x, {Format::int4, ScaleMethod::max, Rounding::nearest}, false, {}, "test");
  sum.planes.push_back(sum.planes[0]);
  CHECK_THROWS_WITH(code_numbers(sum), contains_text("expected one encoding, got a sum of 2 planes"));
}

TEST_CASE("ONNX gets the bounds of a format of integers, and refuses others with the layer", "[onnx]") {
  const std::unique_ptr<Module> model = make_model("resnet20", {1, 10, 8}, 0);
  const auto exported = [&](const QuantSpec& weights, const QuantSpec& activations) {
    QuantPolicy policy;
    policy.spec = {weights, activations, {}};
    const QuantPlan plan(policy, model->matmul_layers());
    std::vector<TraceNode> trace;
    Ctx ctx = make_ctx(nullptr, &plan);
    ctx.training = false;
    ctx.trace = &trace;
    const Var images(random_tensor({1, 8, 8, 1}, "images"));
    const Var logits = model->forward(ctx, images);
    return to_onnx(trace, *model, images, logits, "resnet20");
  };
  const auto spec = [](Format format) { return QuantSpec{format, ScaleMethod::max, Rounding::nearest}; };
  // int4's own bounds are ONNX's where nothing is negative; 0..7 needs one more.
  CHECK(exported(spec(Format::int4), spec(Format::int4)).find(".activation_max") == std::string::npos);
  CHECK(exported(spec(int3()), spec(int3())).find(".activation_max") != std::string::npos);
  CHECK_THAT(refusal([&] { exported(spec(Format::fp4), spec(Format::int4)); }),
             contains_text("[onnx] weight of layer1.0.conv1: expected a 4-bit format of integers, got fp4"));
  CHECK_THAT(refusal([&] { exported(spec(Format::int4), spec(radix4())); }),
             contains_text("[onnx] x of layer1.0.conv1: expected a 4-bit format of integers, got test_radix4"));
  CodeTable to_8 = signed_integers();
  to_8.value[8] = 8;
  static const Format beyond = register_format({"test_to_8", uniform_grid(-7, 8), 1, {{to_8}}});
  CHECK_THAT(refusal([&] { exported(spec(beyond), spec(Format::int4)); }),
             contains_text("weight of layer1.0.conv1: expected a 4-bit format of integers, got test_to_8"));
}
