#include "luq/train/lr_scheduler.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "luq/core/error.h"

namespace luq {
namespace {

int64_t to_steps(double epochs, const LrHorizon& horizon) {
  return std::llround(epochs * static_cast<double>(horizon.steps_per_epoch));
}

// From `start` at 0 to `end` at 1 along half a cosine.
double cosine_between(double start, double end, double fraction) {
  return end + (start - end) * (1 + std::cos(std::numbers::pi * fraction)) / 2;
}

double one_cycle(const LrSchedulerConfig& config, double base_lr, int64_t steps, int64_t step) {
  const double initial = base_lr / config.div_factor;
  const double final = initial / config.final_div_factor;
  const double peak = config.pct_start * static_cast<double>(steps) - 1;
  const double last = static_cast<double>(steps) - 1;
  const double position = std::min(static_cast<double>(step), last);
  if (peak > 0 && position <= peak) return cosine_between(initial, base_lr, position / peak);
  const double start = std::max(peak, 0.0);
  return last > start ? cosine_between(base_lr, final, (position - start) / (last - start)) : base_lr;
}

}  // namespace

void check_lr_schedule(const LrSchedulerConfig& config, const LrHorizon& horizon) {
  const std::string& name = config.name;
  if (name != "constant" && name != "step" && name != "cosine" && name != "linear" && name != "one_cycle") {
    fail_user("[lr_scheduler] lr_scheduler.name: expected constant, step, cosine, linear or one_cycle, got '{}'", name);
  }
  if (config.warmup_epochs > 0 && name == "one_cycle") {
    fail_user("[lr_scheduler] one_cycle warms up by itself (lr_scheduler.pct_start): set lr_scheduler.warmup_epochs 0");
  }
  if (config.warmup_epochs > static_cast<double>(horizon.epochs)) {
    fail_user("[lr_scheduler] lr_scheduler.warmup_epochs {} is longer than train.epochs {}", config.warmup_epochs,
              horizon.epochs);
  }
}

double learning_rate(const LrSchedulerConfig& config, double base_lr, const LrHorizon& horizon, int64_t step) {
  const int64_t warmup = to_steps(config.warmup_epochs, horizon);
  double lr = base_lr;
  if (config.name == "step") {
    for (const double milestone : config.milestones) {
      if (step >= to_steps(milestone, horizon)) lr *= config.gamma;
    }
  }
  if (step < warmup) {
    const double fraction = static_cast<double>(step) / static_cast<double>(warmup);
    return lr * (config.warmup_start_factor + (1 - config.warmup_start_factor) * fraction);
  }
  if (config.name == "one_cycle") return one_cycle(config, base_lr, horizon.steps(), step);
  const int64_t span = horizon.steps() - warmup;
  const double fraction =
      span > 0 ? std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(span)) : 1.0;
  if (config.name == "cosine") return cosine_between(base_lr, config.min_lr, fraction);
  if (config.name == "linear") return base_lr + (config.min_lr - base_lr) * fraction;
  return lr;
}

std::vector<std::string> describe_horizon_change(const ExperimentConfig& before, const ExperimentConfig& now,
                                                 int64_t steps_per_epoch, int64_t step) {
  std::vector<std::string> lines;
  const LrHorizon old_horizon{before.train.epochs, steps_per_epoch}, new_horizon{now.train.epochs, steps_per_epoch};
  if (before.train.epochs != now.train.epochs) {
    const auto rate = [](const ExperimentConfig& config, const LrHorizon& horizon, int64_t at) {
      return learning_rate(config.lr_scheduler, config.optimizer.lr, horizon, at);
    };
    const double old_rate = rate(before, old_horizon, step), new_rate = rate(now, new_horizon, step);
    std::string effect = fmt::format("the learning rate stays {:.4g}", new_rate);
    if (old_rate != new_rate) {
      effect = fmt::format("the learning rate of step {} is {:.4g} instead of {:.4g}", step + 1, new_rate, old_rate);
      if (step > 0) effect += fmt::format(" (that of step {} was {:.4g})", step, rate(before, old_horizon, step - 1));
      effect += fmt::format("; {} spans {} steps instead of {}", now.lr_scheduler.name, new_horizon.steps(),
                            old_horizon.steps());
    }
    lines.push_back(fmt::format("train.epochs {} -> {}: {}", before.train.epochs, now.train.epochs, effect));
  }
  if (before.train.max_steps != now.train.max_steps) {
    const auto end = [](int64_t steps) { return steps > 0 ? fmt::format("{}", steps) : std::string("0 (no limit)"); };
    lines.push_back(fmt::format("train.max_steps {} -> {}: the learning rate does not depend on it",
                                end(before.train.max_steps), end(now.train.max_steps)));
  }
  return lines;
}

}  // namespace luq
