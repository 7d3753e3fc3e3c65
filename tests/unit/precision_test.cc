// precision: bfloat16, from the configuration to the last op.

#include <cmath>

#include "luq/config/load.h"
#include "luq/core/allocator.h"
#include "luq/train/step_runner.h"
#include "tests/catch.h"

using namespace luq;

namespace {

std::vector<float> losses(const std::string& precision, const std::string& quantization, int64_t threads) {
  const std::string yaml =
      "seed: 3\nmodel: {name: resnet20}\ndata: {name: synthetic, synthetic: {train_images: 16, test_images: 1, "
      "image_size: 32}}\n"
      "optimizer: {lr: 0.001}\nlr_scheduler: {name: constant}\ntrain: {batch_size: 16}\nthreads: " +
      std::to_string(threads) + "\nprecision: " + precision + "\n" + quantization;
  StepRunner runner(parse_experiment(yaml, "test", {}));
  std::vector<float> all;
  for (int i = 0; i < 4; ++i) all.push_back(runner.step().loss);
  return all;
}

const std::string luq_policy =
    "quantization:\n  weights: {format: int4, scale: sawb}\n  activations: {format: int4, scale: sawb}\n"
    "  gradients: {format: fp4, scale: max, rounding: stochastic}\n";

}  // namespace

TEST_CASE("Steps in bfloat16 stay near those in float32, and are the same for any threads", "[train][bfloat16]") {
  const std::string policy = GENERATE(std::string(), luq_policy);
  CAPTURE(policy);
  const std::vector<float> wide = losses("float32", policy, 2), narrow = losses("bfloat16", policy, 2);
  for (size_t i = 0; i < wide.size(); ++i) {
    CAPTURE(i, wide[i], narrow[i]);
    CHECK(std::abs(narrow[i] - wide[i]) < 0.1f * wide[i]);
  }
  CHECK(std::abs(narrow[0] - wide[0]) < 0.05f * wide[0]);
  CHECK(narrow != wide);
  CHECK(narrow.back() < narrow.front());
  CHECK(losses("bfloat16", policy, 1) == narrow);
}

TEST_CASE("train.recompute changes the memory of a step and not a bit of its results", "[train][recompute]") {
  const auto run = [](bool recompute, const std::string& precision, const std::string& model) {
    const std::string yaml =
        "seed: 3\nmodel: {name: " + model +
        "}\ndata: {name: synthetic, synthetic: {train_images: 16, test_images: 1, "
        "image_size: 32}}\noptimizer: {lr: 0.01}\nlr_scheduler: {name: constant}\ntrain: {batch_size: 16, recompute: " +
        std::string(recompute ? "true" : "false") + "}\nthreads: 2\nprecision: " + precision + "\n" + luq_policy;
    StepRunner runner(parse_experiment(yaml, "test", {}));
    runner.step();
    reset_peak_memory();
    const int64_t before = memory_stats().live_bytes;
    std::vector<float> losses;
    for (int i = 0; i < 3; ++i) losses.push_back(runner.step().loss);
    return std::pair(losses, memory_stats().peak_bytes - before);
  };
  const auto compare = [&](const char* precision, const char* model, double most) {
    const auto [kept, kept_bytes] = run(false, precision, model);
    const auto [made_again, bytes] = run(true, precision, model);
    CAPTURE(precision, model, kept_bytes, bytes);
    CHECK(kept == made_again);
    CHECK(static_cast<double>(bytes) < most * static_cast<double>(kept_bytes));
  };
  compare("float32", "resnet20", 0.75);
  compare("bfloat16", "resnet20", 0.75);
  compare("float32", "vgg11_bn", 1);  // whose convolutions have a bias, and whose gradients of weights are most of it
}
