// What a run says of itself before its first step.
#pragma once

#include <string>

#include "luq/config/experiment.h"
#include "src/train/experiment_parts.h"
#include "src/train/run_log.h"

namespace luq {

// Folder, model, data, formats, kernels and device, with what is to be warned of. weights: where they come from, "" for
// random ones.
void say_parts(RunLog& log, const ExperimentConfig& config, const ExperimentParts& parts, const std::string& weights);

}  // namespace luq
