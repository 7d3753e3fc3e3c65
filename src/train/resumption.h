// What a run that goes on from a checkpoint must share with the one that wrote it.
#pragma once

#include <string>

#include "luq/config/experiment.h"
#include "luq/data/dataset.h"
#include "luq/train/checkpoint.h"
#include "src/train/metrics.h"

namespace luq {

// Nothing that decides the run's numbers may have changed, but for its end, and the device, whose floats are rounded
// otherwise. directory: of the run. Throws UserError with the keys.
void check_same_experiment(const Checkpoint& checkpoint, const ExperimentConfig& now, const std::string& directory);
// The training set is the one that the run began with, as far as its description tells. Throws UserError.
void check_same_data(const Checkpoint& checkpoint, const DatasetInfo& now, int64_t steps_per_epoch);
// The last line that metrics.jsonl had when the checkpoint was made.
LinePosition last_line_at(const Checkpoint& checkpoint);

}  // namespace luq
