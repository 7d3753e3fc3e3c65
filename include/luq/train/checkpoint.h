// Checkpoints: everything a run needs to go on, in one safetensors file.
//
// Tensors: the model's parameters and buffers under their own (torchvision-style) names and the optimiser's state
// as "optimizer.<kind>.<parameter>". Parameters and their state are in the layout of luq/nn/stored_layout.h, so
// that the model's part loads in torchvision.
// Metadata (strings): format, step, epoch, batch, seed, best_top1, finished, config (effective YAML), crc32.
// Nothing depends on the time or the machine: the same run writes the same bytes.
#pragma once

#include <cstdint>
#include <string>

#include "luq/core/safetensors.h"
#include "luq/nn/module.h"
#include "luq/train/optimizer.h"

namespace luq {

// Where a run stands. Every random number is a function of the seed and the step, or the seed, the epoch and the
// image, so these are the sampler's and the generators' whole state.
struct TrainState {
  int64_t step = 0;         // updates done
  int64_t epoch = 0;        // epoch being trained, from 0
  int64_t batch = 0;        // batches of it done; all of them: its evaluation is still to do
  uint64_t seed = 0;        // of the configuration
  double best_top1 = -1.0;  // percent, of best.safetensors; below 0: none yet
  bool finished = false;    // the run reached its end and was evaluated there
  std::string config;       // effective configuration, YAML
};

struct Checkpoint {
  std::string file;
  SafeTensors content;
  TrainState state;
};

// Throws Error naming the file and the system's reason; the old file then stays.
void save_checkpoint(const std::string& file, Module& model, const Optimizer& optimizer, const TrainState& state);

// Checks the format and the checksum over everything in the file. Throws UserError naming the file.
Checkpoint read_checkpoint(const std::string& file);

// Copies the values into the model and, unless null, the optimiser. The names and shapes must be exactly theirs;
// without an optimiser, "optimizer.*" is passed over. Throws UserError that lists the first missing, unexpected and
// mismatched.
void restore(const Checkpoint& checkpoint, Module& model, Optimizer* optimizer);

// The folder <run>/checkpoints: last.safetensors, previous.safetensors (the last before it), best.safetensors.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::string folder) : folder_(std::move(folder)) {}

  std::string last() const { return folder_ + "/last.safetensors"; }
  std::string previous() const { return folder_ + "/previous.safetensors"; }
  std::string best() const { return folder_ + "/best.safetensors"; }

  // Writes a new last.safetensors; the old one becomes previous.safetensors. At no moment is there none.
  void save_last(Module& model, const Optimizer& optimizer, const TrainState& state) const;
  // last.safetensors. When it is damaged and the previous one is sound, the error says how to go on from that.
  Checkpoint read_last() const;
  void remove_all() const;

 private:
  std::string next() const { return folder_ + "/next.safetensors"; }
  std::string folder_;
};

// The first parameter or buffer, in the model's order, that holds a NaN or an infinity; "" when there is none.
std::string first_non_finite(Module& model);

}  // namespace luq
