// The one table of stored names: which tensor of a model stands in a file under which name and in which layout.
#pragma once

#include <string>
#include <vector>

#include "luq/core/safetensors.h"
#include "luq/nn/module.h"

namespace luq {

// A place in memory that a file saves and restores.
struct Slot {
  std::string name;
  Tensor value;                // shares the live buffer
  const Parameter* parameter;  // whose value or velocity it is, stored in that one's layout; null for a buffer
};

// Parameters and buffers in the model's order.
std::vector<Slot> model_slots(Module& model);

// What the file holds for a slot.
Tensor stored_value(const Slot& slot);

// PyTorch's batch counter has no use here: the running statistics' momentum is constant.
bool is_batch_counter(const std::string& name);
bool is_activation_scale(const std::string& name);

// Copies the stored values into the slots, whose names, shapes and types must be exactly theirs; batch counters are
// passed over. "" when done; else nothing was copied and the result lists the first missing, unexpected and mismatched.
std::string load_slots(const std::vector<Slot>& slots, const std::vector<std::pair<std::string, Tensor>>& stored);

}  // namespace luq
