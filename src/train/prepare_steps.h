// What training and evaluation need beside data and weights is made before the first step, and fails there.
#pragma once

#include "luq/config/experiment.h"
#include "src/train/experiment_parts.h"

namespace luq {

// Passes of the model over batches as large as those of the experiment, training and evaluation, with kernels that only
// prepare themselves (StandInKernels): the memory of a step's tensors is there, and what kernels keep from call to
// call. Nothing is computed, and nothing of the model changes. On the CPU; a device's libraries get memory as they go.
// Throws OutOfMemory.
void prepare_steps(const ExperimentConfig& config, ExperimentParts& parts);

}  // namespace luq
