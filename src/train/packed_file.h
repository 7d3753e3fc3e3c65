// Packed exports: what docs/interop.md says of them.
#pragma once

#include <string>

#include "luq/core/safetensors.h"
#include "src/train/inference_model.h"

namespace luq {

bool is_packed(const SafeTensors& content);

struct PackedModel {
  SafeTensors content;
  int64_t quantized_bytes = 0;  // codes and scales of the quantised layers' weights
  int64_t float_bytes = 0;      // of the same weights in float32
};
// Throws UserError for a model without quantised weights.
PackedModel pack(const InferenceModel& model);

}  // namespace luq
