// One update of the parameters from one batch.
#pragma once

#include <functional>
#include <optional>

#include "luq/data/loader.h"
#include "luq/train/optimizer.h"
#include "src/train/experiment_parts.h"

namespace luq {

struct StepOutcome {
  double loss = 0;  // mean over the batch
  int64_t correct = 0;
  std::optional<double> gradient_norm;  // before clipping, where train.clip_grad_norm asks for it
};

// Forward, loss and backward for each of train.micro_batches equal parts of the batch, whose gradients are averaged,
// then the update, clipped to train.clip_grad_norm as torch.nn.utils.clip_grad_norm_ does. With one part and without
// clipping the parameters are updated as their gradients come. Batch norm takes each part's statistics and moves its
// running ones with each; running activation scales move likewise.
// ctx: of the step; its tape and micro_batch are set here. phase: called with "forward", "backward" and "update" as
// they begin. Throws Error when the loss or the norm is NaN or infinite; the parameters are then as they were.
StepOutcome training_step(const ExperimentConfig& config, ExperimentParts& parts, Ctx ctx, Optimizer& optimizer,
                          const Batch& batch, double lr, const std::function<void(const char*)>& phase = {});

}  // namespace luq
