#include "src/train/step_limit.h"

#include "luq/train/lr_scheduler.h"
#include "tests/catch.h"

namespace luq {
namespace {

KernelRecord work(double operations) {
  KernelRecord record;
  record.unit = ComputeUnit::float32;
  record.operations = operations;
  return record;
}

TEST_CASE("step_limit: limits that a step beats are measured again", "[step_limit]") {
  std::vector<double> rates{100, 50, 400, 1000, 1000, 1000};
  int probes = 0;
  StepLimit limit([&] {
    MachineLimits machine;
    machine.float32 = rates.at(static_cast<size_t>(probes++));
    return machine;
  });
  CHECK(limit.wants_work());
  CHECK_FALSE(limit.percent(1).has_value());
  limit.set_work({work(60), work(40)});  // a second at the first rate
  CHECK_FALSE(limit.wants_work());
  CHECK(limit.percent(2) == 50.0);
  CHECK(probes == 1);
  // Faster than the first two measurements allow: the third holds from then on.
  CHECK(limit.percent(0.5) == 50.0);
  CHECK(probes == 3);
  CHECK(limit.machine().float32 == 400);
  CHECK(limit.percent(0.25) == 100.0);
  CHECK(limit.percent(0.125) == 80.0);
  CHECK(limit.repeats() == 3);
  // No more than three times, and never more than 100 %.
  CHECK_FALSE(limit.percent(0.01).has_value());
  CHECK(probes == 4);
}

TEST_CASE("step_limit: what is faster than its limit has no percentage above 100", "[step_limit]") {
  CHECK(limit_column(0.5, 0.25, 1) == "50");
  CHECK(limit_column(1, 0.25, 1) == "100");
  CHECK(limit_column(1.36, 0.25, 1) == "cache");
  CHECK(limit_column(1.36, 1.36, 1) == "beaten");
  CHECK(limit_column(0, 0, 1) == "-");
  int probes = 0;
  StepLimit limit([&] {
    MachineLimits machine;
    machine.read = ++probes;
    return machine;
  });
  limit.measure_while([](const MachineLimits& machine) { return machine.read < 2.5; });
  CHECK(probes == 3);
  limit.measure_while([](const MachineLimits&) { return true; });
  CHECK(probes == 4);
}

TEST_CASE("step_limit: a machine without limits has no percentage", "[step_limit]") {
  StepLimit limit([] { return MachineLimits(); });
  CHECK_FALSE(limit.wants_work());
  CHECK_FALSE(limit.percent(1).has_value());
}

TEST_CASE("lr_scheduler: another end of a run is described", "[lr_scheduler]") {
  ExperimentConfig before, now;
  before.train.epochs = 15;
  now.train.epochs = 30;
  before.optimizer.lr = now.optimizer.lr = 0.1;
  const auto change = [&](const char* name) {
    before.lr_scheduler.name = now.lr_scheduler.name = name;
    const std::vector<std::string> lines = describe_horizon_change(before, now, 468, 7020);
    REQUIRE(lines.size() == 1);
    return lines[0];
  };
  CHECK(change("linear") ==
        "train.epochs 15 -> 30: the learning rate of step 7021 is 0.05 instead of 0 (that of step 7020 was 1.425e-05); "
        "linear spans 14040 steps instead of 7020");
  CHECK_THAT(change("cosine"), contains_text("step 7021 is 0.05 instead of 0 "));
  CHECK_THAT(change("one_cycle"), contains_text("instead of 4e-07"));
  CHECK(change("constant") == "train.epochs 15 -> 30: the learning rate stays 0.1");
  before.lr_scheduler.milestones = now.lr_scheduler.milestones = {10};
  CHECK(change("step") == "train.epochs 15 -> 30: the learning rate stays 0.01");
  now.train.epochs = 15;
  CHECK(describe_horizon_change(before, now, 468, 7020).empty());
  now.train.max_steps = 100;
  CHECK(describe_horizon_change(before, now, 468, 7020) ==
        std::vector<std::string>{"train.max_steps 0 (no limit) -> 100: the learning rate does not depend on it"});
}

}  // namespace
}  // namespace luq
