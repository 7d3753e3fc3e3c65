// Every model of the zoo at full size against torchvision's in float64 (make_zoo.py): names and shapes, logits, and the
// gradients of one of each kind.

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "luq/core/safetensors.h"
#include "luq/models/registry.h"
#include "luq/nn/stored_layout.h"
#include "luq/ops/loss.h"
#include "tests/catch.h"
#include "tests/golden/golden.h"
#include "tests/places.h"

using namespace luq;
using namespace luq::test;

namespace {

constexpr int64_t kBatch = 2, kSize = 224, kClasses = 1000;

bool ends_with(const std::string& name, std::initializer_list<const char*> ends) {
  return std::any_of(ends.begin(), ends.end(), [&name](const char* end) { return name.ends_with(end); });
}

float on_grid(float x, float steps) { return std::floor(x * steps + 0.5f) / steps; }

// ---- Values, as in make_zoo.py; shapes and order are torchvision's --------------------------------------------------

Tensor value(const std::string& name, const Shape& shape) {
  if (shape.rank() > 1) {
    const auto bound = static_cast<float>(std::sqrt(6.0 / static_cast<double>(shape.numel() / shape[0])));
    return random_tensor(shape, name, -bound, bound);
  }
  if (ends_with(name, {".bn2.weight", ".bn3.weight", ".conv.2.weight", ".conv.3.weight"})) {
    return random_tensor(shape, name, 0.25f, 0.5f);
  }
  if (ends_with(name, {".weight", ".running_var"})) return random_tensor(shape, name, 0.7f, 1.3f);
  return random_tensor(shape, name, -0.2f, 0.2f);
}

Tensor value_apart(const std::string& name, const Shape& shape) {
  const auto has = [&name](const char* part) { return name.find(part) != std::string::npos; };
  const bool head = name.starts_with("fc.") || name.starts_with("classifier.");
  Tensor result;
  if (name == "conv1.weight") {
    result = random_tensor(shape, name, -0.25f, 0.25f);
    float* x = result.data<float>();
    std::transform(x, x + result.numel(), x, [](float v) { return on_grid(v, 64); });
    return result;
  }
  if (shape.rank() > 1 || head || has(".conv.2.") || has(".conv.3.") || has("running")) {
    result = value(name, shape);
    float* x = result.data<float>();
    if (head) std::transform(x, x + result.numel(), x, [](float v) { return v * 0.1f; });
    return result;
  }
  if (name.ends_with(".weight")) return random_tensor(shape, name, 0.04f, 0.08f);
  result = random_tensor(shape, name, 0.7f, 1.0f);
  for (int64_t c = 0; c < shape[0]; ++c) {
    float& bias = result.data<float>()[c];
    if (name.ends_with("bn1.bias") && c % 2 == 1) bias = -bias;
    if (!ends_with(name, {".0.1.bias", ".1.1.bias"})) continue;
    if (c % 3 == 1) bias = -bias;
    if (c % 3 == 2) bias += 6;
  }
  return result;
}

Tensor images() {
  Tensor pixels = random_tensor({kBatch, kSize, kSize, 3}, "images", -0.5f, 0.5f);
  const Tensor squares = random_tensor({kBatch, kSize / 32, kSize / 32, 3}, "squares");
  for (int64_t i = 0; i < pixels.numel(); ++i) {
    const int64_t c = i % 3, x = i / 3 % kSize / 32, y = i / (3 * kSize) % kSize / 32, n = i / (3 * kSize * kSize);
    float& pixel = pixels.data<float>()[i];
    pixel = on_grid(pixel + squares.data<float>()[((n * (kSize / 32) + y) * (kSize / 32) + x) * 3 + c], 8);
  }
  return pixels;
}

Tensor labels() {
  Tensor labels = Tensor::empty({kBatch}, DType::int32);
  RngStream stream(make_rng_key(1, "labels"));
  for (int64_t i = 0; i < kBatch; ++i) labels.data<int32_t>()[i] = static_cast<int32_t>(stream.bits() % kClasses);
  return labels;
}

// ---- Comparison
// ------------------------------------------------------------------------------------------------------

std::unique_ptr<Module> new_model(const std::string& name, Tensor (*values)(const std::string&, const Shape&)) {
  std::unique_ptr<Module> model = build_model(name, {.in_channels = 3, .num_classes = kClasses, .image_size = kSize});
  const auto copy = [](const Tensor& from, Tensor& to) {
    REQUIRE(from.shape() == to.shape());
    std::copy_n(from.data<float>(), from.numel(), to.data<float>());
  };
  for (Parameter* parameter : model->parameters()) {
    copy(from_stored_layout(*parameter, values(parameter->name, stored_shape(*parameter))), parameter->var.value());
  }
  for (Buffer* buffer : model->buffers()) {
    if (!buffer->name.ends_with(".activation_scale")) copy(values(buffer->name, buffer->value.shape()), buffer->value);
  }
  return model;
}

SafeTensors load_golden(const std::string& name) {
  SafeTensors file = load_safetensors(source_folder() + "/tests/golden/zoo/" + name + ".safetensors");
  REQUIRE(file.metadata.at("torchvision").size() > 0);
  return file;
}

const Tensor& stored(const SafeTensors& file, const std::string& key, const Shape& shape) {
  INFO(key);
  const Tensor* tensor = file.find(key);
  REQUIRE(tensor != nullptr);
  REQUIRE(tensor->shape() == shape);
  return *tensor;
}

// Within 1e-4 of the stored ones' norm, and everywhere within 1e-4 of the largest of them.
void check_logits(const SafeTensors& file, const std::string& key, const Tensor& logits) {
  const Tensor expected = stored(file, key, {kBatch, kClasses});
  REQUIRE(logits.shape() == expected.shape());
  Tensor difference = Tensor::empty(logits.shape());
  double largest = 0, largest_difference = 0;
  for (int64_t i = 0; i < logits.numel(); ++i) {
    const float a = logits.data<float>()[i], b = expected.data<float>()[i];
    difference.data<float>()[i] = a - b;
    largest = std::max(largest, std::abs(static_cast<double>(b)));
    largest_difference = std::max(largest_difference, std::abs(static_cast<double>(a) - b));
  }
  CHECK(norm(difference) <= 1e-4 * norm(expected));
  CHECK(largest_difference <= 1e-4 * largest);
}

}  // namespace

TEST_CASE("torchvision's names, shapes and logits", "[zoo]") {
  const std::string name =
      GENERATE(as<std::string>{}, "alexnet", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101",
               "resnet152", "resnext50_32x4d", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19",
               "vgg19_bn", "vit_b_16", "wide_resnet50_2");
  CAPTURE(name);
  const SafeTensors file = load_golden(name);
  const std::unique_ptr<Module> model = new_model(name, value);

  std::map<std::string, std::vector<int64_t>> shapes;
  const auto add = [&shapes](const std::string& key, const Shape& shape) {
    CHECK(shapes.emplace(key, std::vector<int64_t>(shape.begin(), shape.end())).second);
  };
  for (const Parameter* parameter : model->parameters()) add(parameter->name, stored_shape(*parameter));
  for (const Buffer* buffer : model->buffers()) {
    if (!buffer->name.ends_with(".activation_scale")) add(buffer->name, buffer->value.shape());
  }
  CHECK(nlohmann::json(shapes) == nlohmann::json::parse(file.metadata.at("state_dict")));

  Ctx ctx = make_ctx();
  ctx.training = false;
  check_logits(file, "logits", model->forward(ctx, Var(images())).value());
}

TEST_CASE("torchvision's gradients", "[zoo]") {
  const auto [name, values] =
      GENERATE(table<std::string, Tensor (*)(const std::string&, const Shape&)>({{"mobilenet_v2", value_apart},
                                                                                 {"resnet18", value_apart},
                                                                                 {"resnext50_32x4d", value_apart},
                                                                                 {"vgg11", value},
                                                                                 {"vit_b_16", value}}));
  CAPTURE(name);
  const SafeTensors file = load_golden(name);
  const std::unique_ptr<Module> model = new_model(name, values);
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  ctx.seed = 1;
  const Var logits = model->forward(ctx, Var(images()));
  check_logits(file, "training_logits", logits.value());
  tape.backward(softmax_cross_entropy(ctx, logits, labels()).loss);
  for (const Parameter* parameter : model->parameters()) {
    INFO(parameter->name);
    const Tensor expected = stored(file, "gradient:" + parameter->name, {17});
    const double off = stored(file, "off:" + parameter->name, {1}).data<float>()[0];
    const Tensor sums = signed_sums(parameter->name, to_stored_layout(*parameter, parameter->var.grad()));
    double largest = 0;
    for (int64_t i = 0; i < 17; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(sums.data<float>()[i]) - expected.data<float>()[i]));
    }
    // Twice what another float32 computation is off, and four standard deviations of a signed sum of that.
    CHECK(largest <= 8 * off + 1e-6 * expected.data<float>()[0]);
  }
}
