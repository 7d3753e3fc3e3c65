// Micro-batches and clipping against plain steps, on a model without batch norm.
#include "src/train/training_step.h"

#include <algorithm>
#include <cmath>

#include "luq/core/error.h"
#include "luq/nn/layers.h"
#include "tests/catch.h"

namespace luq {
namespace {

std::vector<uint32_t> seen_micro_batches;

class SmallNet : public Module {
 public:
  explicit SmallNet(const ModelOptions& options)
      : conv_(register_module<Conv2d>("conv", options.in_channels, 6,
                                      Conv2dLayerOptions{.kernel = 3, .conv = {.padding = 1}, .bias = true})),
        fc_(register_module<Linear>("fc", 6, options.num_classes)) {}
  Var forward(Ctx& ctx, const Var& x) override {
    seen_micro_batches.push_back(ctx.micro_batch);
    return fc_.forward(ctx, global_avg_pool(ctx, relu(ctx, conv_.forward(ctx, x))));
  }

 private:
  Conv2d& conv_;
  Linear& fc_;
};

ExperimentConfig small_config() {
  static const bool registered = [] {
    register_model("training_step_test",
                   [](const ModelOptions& options) { return std::make_unique<SmallNet>(options); });
    return true;
  }();
  (void)registered;
  ExperimentConfig config;
  config.model.name = "training_step_test";
  config.data.name = "synthetic";
  config.data.synthetic = {.train_images = 48, .test_images = 8, .image_size = 8, .channels = 3, .num_classes = 5};
  config.train.batch_size = 12;
  config.train.label_smoothing = 0.1;
  return config;
}

struct Run {
  std::vector<float> start, end;  // all parameters
  std::vector<StepOutcome> outcomes;
};

Run run_steps(const ExperimentConfig& config, int steps) {
  ExperimentParts parts = make_parts(config, true);
  const auto optimizer = make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels);
  Loader loader(parts.train_set, transform_options(config), {.batch_size = config.train.batch_size, .shuffle = true});
  loader.start(0);
  Run run;
  const auto copy = [&](std::vector<float>& to) {
    for (Parameter* parameter : parts.model->parameters()) {
      const Tensor& value = parameter->var.value();
      to.insert(to.end(), value.data<float>(), value.data<float>() + value.numel());
    }
  };
  copy(run.start);
  for (int step = 0; step < steps; ++step) {
    Batch batch;
    REQUIRE(loader.next(batch));
    Ctx ctx = parts.context(config);
    ctx.training = true;
    ctx.step = static_cast<uint64_t>(step);
    run.outcomes.push_back(training_step(config, parts, ctx, *optimizer, batch, config.optimizer.lr));
  }
  copy(run.end);
  return run;
}

}  // namespace

TEST_CASE("training step: micro-batches give what the whole batch gives, but for rounding", "[training_step]") {
  for (const char* optimizer : {"sgd", "adamw"}) {
    ExperimentConfig config = small_config();
    config.optimizer.name = optimizer;
    config.optimizer.lr = 0.05;
    config.optimizer.eps = 1e-3;  // a gradient near 0 is not blown up, nor its rounding with it
    const Run whole = run_steps(config, 4);
    for (const int64_t count : {2, 3, 12}) {
      INFO(optimizer << ", " << count << " micro-batches");
      config.train.micro_batches = count;
      seen_micro_batches.clear();
      const Run parts = run_steps(config, 4);
      for (size_t i = 0; i < seen_micro_batches.size(); ++i) {
        REQUIRE(seen_micro_batches[i] == static_cast<uint32_t>(i % static_cast<size_t>(count)));
      }
      REQUIRE(seen_micro_batches.size() == static_cast<size_t>(4 * count));
      double moved = 0;
      for (size_t i = 0; i < whole.end.size(); ++i) {
        moved = std::max(moved, static_cast<double>(std::fabs(whole.end[i] - whole.start[i])));
      }
      REQUIRE(moved > 1e-3);
      // Each of four steps rounds a sum of at most 12 x 64 terms in another order.
      for (size_t i = 0; i < whole.end.size(); ++i) {
        REQUIRE(std::fabs(static_cast<double>(parts.end[i] - whole.end[i])) <= 4 * 28 * 0x1p-24 * (1 + moved));
      }
      for (size_t step = 0; step < 4; ++step) {
        CHECK(parts.outcomes[step].loss == Approx(whole.outcomes[step].loss).epsilon(1e-5));
        CHECK(parts.outcomes[step].correct == whole.outcomes[step].correct);
        CHECK_FALSE(parts.outcomes[step].gradient_norm.has_value());
      }
    }
  }
}

TEST_CASE("training step: a batch that broken images left smaller than its micro-batches", "[training_step]") {
  ExperimentConfig config = small_config();
  const auto run = [&](int64_t micro_batches) {
    config.train.micro_batches = micro_batches;
    ExperimentParts parts = make_parts(config, true);
    const auto optimizer = make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels);
    Loader loader(parts.train_set, transform_options(config), {.batch_size = config.train.batch_size});
    loader.start(0);
    Batch batch;
    REQUIRE(loader.next(batch));
    Ctx ctx = parts.context(config);
    ctx.training = true;
    return training_step(config, parts, ctx, *optimizer, batch.part(0, 3), config.optimizer.lr);
  };
  const StepOutcome whole = run(1), parts = run(12);
  CHECK(parts.loss == Approx(whole.loss).epsilon(1e-6));
  CHECK(parts.correct == whole.correct);
}

TEST_CASE("training step: a larger norm is clipped as torch.nn.utils.clip_grad_norm_ does", "[training_step]") {
  ExperimentConfig config = small_config();
  config.optimizer.momentum = 0;
  config.optimizer.weight_decay = 0;
  config.optimizer.lr = 1;
  const Run plain = run_steps(config, 1);
  double squares = 0;
  for (size_t i = 0; i < plain.end.size(); ++i) {
    const double gradient = static_cast<double>(plain.start[i]) - static_cast<double>(plain.end[i]);
    squares += gradient * gradient;
  }
  const double norm = std::sqrt(squares);
  for (const double most : {0.25 * norm, 4 * norm}) {
    for (const int64_t count : {1, 3}) {
      config.train.clip_grad_norm = most;
      config.train.micro_batches = count;
      const Run clipped = run_steps(config, 1);
      REQUIRE(clipped.outcomes[0].gradient_norm.has_value());
      CHECK(*clipped.outcomes[0].gradient_norm == Approx(norm).epsilon(1e-4));
      const double factor = std::min(1.0, most / (norm + 1e-6));
      for (size_t i = 0; i < plain.end.size(); ++i) {
        const double expected = static_cast<double>(plain.start[i]) +
                                factor * (static_cast<double>(plain.end[i]) - static_cast<double>(plain.start[i]));
        REQUIRE(std::fabs(static_cast<double>(clipped.end[i]) - expected) <= 1e-6);
      }
    }
  }
}

TEST_CASE("training step: a norm that is not finite stops the run and leaves the parameters", "[training_step]") {
  ExperimentConfig config = small_config();
  config.train.clip_grad_norm = 1;
  ExperimentParts parts = make_parts(config, true);
  const auto optimizer = make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels);
  Parameter& first = *parts.model->parameters().front();
  const float before = first.var.value().data<float>()[0];
  first.var.slot()->grad = Tensor::full(first.var.shape(), INFINITY);
  Batch batch{ImageBatch::of(Tensor::zeros({12, 8, 8, 3}, DType::uint8), 1, 0), Tensor::zeros({12}, DType::int32)};
  Ctx ctx = parts.context(config);
  ctx.training = true;
  CHECK_THROWS_AS(training_step(config, parts, ctx, *optimizer, batch, 0.1), Error);
  CHECK(first.var.value().data<float>()[0] == before);
}

TEST_CASE("training step: settings that do not fit are refused", "[training_step]") {
  ExperimentConfig config = small_config();
  config.train.micro_batches = 5;
  CHECK_THROWS_AS(make_parts(config, true), UserError);
  config.train.micro_batches = 12;
  make_parts(config, true);
  config.model.name = "resnet20";
  CHECK_THROWS_AS(make_parts(config, true), UserError);  // one image for a batch norm
  config.train.micro_batches = 6;
  make_parts(config, true);
}

TEST_CASE("training step: a part of a batch holds its images and labels", "[training_step]") {
  Batch batch{ImageBatch::of(Tensor::zeros({5, 2, 1, 3}, DType::uint8), 1, 0), Tensor::zeros({5}, DType::int32)};
  for (int i = 0; i < 30; ++i) batch.images.pixels.data<uint8_t>()[i] = static_cast<uint8_t>(i);
  for (int i = 0; i < 5; ++i) batch.labels.data<int32_t>()[i] = i;
  const Batch part = batch.part(2, 2);
  const Tensor images = finish_images(kernels_for({}), part.images, DType::float32);
  CHECK(images.shape() == Shape{2, 2, 1, 3});
  CHECK(images.data<float>()[0] == 12);
  CHECK(images.data<float>()[11] == 23);
  CHECK(part.labels.data<int32_t>()[1] == 3);
  CHECK_THROWS_AS(batch.part(4, 2), Error);
}

}  // namespace luq
