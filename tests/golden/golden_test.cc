// ResNet-20 and a small VGG against PyTorch in float64 (make_golden.py): logits, every parameter's gradient, and what
// ten steps of SGD make of parameters, running statistics and the loss.

#include <cmath>

#include <fmt/format.h>

#include "luq/core/safetensors.h"
#include "luq/models/registry.h"
#include "luq/models/vgg.h"
#include "luq/train/optimizer.h"
#include "tests/catch.h"
#include "tests/golden/golden.h"
#include "tests/places.h"

using namespace luq;
using namespace luq::test;

namespace {

constexpr int kSteps = 10;
constexpr int64_t kBatch = 8, kClasses = 10;

// About a hundred roundings to float32, of results that are sums of thousands of terms.
constexpr double kTolerance = 1e-5;

// The constants of make_golden.py for one model. apart: the ten steps start from norms that keep ReLU inputs apart
// from 0. whole: the file holds parameters' values, not their signed sums.
struct Recipe {
  const char* name;
  int64_t size;
  int first_batch;
  bool apart, whole;
  OptimizerConfig optimizer;
};

// As fill() of make_golden.py.
void fill(Module& model, bool apart) {
  for (Parameter* parameter : model.parameters()) {
    const std::string& name = parameter->name;
    const Shape& shape = parameter->var.shape();
    const bool bias = name.find("bias") != std::string::npos, moved = apart && name.find("fc") == std::string::npos;
    float low = bias ? -0.2f : 0.7f, high = bias ? 0.2f : 1.3f;
    if (shape.rank() > 1) {
      const double shrink = apart && name.rfind("fc", 0) == 0 ? 0.1 : 1.0;
      high = static_cast<float>(std::sqrt(6.0 / static_cast<double>(shape.numel() / shape[0])) * shrink);
      low = -high;
    } else if (moved) {
      low = bias ? 0.7f : 0.05f;
      high = bias ? 1.0f : 0.1f;
    }
    const Tensor filled = random_tensor(shape, name, low, high);
    float* value = parameter->var.value().data<float>();
    std::copy_n(filled.data<float>(), shape.numel(), value);
    if (moved && name.size() > 9 && name.compare(name.size() - 9, 9, ".bn1.bias") == 0) {
      for (int64_t c = 1; c < shape[0]; c += 2) value[c] = -value[c];
    }
  }
}

Tensor images(const Recipe& recipe, int step) {
  return random_tensor({kBatch, recipe.size, recipe.size, 3}, fmt::format("images:{}", recipe.first_batch + step));
}

Tensor labels(const Recipe& recipe, int step) {
  Tensor labels = Tensor::empty({kBatch}, DType::int32);
  RngStream stream(make_rng_key(1, fmt::format("labels:{}", recipe.first_batch + step)));
  for (int64_t i = 0; i < kBatch; ++i) labels.data<int32_t>()[i] = static_cast<int32_t>(stream.bits() % kClasses);
  return labels;
}

class Golden {
 public:
  explicit Golden(const Recipe& recipe)
      : file_(load_safetensors(fmt::format("{}/tests/golden/{}.safetensors", source_folder(), recipe.name))),
        whole_(recipe.whole) {
    REQUIRE(file_.metadata.at("pytorch").size() > 0);
  }
  // The distance from the stored tensor is within kTolerance of that one's norm, plus `absolute`.
  void check(const std::string& key, const Tensor& actual, double absolute = 0) const {
    INFO(key);
    const Tensor& expected = stored(key, actual.shape());
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < expected.numel(); ++i) {
      const double a = actual.data<float>()[i], b = expected.data<float>()[i];
      difference += (a - b) * (a - b);
      norm += b * b;
    }
    CHECK(std::sqrt(difference) <= kTolerance * std::sqrt(norm) + absolute);
  }
  // The same for a parameter's values, of which a file that is not whole holds signed sums: each is off by about the
  // norm of the errors, if these are independent.
  void check_parameter(const std::string& key, const std::string& name, const Tensor& actual, double absolute) const {
    if (whole_) return check(key + name, actual, absolute);
    INFO(key + name);
    const Tensor& expected = stored(key + name, {17});
    const Tensor sums = signed_sums(name, actual);
    double largest = 0;
    for (int64_t i = 0; i < 17; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(sums.data<float>()[i]) - expected.data<float>()[i]));
    }
    CHECK(largest <= kTolerance * expected.data<float>()[0] + absolute);
  }

 private:
  const Tensor& stored(const std::string& key, const Shape& shape) const {
    const Tensor* tensor = file_.find(key);
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->shape() == shape);
    return *tensor;
  }

  SafeTensors file_;
  bool whole_;
};

// Forward and backward of one batch; the logits and the loss.
std::pair<Tensor, float> forward_backward(Module& model, const Recipe& recipe, int step) {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  ctx.seed = 1;
  ctx.step = static_cast<uint64_t>(step);
  const Var logits = model.forward(ctx, Var(images(recipe, step)));
  const LossResult result = softmax_cross_entropy(ctx, logits, labels(recipe, step), 0.1f);
  tape.backward(result.loss);
  return {logits.value(), result.loss.value().data<float>()[0]};
}

void compare_gradients(Module& model, const Recipe& recipe) {
  const Golden golden(recipe);
  fill(model, false);
  golden.check("logits", forward_backward(model, recipe, 0).first);
  for (const Parameter* parameter : model.parameters()) {
    // The absolute part is for biases in front of a batch norm, whose gradient is 0 but for rounding.
    golden.check_parameter("gradient:", parameter->name, parameter->var.grad(), 1e-6);
  }
}

void compare_steps(Module& model, const Recipe& recipe) {
  const Golden golden(recipe);
  fill(model, recipe.apart);
  const std::vector<Parameter*> parameters = model.parameters();
  std::vector<Tensor> start;
  for (const Parameter* parameter : parameters) start.push_back(parameter->var.value().clone());
  const auto optimizer = make_optimizer(recipe.optimizer, parameters, kernels_for({}));
  std::vector<float> losses;
  for (int step = 0; step < kSteps; ++step) {
    losses.push_back(forward_backward(model, recipe, step).second);
    optimizer->step(recipe.optimizer.lr);
  }
  golden.check("losses", tensor_of({kSteps}, losses));
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i]->name;
    Tensor update = parameters[i]->var.value().clone();
    for (int64_t k = 0; k < update.numel(); ++k) update.data<float>()[k] -= start[i].data<float>()[k];
    // Each step rounds the parameter itself, which is far larger than its update.
    golden.check_parameter("update:", name, update, kSteps * 0x1p-24 * norm(start[i]));
  }
  for (const Buffer* buffer : model.buffers()) {
    if (buffer->name.find("running") != std::string::npos) golden.check("buffer:" + buffer->name, buffer->value);
  }
  Ctx ctx = make_ctx();
  ctx.training = false;
  golden.check("eval_logits", model.forward(ctx, Var(images(recipe, kSteps - 1))).value());
}

OptimizerConfig sgd(double lr, bool nesterov, double weight_decay) {
  OptimizerConfig config;
  config.lr = lr;
  config.nesterov = nesterov;
  config.weight_decay = weight_decay;
  return config;
}

const Recipe resnet20{"resnet20", 16, 0, true, false, sgd(0.01, true, 5e-4)};
const Recipe vgg_small{"vgg_small", 12, 360, false, true, sgd(0.02, false, 1e-3)};

std::unique_ptr<Module> new_resnet20() { return make_model("resnet20", {.num_classes = kClasses}, 0); }

std::unique_ptr<Module> new_vgg_small() {
  auto model = std::make_unique<Vgg>(
      VggOptions{.features = {8, 0, 16, 0}, .pooled_size = 2, .hidden = 32, .num_classes = kClasses});
  model->set_name("");
  return model;
}

}  // namespace

TEST_CASE("ResNet-20: logits and gradients as in PyTorch", "[golden]") { compare_gradients(*new_resnet20(), resnet20); }

TEST_CASE("ResNet-20: ten steps as in PyTorch", "[golden]") { compare_steps(*new_resnet20(), resnet20); }

TEST_CASE("a small VGG: logits and gradients as in PyTorch", "[golden]") {
  compare_gradients(*new_vgg_small(), vgg_small);
}

TEST_CASE("a small VGG: ten steps as in PyTorch", "[golden]") { compare_steps(*new_vgg_small(), vgg_small); }
