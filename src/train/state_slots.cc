#include "src/train/state_slots.h"

#include <fmt/format.h>

#include <map>

#include "luq/nn/stored_layout.h"

namespace luq {
namespace {

// The differences of one kind, the first few by name.
class Complaint {
 public:
  explicit Complaint(std::string kind) : kind_(std::move(kind)) {}
  void add(const std::string& text) {
    if (++count_ <= 3) text_ += (count_ == 1 ? "" : ", ") + text;
  }
  void append_to(std::string& message) const {
    if (count_ == 0) return;
    message += fmt::format("{}{}: {}", message.empty() ? "" : "; ", kind_, text_);
    if (count_ > 3) message += fmt::format(" and {} more", count_ - 3);
  }

 private:
  std::string kind_, text_;
  int64_t count_ = 0;
};

}  // namespace

std::vector<Slot> model_slots(Module& model) {
  std::vector<Slot> slots;
  for (Parameter* parameter : model.parameters()) slots.push_back({parameter->name, parameter->var.value(), parameter});
  for (Buffer* buffer : model.buffers()) slots.push_back({buffer->name, buffer->value, nullptr});
  return slots;
}

Tensor stored_value(const Slot& slot) {
  const Tensor value = slot.value.to({});
  return slot.parameter != nullptr ? to_stored_layout(*slot.parameter, value) : value;
}

bool is_batch_counter(const std::string& name) { return name.ends_with(".num_batches_tracked"); }

bool is_activation_scale(const std::string& name) { return name.ends_with(".activation_scale"); }

std::string load_slots(const std::vector<Slot>& slots, const std::vector<std::pair<std::string, Tensor>>& stored) {
  std::map<std::string, const Tensor*> left;
  for (const auto& [name, tensor] : stored) {
    if (!is_batch_counter(name)) left[name] = &tensor;
  }
  Complaint missing("missing"), unexpected("unexpected"), mismatched("of another shape");
  std::vector<std::pair<Tensor, Tensor>> copies;  // from, to
  for (const Slot& slot : slots) {
    const auto found = left.find(slot.name);
    if (found == left.end()) {
      missing.add(slot.name);
      continue;
    }
    const Tensor& value = *found->second;
    const Shape shape = slot.parameter != nullptr ? stored_shape(*slot.parameter) : slot.value.shape();
    if (value.shape() != shape || value.dtype() != slot.value.dtype()) {
      mismatched.add(fmt::format("{} {}{}, expected {}{}", slot.name, to_string(value.dtype()),
                                 to_string(value.shape()), to_string(slot.value.dtype()), to_string(shape)));
    } else {
      copies.emplace_back(slot.parameter != nullptr ? from_stored_layout(*slot.parameter, value) : value, slot.value);
    }
    left.erase(found);
  }
  for (const auto& [name, tensor] : left) unexpected.add(name);
  std::string differences;
  missing.append_to(differences);
  unexpected.append_to(differences);
  mismatched.append_to(differences);
  if (!differences.empty()) return differences;
  for (auto& [from, to] : copies) to.copy_from(from);
  return "";
}

}  // namespace luq
