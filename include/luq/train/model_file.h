// Files that hold a model: checkpoints of a run, state_dicts from elsewhere, packed exports.
#pragma once

#include <map>
#include <string>

#include "luq/config/experiment.h"
#include "luq/core/safetensors.h"
#include "luq/data/dataset.h"
#include "luq/train/checkpoint.h"
#include "luq/train/state_dict.h"

namespace luq {

struct ModelFile {
  enum class Kind { checkpoint, state_dict, packed };
  std::string file;
  Kind kind = Kind::state_dict;
  SafeTensors state;    // parameters and buffers, as load_state_dict takes them
  bool is_ema = false;  // the average of a run's weights
  std::map<std::string, float>
      packed_scales;         // of the weights that came as 4-bit codes, by name; state has their values
  std::string config, data;  // of the run, as they stand in the metadata; "": the file carries none

  // The configuration and the description of the run's images. Throws UserError where the file carries none.
  ExperimentConfig stored_config() const;
  DatasetInfo stored_data() const;
};

// "a checkpoint", "a state_dict", "a packed file".
const char* to_string(ModelFile::Kind kind);

// Tells by the metadata what the file is: a checkpoint is checked like read_checkpoint; what has no metadata of ours is
// taken for a state_dict. A packed file's codes become the values that they stand for. Throws UserError naming the
// file.
ModelFile read_model_file(const std::string& file, CheckpointWeights weights = CheckpointWeights::ema_if_stored);

// Where weights came as codes, makes the model multiply these very codes instead of quantising the values again; for
// evaluation, after load_model_file.
void use_packed_codes(const ModelFile& model_file, Module& model, const QuantPlan& plan, const Kernels& kernels);

// Makes the model's values those of the file; as load_state_dict. Throws UserError naming tensor and element for NaN,
// infinity, and running variances or activation scales below 0.
LoadedState load_model_file(const ModelFile& model_file, Module& model, bool replace_head = false);

}  // namespace luq
