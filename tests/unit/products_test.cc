// The three products over planes: to the bit the sums of their definition, for formats of two planes, sums of two
// encodings, scales of rows, and the float kernels for everything else.

#include "luq/quant/products.h"

#include <limits>

#include "kernels/conv_terms.h"
#include "luq/quant/quantize.h"
#include "tests/catch.h"
#include "tests/unit/formats.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

const ConvShape kShape{.n = 3, .h = 5, .w = 4, .c = 6, .o = 4, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 2};
const Shape kX{3, 5, 4, 6}, kW{4, 3, 3, 3}, kY{3, 5, 4, 4};

constexpr QuantSpec kInt4{Format::int4, ScaleMethod::sawb, Rounding::nearest};
constexpr QuantSpec kFp4{Format::fp4, ScaleMethod::max, Rounding::stochastic};

MatmulOperand encoded(const Shape& shape, const char* name, const QuantSpec& spec, uint32_t sample = 0) {
  const Tensor x = random_tensor(shape, name);
  return {.codes = quantize(kernels_for({}), x, spec, false, make_rng_key(1, name, 0, 0, sample), name), .values = {}};
}

MatmulOperand radix4_of(const Shape& shape, const char* name) {
  return encoded(shape, name, {radix4(), ScaleMethod::max, Rounding::stochastic});
}

// The mean of two encodings that differ in their random bits.
MatmulOperand two_samples(const Shape& shape, const char* name) {
  MatmulOperand mean = encoded(shape, name, kFp4), second = encoded(shape, name, kFp4, 1);
  mean.codes.planes.push_back(second.codes.planes[0]);
  for (Plane& plane : mean.codes.planes) plane.scale /= 2;
  return mean;
}

int64_t at(const Plane& plane, int64_t row, int64_t cols, int64_t col) {
  const uint8_t* codes = plane.codes.data<uint8_t>() + row * packed_row_bytes(cols);
  return kernels::decode(plane.table, kernels::load_code(codes, col));
}

// Sets the result to what the definition gives: each pair's exact sum as a float, times its scale, plus the bias of the
// first pair, plus what was there.
template <typename Terms, typename Scale, typename Bias>
void define(Terms terms, const QTensor& a, const QTensor& b, Scale row_scale, Bias bias, Tensor& result) {
  for (int64_t index = 0; index < result.numel(); ++index) {
    float& value = result.data<float>()[index];
    bool first = true;
    for (const Plane& left : a.planes) {
      for (const Plane& right : b.planes) {
        int64_t sum = 0;
        terms(kShape, index, [&](int64_t a_row, int64_t a_col, int64_t b_row, int64_t b_col) {
          sum += at(left, a_row, a.cols(), a_col) * at(right, b_row, b.cols(), b_col);
        });
        float product = static_cast<float>(sum) * row_scale(left.scale * right.scale, index);
        if (first) product += bias(index);
        value = first ? product : product + value;
        first = false;
      }
    }
  }
}

constexpr auto forward_terms = [](auto... a) { kernels::for_forward_terms(a...); };
constexpr auto data_terms = [](auto... a) { kernels::for_backward_data_terms(a...); };
constexpr auto weight_terms = [](auto... a) { kernels::for_backward_weight_terms(a...); };
constexpr auto plain = [](float scale, int64_t) { return scale; };
constexpr auto no_bias = [](int64_t) { return 0.0f; };

// The three products of these operands by every table.
void check_products(const MatmulOperand& x, const MatmulOperand& w, const MatmulOperand& dy) {
  const Tensor bias = random_tensor({4}, "bias"), before = random_tensor(kX, "before");
  Tensor y = Tensor::empty(kY), dx = Tensor::empty(kX), dw = Tensor::empty(kW);
  define(
      forward_terms, x.codes, w.codes, plain, [&](int64_t i) { return bias.data<float>()[i % 4]; }, y);
  define(data_terms, dy.codes, w.codes, plain, no_bias, dx);
  define(weight_terms, dy.codes, x.codes, plain, no_bias, dw);
  for (const NamedKernels& named : cpu_kernel_tables()) {
    CAPTURE(named.name);
    const Products products{named.table, kShape, "conv"};
    Tensor result = Tensor::full(kY, 77);
    CHECK_FALSE(products.forward(x, w, bias, true, result).has_value());
    CHECK(values(result) == values(y));
    result = Tensor::full(kX, 77);
    products.backward_data(dy, w, false, result);
    CHECK(values(result) == values(dx));
    result = Tensor::full(kW, 77);
    products.backward_weight(dy, x, result);
    CHECK(values(result) == values(dw));
    result = before.clone();
    products.backward_data(dy, w, true, result);
    for (int64_t i = 0; i < result.numel() && dy.codes.planes.size() * w.codes.planes.size() == 1; ++i) {
      REQUIRE(result.data<float>()[i] == dx.data<float>()[i] + before.data<float>()[i]);
    }
    CHECK(values(result) != values(before));
  }
}

}  // namespace

TEST_CASE("The planes of a format add up to its values", "[products]") {
  const Kernels& kernels = kernels_for({});
  Tensor x = Tensor::empty({15});
  for (int i = 0; i < 15; ++i) x.data<float>()[i] = static_cast<float>(radix4().row().value(i < 8 ? i : i + 1));
  const QTensor q = quantize(kernels, x, {radix4(), ScaleMethod::max, Rounding::nearest}, false, {}, "test");
  REQUIRE(q.planes.size() == 2);
  CHECK(q.planes[0].codes.shares_buffer_with(q.planes[1].codes));
  CHECK(q.scale == 1);
  CHECK(q.planes[1].scale == 64);
  CHECK(q.is_one_encoding());
  CHECK_FALSE(two_samples({4}, "x").codes.is_one_encoding());
  CHECK(values(dequantize(kernels, q)) == values(x));
}

TEST_CASE("The products of any formats are those of the definition, to the bit, by every table", "[products]") {
  const QuantSpec thirds{powers_of_3(), ScaleMethod::max, Rounding::stochastic},
      integers{int3(), ScaleMethod::max, Rounding::nearest};
  const MatmulOperand x = encoded(kX, "x", kInt4), w = encoded(kW, "w", kInt4), dy = encoded(kY, "dy", kFp4);
  check_products(x, w, dy);
  check_products(encoded(kX, "x", integers), encoded(kW, "w", thirds), encoded(kY, "dy", thirds));
  check_products(x, w, radix4_of(kY, "dy"));
  check_products(radix4_of(kX, "x"), radix4_of(kW, "w"), radix4_of(kY, "dy"));
  check_products(x, w, two_samples(kY, "dy"));
}

TEST_CASE("Scales of rows leave the sums", "[products]") {
  MatmulOperand x = encoded(kX, "x", kInt4), w = encoded(kW, "w", kInt4), dy = encoded(kY, "dy", kFp4);
  const MatmulOperand data_dy = two_samples(kY, "dy");
  MatmulOperand scaled_w = w, scaled_data_dy = data_dy, scaled_weights_dy = dy;
  const Tensor of_outputs = random_tensor({4}, "outputs", 0.5f, 2), of_images = random_tensor({3}, "images", 0.5f, 2);
  scaled_w.codes.planes[0].scales = of_outputs;
  for (Plane& plane : scaled_data_dy.codes.planes) plane.scales = of_images;
  scaled_weights_dy.codes.planes[0].scales = of_outputs;
  scaled_weights_dy.codes.planes[0].axis = Plane::Axis::last;
  const auto by = [](const Tensor& scales, int64_t block) {
    return
        [&scales, block](float scale, int64_t i) { return scale * scales.data<float>()[i / block % scales.numel()]; };
  };
  Tensor y = Tensor::empty(kY), dx = Tensor::empty(kX), dw = Tensor::empty(kW), result;
  define(forward_terms, x.codes, w.codes, by(of_outputs, 1), no_bias, y);
  define(data_terms, data_dy.codes, w.codes, by(of_images, kX.numel() / 3), no_bias, dx);
  define(weight_terms, dy.codes, x.codes, by(of_outputs, kW.numel() / 4), no_bias, dw);
  for (const NamedKernels& named : cpu_kernel_tables()) {
    CAPTURE(named.name);
    const Products products{named.table, kShape, "conv"};
    result = Tensor::empty(kY);
    products.forward(x, scaled_w, {}, true, result);
    CHECK(values(result) == values(y));
    result = Tensor::empty(kX);
    products.backward_data(scaled_data_dy, w, false, result);
    CHECK(values(result) == values(dx));
    result = Tensor::empty(kW);
    products.backward_weight(scaled_weights_dy, x, result);
    CHECK(values(result) == values(dw));
  }

  // Dequantised, element by element.
  const Kernels& kernels = kernels_for({});
  const Tensor once = dequantize(kernels, dy.codes), scaled = dequantize(kernels, scaled_weights_dy.codes);
  const Tensor mean = dequantize(kernels, scaled_data_dy.codes), sum = dequantize(kernels, data_dy.codes);
  for (int64_t i = 0; i < once.numel(); ++i) {
    CHECK(scaled.data<float>()[i] == Approx(once.data<float>()[i] * of_outputs.data<float>()[i % 4]));
    CHECK(mean.data<float>()[i] == Approx(sum.data<float>()[i] * of_images.data<float>()[i / 80]));
  }

  // Elsewhere they lie inside the sums, and other numbers of them fit nothing.
  const Products products{kernels, kShape, "layer1"};
  const auto contains = [](const std::string& text) { return contains_text("layer1: " + text); };
  result = Tensor::empty(kX);
  CHECK_THROWS_WITH(products.backward_data(dy, scaled_w, false, result),
                    contains("w: expected no scales along its first"));
  CHECK_THROWS_WITH(products.backward_data(scaled_weights_dy, w, false, result),
                    contains("dy: expected no scales along its last"));
  scaled_data_dy.codes.planes[1].scales = of_outputs;
  CHECK_THROWS_WITH(products.backward_data(scaled_data_dy, w, false, result),
                    contains("dy: expected 3 scales of float32, got 4"));
}

TEST_CASE("An operand that is not quantised, and its partner, are multiplied in floats", "[products]") {
  const Kernels& kernels = kernels_for({});
  const Products products{kernels, kShape, "conv"};
  const MatmulOperand dy = radix4_of(kY, "dy"), w{.codes = {}, .values = random_tensor(kW, "w")};
  const Tensor seen = dequantize(kernels, dy.codes);
  Tensor dx = Tensor::empty(kX), expected = Tensor::empty(kX);
  products.backward_data(dy, w, false, dx);
  kernels.conv_backward_data(
      {kShape, seen.data<float>(), std::as_const(w.values).data<float>(), expected.data<float>()});
  CHECK(values(dx) == values(expected));
  CHECK_THROWS_WITH(products.backward_data(dy, w, true, dx), contains_text("conv: expected codes of both operands"));
  MatmulOperand scaled = dy;
  for (Plane& plane : scaled.codes.planes) plane.scales = random_tensor({2}, "scales");
  CHECK_THROWS_WITH(products.backward_data(scaled, w, false, dx), contains_text("expected 3 scales of float32"));
}

TEST_CASE("Planes that no product can have are refused with the layer", "[products]") {
  const Kernels& kernels = kernels_for({});
  const Products products{kernels, kShape, "layer1.0.conv2"};
  const MatmulOperand x = encoded(kX, "x", kInt4);
  Tensor y = Tensor::empty(kY);
  const auto refused = [&](const auto& change, const std::string& message) {
    MatmulOperand w = encoded(kW, "w", kInt4);
    change(w.codes.planes[0]);
    const auto contains = contains_text("[forward] layer1.0.conv2: w: expected " + message);
    CHECK_THROWS_WITH(products.forward(x, w, {}, false, y), contains);
    CHECK_THROWS_WITH(products.forward({.codes = {}, .values = random_tensor(kX, "x")}, w, {}, false, y), contains);
  };
  refused([](Plane& plane) { plane.table.value[5] = -65; }, "magnitudes up to 64, got 65");
  refused([](Plane& plane) { plane.table.value[0] = 2; }, "0 as what code 0 stands for, got 2");
  refused([](Plane& plane) { plane.scale = std::numeric_limits<float>::infinity(); }, "a finite scale, got inf");
  refused([](Plane& plane) { plane.codes = Tensor::zeros({71}, DType::uint8); },
          "36 rows of 3 in 72 bytes of codes, got a shape of (4,3,3,3) in 71");
}
