// What an experiment would run, without running it.
#pragma once

#include <string>

#include "luq/config/experiment.h"

namespace luq {

// A table of the model's layers for one batch of training: shapes, parameters, multiply-accumulates, the formats of the
// three matmuls and what runs them; then totals, steps, and the estimated memory. Checks everything that train() checks
// and writes nothing. Throws like train().
std::string describe_plan(const ExperimentConfig& config);

}  // namespace luq
