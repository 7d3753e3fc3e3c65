// A training step in 4 bits of every model of the zoo, in small, on every kernel table.

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "luq/core/convert.h"
#include "luq/models/alexnet.h"
#include "luq/models/mobilenet_v2.h"
#include "luq/models/resnet.h"
#include "luq/models/vgg.h"
#include "luq/models/vision_transformer.h"
#include "luq/ops/loss.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

constexpr int64_t kClasses = 5;

// A model with the depth and the kinds of layers of the zoo's, but thinner where it can be: ref takes its time.
struct SmallModel {
  std::string name;
  int64_t batch, image_size;
  std::function<std::unique_ptr<Module>()> make;
};

SmallModel small_resnet(const std::string& name, const ResNetOptions& options) {
  ResNetOptions small = options;
  small.base_channels = 8;
  small.num_classes = kClasses;
  return {name, 2, 32, [small] { return std::make_unique<ResNet>(small); }};
}

SmallModel small_vgg(const std::string& name, const std::vector<int>& convolutions, bool batch_norm) {
  VggOptions options{.features = {}, .batch_norm = batch_norm, .pooled_size = 2, .hidden = 32, .num_classes = kClasses};
  for (size_t stage = 0; stage < convolutions.size(); ++stage) {
    options.features.insert(options.features.end(), static_cast<size_t>(convolutions[stage]), std::min(4 << stage, 32));
    options.features.push_back(0);
  }
  return {name, 2, 32, [options] { return std::make_unique<Vgg>(options); }};
}

std::vector<SmallModel> small_zoo() {
  return {
      small_resnet("resnet18", {.blocks = {2, 2, 2, 2}}),
      small_resnet("resnet34", {.blocks = {3, 4, 6, 3}}),
      small_resnet("resnet50", {.blocks = {3, 4, 6, 3}, .bottleneck = true}),
      small_resnet("resnet101", {.blocks = {3, 4, 23, 3}, .bottleneck = true}),
      small_resnet("resnet152", {.blocks = {3, 8, 36, 3}, .bottleneck = true}),
      small_resnet("resnext50_32x4d", {.blocks = {3, 4, 6, 3}, .bottleneck = true, .groups = 8, .group_width = 16}),
      small_resnet("wide_resnet50_2", {.blocks = {3, 4, 6, 3}, .bottleneck = true, .group_width = 128}),
      small_vgg("vgg11", {1, 1, 2, 2, 2}, false),
      small_vgg("vgg13", {2, 2, 2, 2, 2}, false),
      small_vgg("vgg16", {2, 2, 3, 3, 3}, false),
      small_vgg("vgg19", {2, 2, 4, 4, 4}, false),
      small_vgg("vgg11_bn", {1, 1, 2, 2, 2}, true),
      small_vgg("vgg13_bn", {2, 2, 2, 2, 2}, true),
      small_vgg("vgg16_bn", {2, 2, 3, 3, 3}, true),
      small_vgg("vgg19_bn", {2, 2, 4, 4, 4}, true),
      {"alexnet", 1, 63,
       [] {
         return std::make_unique<AlexNet>(AlexNetOptions{.pooled_size = 2, .hidden = 32, .num_classes = kClasses});
       }},
      {"mobilenet_v2", 2, 32,
       [] { return std::make_unique<MobileNetV2>(MobileNetV2Options{.num_classes = kClasses}); }},
      {"vit_b_16", 2, 32,
       [] {
         return std::make_unique<VisionTransformer>(ViTOptions{
             .image_size = 32, .patch_size = 8, .heads = 3, .hidden = 24, .mlp = 40, .num_classes = kClasses});
       }},
  };
}

QuantPolicy luq_policy() {
  QuantPolicy policy;
  policy.spec = {{Format::int4, ScaleMethod::sawb, Rounding::nearest},
                 {Format::int4, ScaleMethod::sawb, Rounding::nearest},
                 {Format::fp4, ScaleMethod::max, Rounding::stochastic}};
  return policy;
}

struct Step {
  float loss = 0;
  std::vector<std::vector<float>> gradients;  // by parameter
};

std::unique_ptr<Module> new_model(const SmallModel& small) {
  std::unique_ptr<Module> model = small.make();
  model->set_name("");
  model->initialize(3);
  for (Parameter* parameter : model->parameters()) {
    if (parameter->name != "heads.head.weight") continue;  // starts at 0, which would hide what is in front of it
    const Tensor head = random_tensor(parameter->var.shape(), "head");
    std::copy_n(head.data<float>(), head.numel(), parameter->var.value().data<float>());
  }
  return model;
}

Tensor images(const SmallModel& small) {
  return random_tensor({small.batch, small.image_size, small.image_size, 3}, "x");
}

Step train_step(const SmallModel& small, const Kernels& kernels, DType dtype) {
  const std::unique_ptr<Module> model = new_model(small);
  const QuantPlan plan(luq_policy(), model->matmul_layers());
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  ctx.kernels = &kernels;
  Tensor labels = Tensor::empty({small.batch}, DType::int32);
  for (int32_t i = 0; i < small.batch; ++i) labels.data<int32_t>()[i] = i;
  const Var logits = model->forward(ctx, Var(convert(kernels, images(small), dtype)));
  const Var loss = softmax_cross_entropy(ctx, logits, labels).loss;
  tape.backward(loss);
  Step step{values(loss.value()).front(), {}};
  for (const Parameter* parameter : model->parameters()) step.gradients.push_back(values(parameter->var.grad()));
  return step;
}

}  // namespace

// docs/numerics.md: codes, statistics, scales and integer sums are the same in every table. So with the float entries
// of one table, a whole step does not depend on whose 4-bit entries it uses.
TEST_CASE("Every model's step is the same to the bit with the 4-bit kernels of any table", "[models][tables]") {
  const std::vector<NamedKernels> tables = cpu_kernel_tables();
  const auto compare = [&tables](const SmallModel& small, DType dtype) {
    std::vector<Step> steps;
    for (const NamedKernels& named : tables) {
      CAPTURE(small.name, to_string(dtype), named.name);
      Kernels kernels = tables.back().table;
      kernels.stats = named.table.stats;
      kernels.encode = named.table.encode;
      kernels.decode = named.table.decode;
      kernels.qconv_forward = named.table.qconv_forward;
      kernels.qconv_forward_moments = {};  // moments are floats
      kernels.qconv_backward_data = named.table.qconv_backward_data;
      kernels.qconv_backward_weight = named.table.qconv_backward_weight;
      steps.push_back(train_step(small, kernels, dtype));
      CHECK(std::isfinite(steps.back().loss));
      CHECK(steps.back().loss == steps.front().loss);
      CHECK(steps.back().gradients == steps.front().gradients);
    }
  };
  for (const SmallModel& small : small_zoo()) {
    compare(small, DType::float32);
    if (small.name == "resnet18" || small.name == "vgg11" || small.name == "mobilenet_v2" || small.name == "vit_b_16") {
      compare(small, DType::bfloat16);
    }
  }
}

// In float32 tables differ by rounding. In evaluation nothing magnifies it, unlike norms over a few values in training.
TEST_CASE("Every model's logits are the same with any table but for rounding", "[models][tables]") {
  for (const SmallModel& small : small_zoo()) {
    const std::unique_ptr<Module> model = new_model(small);
    std::vector<float> expected;
    for (const NamedKernels& named : cpu_kernel_tables()) {
      CAPTURE(small.name, named.name);
      Ctx ctx = make_ctx();
      ctx.kernels = &named.table;
      ctx.training = false;
      const std::vector<float> logits = values(model->forward(ctx, Var(images(small))).value());
      if (expected.empty()) expected = logits;
      double difference = 0, norm = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        difference += std::pow(static_cast<double>(logits[i]) - expected[i], 2);
        norm += std::pow(static_cast<double>(expected[i]), 2);
      }
      CHECK(norm > 0);
      CHECK(std::sqrt(difference) <= 1e-5 * std::sqrt(norm));
    }
  }
}
