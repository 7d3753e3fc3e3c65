#include "src/train/resumption.h"

#include <algorithm>
#include <vector>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "src/train/dataset_json.h"

namespace luq {
namespace {

const std::vector<std::string> changeable_keys = {
    "device",          "threads",       "train.epochs",       "train.max_steps", "data.path",    "train.log_every",
    "train.recompute", "run.directory", "data.broken_images", "data.workers",    "data.prefetch"};

}  // namespace

void check_same_experiment(const Checkpoint& checkpoint, const ExperimentConfig& now, const std::string& directory) {
  const ExperimentConfig before = parse_experiment(checkpoint.state.config, checkpoint.file, {});
  const std::vector<std::string> differing = differing_keys(before, now, changeable_keys);
  if (differing.empty()) return;
  fail_user("[train] {}: a resumed run may not change\n  {}\n(only {} may change; --overwrite starts the run anew)",
            directory, fmt::join(differing, "\n  "), fmt::join(changeable_keys, ", "));
}

void check_same_data(const Checkpoint& checkpoint, const DatasetInfo& now, int64_t steps_per_epoch) {
  const TrainState& state = checkpoint.state;
  if (state.step != state.epoch * steps_per_epoch + state.batch) {
    fail_user(
        "[train] {}: step {} is not batch {} of epoch {} with {} steps an epoch: {} has another number of images than "
        "the data the run began with (data.path)",
        checkpoint.file, state.step, state.batch, state.epoch, steps_per_epoch, now.name);
  }
  if (state.data.empty()) return;  // of an older version
  const DatasetInfo before = parse_dataset_info(state.data, checkpoint.file);
  std::string difference = differing_classes(before, now);
  if (before.images != now.images) {
    difference = fmt::format("it had {} training images and has {}", before.images, now.images);
  }
  if (difference.empty()) return;
  fail_user("[train] {}: {} is not the data the run began with (data.path): {}; --overwrite starts the run anew",
            checkpoint.file, now.name, difference);
}

LinePosition last_line_at(const Checkpoint& checkpoint) {
  const TrainState& state = checkpoint.state;
  const LinePosition evaluated{state.finished ? state.step : state.step - state.batch, true};
  LinePosition line = evaluated.step > 0 ? evaluated : LinePosition{};
  const bool has_window = checkpoint.content.metadata.contains("window");  // unless it is of the first versions
  if (has_window) line = std::max(line, {state.step - state.window.steps, false});
  return line;
}

}  // namespace luq
