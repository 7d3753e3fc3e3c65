// What an experiment would run, without running it.
#pragma once

#include <string>

#include "luq/config/experiment.h"

namespace luq {

// A table of the model's layers for one batch of training: shapes, parameters, multiply-accumulates, the formats of the
// three matmuls and what runs them; then totals, steps, the estimated memory, the speed of a few steps on made-up
// images, which takes some seconds, and the time that the experiment takes at that. A data set that is not in the usual
// places is planned for as it is published. Checks everything else that train() checks and writes nothing. Throws like
// train().
std::string describe_plan(const ExperimentConfig& config);

// The estimated memory alone: "812.0 MiB estimated: ...". Runs a forward pass of two images on the CPU.
std::string describe_memory(ExperimentConfig config);

}  // namespace luq
