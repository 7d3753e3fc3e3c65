#include "luq/train/lr_scheduler.h"

#include <cmath>
#include <vector>

#include "luq/core/error.h"
#include "tests/catch.h"

namespace luq {
namespace {

LrSchedulerConfig named(const std::string& name) {
  LrSchedulerConfig config;
  config.name = name;
  return config;
}

// base 0.2, 3 epochs of 4 steps.
void check_rates(const LrSchedulerConfig& config, const std::vector<double>& expected) {
  const LrHorizon horizon{3, 4};
  check_lr_schedule(config, horizon);
  for (size_t step = 0; step < expected.size(); ++step) {
    INFO(config.name << " step " << step);
    CHECK(learning_rate(config, 0.2, horizon, static_cast<int64_t>(step)) == Approx(expected[step]).epsilon(1e-12));
  }
}

}  // namespace

// The expected values are those of torch.optim.lr_scheduler (2.15), one scheduler step after each optimiser step.

TEST_CASE("lr_scheduler: cosine is CosineAnnealingLR(12, eta_min=0.01)", "[lr_scheduler]") {
  LrSchedulerConfig config = named("cosine");
  config.min_lr = 0.01;
  check_rates(config, {0.2, 0.19676295349746148, 0.1872724133595217, 0.172175144212722, 0.1525, 0.12958780928473948,
                       0.105, 0.08041219071526054, 0.05750000000000003, 0.037824855787278, 0.022727586640478324,
                       0.013237046502538522, 0.01, 0.01});
}

TEST_CASE("lr_scheduler: one_cycle is OneCycleLR(0.2, total_steps=12)", "[lr_scheduler]") {
  check_rates(named("one_cycle"), {0.008000000000000007, 0.0699579308439166, 0.17585703182442575, 0.19888308709018238,
                                   0.18660259396828235, 0.1623491307899526, 0.12947579953902066, 0.09252742053339501,
                                   0.056612199641739844, 0.02669550603776612, 0.006913397485079045, 8e-07, 8e-07});
}

TEST_CASE("lr_scheduler: linear is LinearLR(1, 0.1, 12)", "[lr_scheduler]") {
  LrSchedulerConfig config = named("linear");
  config.min_lr = 0.02;
  check_rates(config, {0.2, 0.185, 0.17, 0.155, 0.14, 0.125, 0.11, 0.095, 0.08, 0.065, 0.05, 0.035, 0.02, 0.02});
}

TEST_CASE("lr_scheduler: step is MultiStepLR([4, 10])", "[lr_scheduler]") {
  LrSchedulerConfig config = named("step");
  config.milestones = {1, 2.5};
  check_rates(config, {0.2, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.002, 0.002, 0.002});
}

TEST_CASE("lr_scheduler: warm-up is SequentialLR([LinearLR(0.1, 1, 3), CosineAnnealingLR(9, 0.01)])",
          "[lr_scheduler]") {
  LrSchedulerConfig config = named("cosine");
  config.warmup_epochs = 0.75;
  config.warmup_start_factor = 0.1;
  config.min_lr = 0.01;
  check_rates(config, {0.02, 0.08, 0.14, 0.2, 0.19427079897466132, 0.17777422209630292, 0.1525, 0.12149657687835841,
                       0.08850342312164163, 0.0575, 0.0322257779036971, 0.01572920102533871});
}

TEST_CASE("lr_scheduler: constant, and a warm-up as long as the run", "[lr_scheduler]") {
  check_rates(named("constant"), std::vector<double>(20, 0.2));
  LrSchedulerConfig config = named("linear");
  config.warmup_epochs = 3;
  CHECK(learning_rate(config, 0.2, {3, 4}, 6) == Approx(0.1));
  CHECK(std::isfinite(learning_rate(config, 0.2, {3, 4}, 12)));
}

TEST_CASE("lr_scheduler: every schedule is positive and finite at every length", "[lr_scheduler]") {
  for (const char* name : {"constant", "step", "cosine", "linear", "one_cycle"}) {
    LrSchedulerConfig config = named(name);
    config.milestones = {0.5, 1};
    for (int64_t epochs = 1; epochs < 4; ++epochs) {
      for (int64_t steps = 1; steps < 6; ++steps) {
        for (int64_t step = 0; step < epochs * steps; ++step) {
          const double lr = learning_rate(config, 0.1, {epochs, steps}, step);
          INFO(name << " " << epochs << "x" << steps << " step " << step);
          CHECK((lr > 0 && lr <= 0.1 + 1e-15));
        }
      }
    }
  }
}

TEST_CASE("lr_scheduler: what cannot be laid over the run is refused", "[lr_scheduler]") {
  CHECK_THROWS_AS(check_lr_schedule(named("exponential"), {3, 4}), UserError);
  LrSchedulerConfig config = named("one_cycle");
  config.warmup_epochs = 1;
  CHECK_THROWS_AS(check_lr_schedule(config, {3, 4}), UserError);
  config = named("cosine");
  config.warmup_epochs = 4;
  CHECK_THROWS_AS(check_lr_schedule(config, {3, 4}), UserError);
}

}  // namespace luq
