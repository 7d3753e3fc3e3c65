// A model's parameters and buffers under torchvision's names, shapes and layouts: what torch calls a state_dict.
#pragma once

#include <string>
#include <vector>

#include "luq/core/safetensors.h"
#include "luq/nn/module.h"

namespace luq {

// The model as a state_dict that torchvision's model of the same name loads strictly: parameters and buffers in
// float32, convolution weights (O, I, KH, KW), and for every batch norm the counter `num_batches_tracked`, which
// torchvision demands and nothing here reads (I64, a scalar, 0). Activation scales, which torchvision does not know,
// are left out. No metadata.
SafeTensors to_state_dict(Module& model);

struct LoadStateOptions {
  std::string source;         // names the file in messages
  bool replace_head = false;  // a head (the last linear layer) of another number of classes keeps its own values
};

// What was loaded beside the plain values.
struct LoadedState {
  std::string replaced_head;       // name of the head that kept its own values, "" for none
  int64_t stored_classes = 0;      // of the head in the file
  bool activation_scales = false;  // false: the file holds none; the model's are 0, "not known"
};

// Copies the values into the model: our own checkpoint's or torchvision's. Strict both ways: every parameter and buffer
// must be there in its shape and nothing else may be, but for num_batches_tracked, which is passed over, and the
// activation scales, of which all or none are there. Throws UserError that lists the first missing, unexpected and
// mismatched names, with a hint where all names share a wrapper's prefix; the model is then as it was.
LoadedState load_state_dict(Module& model, const SafeTensors& content, const LoadStateOptions& options);

}  // namespace luq
