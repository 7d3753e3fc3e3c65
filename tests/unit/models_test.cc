// The zoo: parameter counts, torchvision's names and shapes, initialisation, what the policy sees, errors.

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <set>

#include "luq/core/error.h"
#include "luq/models/alexnet.h"
#include "luq/models/registry.h"
#include "luq/models/vgg.h"
#include "luq/nn/layers.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

int64_t parameter_count(Module& model) {
  int64_t count = 0;
  for (const Parameter* parameter : model.parameters()) count += parameter->var.value().numel();
  return count;
}

std::map<std::string, Shape> parameter_shapes(Module& model) {
  std::map<std::string, Shape> shapes;
  for (const Parameter* parameter : model.parameters()) shapes.emplace(parameter->name, parameter->var.shape());
  CHECK(shapes.size() == model.parameters().size());  // no name twice
  return shapes;
}

Tensor parameter(Module& model, const std::string& name) {
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return parameter->var.value();
  }
  throw Error("no parameter " + name);
}

}  // namespace

TEST_CASE("the zoo is listed by name, sorted", "[models]") {
  const std::vector<std::string> names = model_names();
  CHECK(std::is_sorted(names.begin(), names.end()));
  for (const char* name : {"resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "vgg11_bn"}) {
    CHECK(std::count(names.begin(), names.end(), name) == 1);
  }
}

TEST_CASE("ImageNet models have torchvision's number of parameters", "[models]") {
  const auto [name, count] =
      GENERATE(std::pair<const char*, int64_t>{"resnet18", 11689512}, std::pair{"resnet34", 21797672},
               std::pair{"resnet50", 25557032}, std::pair{"resnet101", 44549160}, std::pair{"resnet152", 60192808},
               std::pair{"resnext50_32x4d", 25028904}, std::pair{"wide_resnet50_2", 68883240},
               std::pair{"alexnet", 61100840}, std::pair{"mobilenet_v2", 3504872}, std::pair{"vgg11", 132863336},
               std::pair{"vgg16", 138357544}, std::pair{"vgg19_bn", 143678248}, std::pair{"vit_b_16", 86567656});
  INFO(name);
  CHECK(parameter_count(*build_model(name, {.num_classes = 1000, .image_size = 224})) == count);
}

TEST_CASE("a model that needs larger images says so", "[models]") {
  CHECK_THROWS_AS(build_model("vgg16", {.image_size = 31}), UserError);
  CHECK_THROWS_WITH(build_model("vgg16", {.image_size = 31}),
                    contains_text("[model.name] vgg16 needs images of at least 32x32, got 31x31"));
  CHECK_THROWS_WITH(build_model("alexnet", {.image_size = 62}), contains_text("at least 63x63, got 62x62"));
  // The bounds are exact: the smallest image leaves one pixel in front of the average pool, the next smaller none.
  AlexNet alexnet({.hidden = 8, .num_classes = 3});
  Vgg vgg({.features = {2, 0, 2, 0, 2, 0, 2, 0, 2, 0}, .batch_norm = false, .hidden = 8, .num_classes = 3});
  Ctx ctx = make_ctx();
  ctx.training = false;
  for (const auto& [model, smallest] : {std::pair<Module*, int64_t>{&alexnet, 63}, {&vgg, 32}}) {
    model->set_name("");
    CHECK(model->forward(ctx, Var(Tensor::zeros({1, smallest, smallest, 3}))).shape() == Shape{1, 3});
    CHECK_THROWS_WITH(model->forward(ctx, Var(Tensor::zeros({1, smallest - 1, smallest - 1, 3}))),
                      contains_text("expected an image at least as large as the window"));
  }
}

TEST_CASE("a grouped bottleneck has torchvision's widths", "[models]") {
  const std::unique_ptr<Module> resnext = build_model("resnext50_32x4d", {}), wide = build_model("wide_resnet50_2", {});
  CHECK(parameter_shapes(*resnext).at("layer1.0.conv2.weight") == Shape{128, 3, 3, 4});
  CHECK(parameter_shapes(*resnext).at("layer4.2.conv2.weight") == Shape{1024, 3, 3, 32});
  CHECK(parameter_shapes(*resnext).at("layer4.2.conv3.weight") == Shape{2048, 1, 1, 1024});
  CHECK(parameter_shapes(*wide).at("layer1.0.conv2.weight") == Shape{128, 3, 3, 128});
}

TEST_CASE("MobileNetV2 has depthwise convolutions, and ReLU6 in the norms behind them", "[models]") {
  const std::unique_ptr<Module> model = make_model("mobilenet_v2", {}, 1);
  const std::map<std::string, Shape> shapes = parameter_shapes(*model);
  CHECK(shapes.at("features.1.conv.0.0.weight") == Shape{32, 3, 3, 1});
  CHECK(shapes.at("features.1.conv.1.weight") == Shape{16, 1, 1, 32});
  CHECK(shapes.at("features.2.conv.1.0.weight") == Shape{96, 3, 3, 1});
  CHECK(shapes.at("features.17.conv.3.bias") == Shape{320});
  CHECK(shapes.at("features.18.0.weight") == Shape{1280, 1, 1, 320});
  Ctx ctx = make_ctx();
  std::vector<PlanEntry> plan;
  ctx.plan = &plan;
  model->forward(ctx, Var(random_tensor({2, 32, 32, 3}, "x")));
  std::map<std::string, std::string> ops;
  for (const PlanEntry& entry : plan) ops[entry.name] = entry.op;
  CHECK(ops.at("features.0.1") == "batch_norm + relu6");
  CHECK(ops.at("features.2.conv.1.1") == "batch_norm + relu6");
  CHECK(ops.at("features.2.conv.3") == "batch_norm");
  CHECK(ops.at("features.3.conv.3") == "batch_norm + add");
}

TEST_CASE("AlexNet starts uniform within 1 / sqrt(fan_in), biases too", "[models]") {
  AlexNet model({.hidden = 64});
  model.set_name("");
  model.initialize(1);
  for (const auto& [name, fan_in] : {std::pair<const char*, double>{"features.0", 3 * 11 * 11},
                                     {"features.3", 64 * 5 * 5},
                                     {"features.10", 256 * 3 * 3},
                                     {"classifier.1", 256 * 6 * 6}}) {
    INFO(name);
    for (const char* kind : {".weight", ".bias"}) {
      const Tensor value = parameter(model, std::string(name) + kind);
      double largest = 0;
      for (const float x : values(value)) largest = std::max(largest, std::abs(static_cast<double>(x)));
      CHECK(largest <= 1 / std::sqrt(fan_in));
      // That none of n values is in the upper 15 / n of the bound's range has a probability of e^-15.
      CHECK(largest > (1 - 15 / static_cast<double>(value.numel())) / std::sqrt(fan_in));
    }
  }
}

TEST_CASE("CIFAR ResNets have the layers and parameters of the paper", "[models]") {
  const auto [name, blocks] = GENERATE(std::pair<const char*, int64_t>{"resnet20", 3}, std::pair{"resnet32", 5},
                                       std::pair{"resnet44", 7}, std::pair{"resnet56", 9});
  const std::unique_ptr<Module> model = make_model(name, {}, 0);
  // Stem; per stage with c channels: 2 convolutions of 9 c^2 and 2 norms of 2 c a block, the first of a later stage
  // reading c / 2 channels and having a 1x1 shortcut with a norm; 64 x 10 + 10 at the end.
  int64_t expected = 16 * 27 + 2 * 16;
  for (const int64_t c : {16, 32, 64}) {
    expected += blocks * (2 * 9 * c * c + 4 * c);
    if (c > 16) expected += c * c / 2 + 2 * c - 9 * c * c / 2;
  }
  expected += 650;
  CHECK(parameter_count(*model) == expected);
  if (blocks == 3) CHECK(parameter_count(*model) == 272474);
  CHECK(static_cast<int64_t>(model->matmul_layers().size()) == 6 * blocks + 2 + 2);
}

TEST_CASE("ResNet-18 has torchvision's parameters", "[models]") {
  const std::unique_ptr<Module> model = make_model("resnet18", {.num_classes = 1000}, 0);
  CHECK(parameter_count(*model) == 11689512);
  const std::map<std::string, Shape> shapes = parameter_shapes(*model);
  CHECK(shapes.size() == 62);
  CHECK(shapes.at("conv1.weight") == Shape{64, 7, 7, 3});
  CHECK(shapes.at("bn1.bias") == Shape{64});
  CHECK(shapes.at("layer2.0.conv1.weight") == Shape{128, 3, 3, 64});
  CHECK(shapes.at("layer2.0.downsample.0.weight") == Shape{128, 1, 1, 64});
  CHECK(shapes.at("layer2.0.downsample.1.weight") == Shape{128});
  CHECK(shapes.count("layer1.0.downsample.0.weight") == 0);
  CHECK(shapes.at("layer4.1.bn2.weight") == Shape{512});
  CHECK(shapes.at("fc.weight") == Shape{1000, 512});
}

TEST_CASE("VGG-11-BN has torchvision's parameters", "[models]") {
  // Unregistered, so that 132 million random numbers need not be drawn for their count.
  Vgg model({.features = {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0}});
  model.set_name("");
  CHECK(parameter_count(model) == 132868840);
  const std::map<std::string, Shape> shapes = parameter_shapes(model);
  CHECK(shapes.size() == 38);
  CHECK(shapes.at("features.0.weight") == Shape{64, 3, 3, 3});
  CHECK(shapes.at("features.0.bias") == Shape{64});
  CHECK(shapes.at("features.1.weight") == Shape{64});
  CHECK(shapes.at("features.25.weight") == Shape{512, 3, 3, 512});
  CHECK(shapes.at("classifier.0.weight") == Shape{4096, 25088});
  CHECK(shapes.at("classifier.3.bias") == Shape{4096});
  CHECK(shapes.at("classifier.6.weight") == Shape{1000, 4096});
}

TEST_CASE("buffers carry running statistics and activation scales", "[models]") {
  const std::unique_ptr<Module> model = make_model("resnet20", {}, 0);
  std::set<std::string> names;
  for (const Buffer* buffer : model->buffers()) names.insert(buffer->name);
  CHECK(names.size() == model->buffers().size());
  CHECK(names.count("bn1.running_mean") == 1);
  CHECK(names.count("layer3.2.bn2.running_var") == 1);
  CHECK(names.count("layer2.0.downsample.0.activation_scale") == 1);
  CHECK(names.count("fc.activation_scale") == 1);
  CHECK(names.size() == 2 * 21 + 22);
}

TEST_CASE("layers are listed in order, so that the first conv and the last linear are exempt", "[models]") {
  const std::unique_ptr<Module> model = make_model("resnet20", {}, 0);
  const std::vector<MatmulLayer> layers = model->matmul_layers();
  CHECK(layers.front().name == "conv1");
  CHECK(layers.back().name == "fc");
  CHECK(layers.back().kind == LayerKind::linear);
  QuantPolicy policy;
  policy.spec.weights.format = Format::int4;
  policy.exempt = {"*.downsample.*"};
  const QuantPlan plan(policy, layers);
  CHECK_FALSE(plan["conv1"].quantized());
  CHECK_FALSE(plan["fc"].quantized());
  CHECK_FALSE(plan["layer2.0.downsample.0"].quantized());
  CHECK(plan["layer1.0.conv1"].quantized());
}

TEST_CASE("initial values are keyed by seed and name", "[models]") {
  const std::unique_ptr<Module> a = make_model("resnet20", {}, 3), b = make_model("resnet20", {}, 3);
  const std::unique_ptr<Module> other = make_model("resnet20", {}, 4), deeper = make_model("resnet32", {}, 3);
  const std::string name = "layer3.1.conv1.weight";
  CHECK(values(parameter(*a, name)) == values(parameter(*b, name)));
  CHECK(values(parameter(*a, name)) != values(parameter(*other, name)));
  CHECK(values(parameter(*a, name)) == values(parameter(*deeper, name)));
  CHECK(values(parameter(*a, name)) != values(parameter(*a, "layer3.1.conv2.weight")));

  // 36,864 normal values with variance 2 / fan_out: mean within 5 and variance within 5 standard errors.
  const Tensor w = parameter(*a, name);
  const double variance = 2.0 / (64 * 9), count = static_cast<double>(w.numel());
  double sum = 0, square = 0, largest = 0;
  for (const float value : values(w)) {
    sum += value;
    square += static_cast<double>(value) * value;
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  }
  CHECK(std::abs(sum / count) < 5 * std::sqrt(variance / count));
  CHECK(std::abs(square / count - variance) < 5 * variance * std::sqrt(2 / count));
  CHECK(largest > 3.5 * std::sqrt(variance));
  CHECK(values(parameter(*a, "layer1.0.bn1.weight")) == std::vector<float>(16, 1.0f));
  CHECK(values(parameter(*a, "layer1.0.bn1.bias")) == std::vector<float>(16, 0.0f));
  // PyTorch's Linear: uniform within 1 / sqrt(64).
  double bound = 0;
  for (const float value : values(parameter(*a, "fc.weight")))
    bound = std::max(bound, std::abs(static_cast<double>(value)));
  CHECK(bound <= 0.125);
  CHECK(bound > 0.12);
}

TEST_CASE("initial values are those of the parameter's stream, one after the other", "[models]") {
  Vgg model({.features = {40, 0}, .pooled_size = 1, .hidden = 2001, .num_classes = 9});
  model.set_name("");
  model.initialize(3);
  for (const char* name : {"features.0.weight", "classifier.0.weight", "classifier.3.weight"}) {
    RngStream stream(make_rng_key(3, std::string("init:") + name));
    const Tensor w = parameter(model, name);
    const float std = name[0] == 'c' ? 0.01f : std::sqrt(2.0f / (40 * 9));
    int64_t different = 0;
    for (const float value : values(w)) {
      const double radius = std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(stream.uniform())));
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(stream.uniform());
      different += value != std * static_cast<float>(radius * std::cos(angle));
    }
    CHECK(different == 0);
  }
  Linear linear(7, 3003);
  linear.set_name("fc");
  linear.initialize(3);
  RngStream stream(make_rng_key(3, "init:fc.weight"));
  int64_t different = 0;
  for (const float value : values(parameter(linear, "fc.weight"))) {
    different += value != 1.0f / std::sqrt(7.0f) * (2.0f * stream.uniform() - 1.0f);
  }
  CHECK(different == 0);
}

TEST_CASE("models take any image size and channel count", "[models]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  for (const auto& [channels, size] : {std::pair<int64_t, int64_t>{1, 28}, {3, 32}, {2, 9}}) {
    const std::unique_ptr<Module> model = make_model("resnet20", {.in_channels = channels, .num_classes = 7}, 0);
    const Var y = model->forward(ctx, Var(random_tensor({2, size, size, channels}, "x")));
    CHECK(y.shape() == Shape{2, 7});
    tape.clear();
  }
  const std::unique_ptr<Module> model = make_model("resnet20", {.in_channels = 3}, 0);
  CHECK_THROWS_WITH(model->forward(ctx, Var(Tensor::zeros({2, 8, 8, 1}))),
                    contains_text("[conv2d] conv1: expected C_in=3") && contains_text("got 1 in x (2,8,8,1)"));
}

TEST_CASE("a small VGG runs where its pooling divides the image and where it must replicate", "[models]") {
  Vgg model({.features = {4, 0, 8, 0}, .pooled_size = 2, .hidden = 16, .num_classes = 3});
  model.set_name("");
  model.initialize(1);
  Ctx ctx = make_ctx();
  for (const int64_t size : {4, 8, 12, 16}) {
    CHECK(model.forward(ctx, Var(random_tensor({2, size, size, 3}, "x"))).shape() == Shape{2, 3});
  }
  CHECK_THROWS_WITH(model.forward(ctx, Var(Tensor::zeros({2, 2, 2, 3}))),
                    contains_text("[max_pool2d] expected an image"));
}

TEST_CASE("an unknown model is named with the nearest and all others", "[models]") {
  CHECK_THROWS_AS(make_model("resnet21", {}, 0), UserError);
  CHECK_THROWS_WITH(make_model("resnet2", {}, 0), contains_text("there is no model 'resnet2'") &&
                                                      contains_text("did you mean resnet20") &&
                                                      contains_text("vgg11_bn"));
  CHECK_THROWS_WITH(register_model("resnet20", nullptr), contains_text("'resnet20' is registered already"));
}

TEST_CASE("a model can be registered from outside", "[models]") {
  register_model("test_linear", [](const ModelOptions& options) {
    auto model = std::make_unique<Sequential>();
    model->append<Linear>(options.in_channels, options.num_classes);
    return model;
  });
  const std::unique_ptr<Module> model = make_model("test_linear", {.in_channels = 4, .num_classes = 2}, 0);
  CHECK(parameter_shapes(*model).at("0.weight") == Shape{2, 4});
}
