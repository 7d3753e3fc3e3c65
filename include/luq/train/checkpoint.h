// Checkpoints: everything a run needs to go on, in one safetensors file.
//
// Tensors: the model's parameters and buffers under their own (torchvision-style) names and the optimiser's state as
// "optimizer.<kind>.<parameter>"; with train.ema_decay also the average of the weights as "ema.<name>". Parameters
// and what belongs to them are in the layout of luq/nn/stored_layout.h, so that the model's part loads in torchvision.
// Metadata (strings): format, step, epoch, batch, seed, best_top1, finished, window (JSON), config (effective YAML),
// data (what the images were, JSON), crc32. Nothing depends on the time or the machine: the same run writes the same
// bytes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "luq/core/safetensors.h"
#include "luq/nn/module.h"
#include "luq/train/ema.h"
#include "luq/train/optimizer.h"

namespace luq {

// Sums over the steps since the last train line of metrics.jsonl.
struct TrainWindow {
  double loss_sum = 0, gradient_norm_sum = 0;
  int64_t correct = 0, images = 0, broken_images = 0, steps = 0;
};

// Where a run stands. Every random number is a function of the seed and the step, or the seed, the epoch and the
// image, so these are the sampler's and the generators' whole state.
struct TrainState {
  int64_t step = 0;         // updates done
  int64_t epoch = 0;        // epoch being trained, from 0
  int64_t batch = 0;        // batches of it done; all of them: its evaluation is still to do
  uint64_t seed = 0;        // of the configuration
  double best_top1 = -1.0;  // percent, of best.safetensors (of its average where there is one); below 0: none yet
  bool finished = false;    // the run reached its end and was evaluated there
  std::string config;       // effective configuration, YAML
  std::string data;         // to_json(DatasetInfo) of the training set
  TrainWindow window = {};  // so that the next line is that of a run which was not stopped
};

struct Checkpoint {
  std::string file;
  SafeTensors content;
  TrainState state;
};

// What the file of a checkpoint holds. Tensors may share the live ones. ema: null without train.ema_decay.
SafeTensors checkpoint_content(Module& model, const Optimizer& optimizer, const TrainState& state, const ModelEma* ema);

// ema: null without train.ema_decay. Throws Error naming the file and the system's reason; the old file then stays.
void save_checkpoint(const std::string& file, Module& model, const Optimizer& optimizer, const TrainState& state,
                     const ModelEma* ema = nullptr);

// Metadata that only a checkpoint has.
bool is_checkpoint(const SafeTensors& content);
// Checks the format and the checksum over everything in the file. Throws UserError naming the file.
Checkpoint read_checkpoint(const std::string& file);
// The same for a file that was read already.
Checkpoint read_checkpoint(const std::string& file, SafeTensors content);

// To go on training: copies the values into the model, the optimiser and, unless null, the average. The names and
// shapes must be exactly theirs. Throws UserError that lists the first missing, unexpected and mismatched.
void restore(const Checkpoint& checkpoint, Module& model, Optimizer& optimizer, ModelEma* ema = nullptr);

// Which weights of a checkpoint a model takes for evaluation.
enum class CheckpointWeights { ema_if_stored, trained };

// What a checkpoint holds of the model alone, as load_state_dict takes it.
struct StoredModel {
  SafeTensors state;    // with the checkpoint's metadata
  bool is_ema = false;  // the average of the weights
};
StoredModel model_of(const Checkpoint& checkpoint, CheckpointWeights weights = CheckpointWeights::ema_if_stored);
// Throws UserError for a file of an older format that holds this model's parameters in another layout.
void check_column_order(const SafeTensors& content, const std::string& file, Module& model);

// What a run goes on from.
struct Resumable {
  Checkpoint checkpoint;
  std::string warning;  // why it is another file than last.safetensors; "" when it is that
};

// The folder <run>/checkpoints: last.safetensors, previous.safetensors (the last before it), best.safetensors; while
// one is written next.safetensors, when a run begins probe.safetensors. docs/runs.md has the table of its states.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::string folder) : folder_(std::move(folder)) {}

  std::string last() const { return folder_ + "/last.safetensors"; }
  std::string previous() const { return folder_ + "/previous.safetensors"; }
  std::string best() const { return folder_ + "/best.safetensors"; }

  // Writes a new last.safetensors; the old one becomes previous.safetensors. At no moment is there none, and when it
  // returns the new one survives a power cut. Throws Error; then the old one stays.
  void save_last(Module& model, const Optimizer& optimizer, const TrainState& state,
                 const ModelEma* ema = nullptr) const;
  // Shows that this state can be saved here, and leaves nothing. Throws Error naming the file and the system's reason.
  void prove(Module& model, const Optimizer& optimizer, const TrainState& state, const ModelEma* ema) const;
  // There is none. Throws Error when the system cannot tell.
  bool empty() const;
  // last.safetensors, or what a save that was cut off left. Throws UserError when that is damaged or nothing is there,
  // with what to do, and Error when a file cannot be read.
  Resumable read_last() const;
  // Before a resumed run writes: makes of the file that was read last.safetensors, removes what was cut off.
  void settle(const std::string& read_from) const;
  // Throws Error.
  void remove_all() const;
  // Whether a name in the folder is one of the program's.
  static bool is_ours(const std::string& name);

 private:
  void promote_next() const;
  void sync() const;
  std::string next() const { return folder_ + "/next.safetensors"; }
  std::string probe() const { return folder_ + "/probe.safetensors"; }
  std::string folder_;
};

// The first parameter or buffer, in the model's order, that holds a NaN or an infinity; "" when there is none.
std::string first_non_finite(Module& model);
// The same of named tensors.
std::string first_non_finite(const std::vector<std::pair<std::string, Tensor>>& tensors);

}  // namespace luq
