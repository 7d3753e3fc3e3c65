// Learning-rate schedules: pure functions of the global step, so that resuming needs no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "luq/config/experiment.h"

namespace luq {

// The steps a schedule spans: all epochs, whatever train.max_steps cuts off.
struct LrHorizon {
  int64_t epochs = 1;
  int64_t steps_per_epoch = 1;
  int64_t steps() const { return epochs * steps_per_epoch; }
};

// Throws UserError when the schedule cannot be laid over the horizon: a warm-up longer than the run, a warm-up before
// one_cycle (which has its own), an unknown name.
void check_lr_schedule(const LrSchedulerConfig& config, const LrHorizon& horizon);

// The rate of the update number `step` (from 0). With W = round(warmup_epochs * steps_per_epoch) steps of warm-up and
// T steps in all, t = step - W:
//   warm-up   base (f + (1 - f) step / W), f = warmup_start_factor          PyTorch: LinearLR(f, 1, W)
//   constant  base
//   step      base gamma^k, k = number of milestones m (epochs from the start of the run) with
//             step >= round(m * steps_per_epoch); also during the warm-up    MultiStepLR
//   cosine    min_lr + (base - min_lr) (1 + cos(pi t / (T - W))) / 2         CosineAnnealingLR(T - W, min_lr)
//   linear    base + (min_lr - base) t / (T - W)                             LinearLR(1, min_lr / base, T - W)
//   one_cycle from base / div_factor up to base over the first pct_start of T, then down to
//             base / div_factor / final_div_factor, both as half cosines     OneCycleLR(anneal_strategy="cos");
//             the momentum is left alone                                       cycle_momentum=False
// Past the horizon the last value is kept.
double learning_rate(const LrSchedulerConfig& config, double base_lr, const LrHorizon& horizon, int64_t step);

// What it means for a run that goes on at `step` (updates done) that train.epochs or train.max_steps is another one
// than before: a line for each key that changed, with the learning rate of the next update before and now, where it
// moves.
std::vector<std::string> describe_horizon_change(const ExperimentConfig& before, const ExperimentConfig& now,
                                                 int64_t steps_per_epoch, int64_t step);

}  // namespace luq
