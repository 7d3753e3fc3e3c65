// `luqtrain export`: a model in the formats that others read (docs/interop.md).
#pragma once

#include <string>

#include "luq/train/checkpoint.h"

namespace luq {

struct ExportOptions {
  std::string checkpoint;  // a checkpoint, a packed file or a state_dict
  std::string format;      // safetensors, onnx, packed
  std::string output;
  std::string model;  // for a state_dict: its name in the zoo
  CheckpointWeights weights = CheckpointWeights::ema_if_stored;
};

// Writes the file, whole or not at all, and returns what it did. Throws UserError for an unknown format, a file that
// does not fit, and a quantised model without activation scales where the format needs them; Error when the file cannot
// be written.
std::string export_model(const ExportOptions& options);

}  // namespace luq
