// Files that hold a model: checkpoints of a run, state_dicts from elsewhere, packed exports.
#pragma once

#include <string>

#include "luq/config/experiment.h"
#include "luq/core/safetensors.h"
#include "luq/data/dataset.h"
#include "luq/train/checkpoint.h"
#include "luq/train/state_dict.h"

namespace luq {

struct ModelFile {
  enum class Kind { checkpoint, state_dict };
  std::string file;
  Kind kind = Kind::state_dict;
  SafeTensors state;         // parameters and buffers, as load_state_dict takes them
  bool is_ema = false;       // the average of a run's weights
  std::string config, data;  // of the run, as they stand in the metadata; "": the file carries none

  // The configuration and the description of the run's images. Throws UserError where the file carries none.
  ExperimentConfig stored_config() const;
  DatasetInfo stored_data() const;
};

// Tells by the metadata what the file is: a checkpoint is checked like read_checkpoint; what has no metadata of ours is
// taken for a state_dict. Throws UserError naming the file.
ModelFile read_model_file(const std::string& file, CheckpointWeights weights = CheckpointWeights::ema_if_stored);

// Makes the model's values those of the file; as load_state_dict.
LoadedState load_model_file(const ModelFile& model_file, Module& model, bool replace_head = false);

}  // namespace luq
