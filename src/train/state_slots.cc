#include "src/train/state_slots.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <map>

namespace luq {
namespace {

// order[i]: the dimension of `from` that becomes dimension i.
Tensor permute(const Tensor& from, const std::array<int, 4>& order) {
  const Shape& shape = from.shape();
  const int64_t strides[4] = {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1};
  Tensor to = Tensor::empty(Shape{shape[order[0]], shape[order[1]], shape[order[2]], shape[order[3]]});
  const float* in = from.data<float>();
  float* out = to.data<float>();
  for (int64_t a = 0; a < to.size(0); ++a) {
    for (int64_t b = 0; b < to.size(1); ++b) {
      for (int64_t c = 0; c < to.size(2); ++c) {
        for (int64_t d = 0; d < to.size(3); ++d) {
          *out++ = in[a * strides[order[0]] + b * strides[order[1]] + c * strides[order[2]] + d * strides[order[3]]];
        }
      }
    }
  }
  return to;
}

bool is_convolution(const Tensor& weight) { return weight.shape().rank() == 4 && weight.dtype() == DType::float32; }

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
  for (Parameter* parameter : model.parameters()) slots.push_back({parameter->name, parameter->var.value(), true});
  for (Buffer* buffer : model.buffers()) slots.push_back({buffer->name, buffer->value, false});
  return slots;
}

Tensor to_stored_layout(const Tensor& weight) {
  return is_convolution(weight) ? permute(weight, {0, 3, 1, 2}) : weight;
}

Tensor from_stored_layout(const Tensor& weight) {
  return is_convolution(weight) ? permute(weight, {0, 2, 3, 1}) : weight;
}

Tensor stored_value(const Slot& slot) { return slot.is_weight ? to_stored_layout(slot.value) : slot.value; }

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
    const Tensor value = slot.is_weight ? from_stored_layout(*found->second) : *found->second;
    if (value.shape() != slot.value.shape() || value.dtype() != slot.value.dtype()) {
      mismatched.add(fmt::format("{} {}{}, expected {}{}", slot.name, to_string(value.dtype()),
                                 to_string(value.shape()), to_string(slot.value.dtype()),
                                 to_string(slot.value.shape())));
    }
    copies.emplace_back(value, slot.value);
    left.erase(found);
  }
  for (const auto& [name, tensor] : left) unexpected.add(name);
  std::string differences;
  missing.append_to(differences);
  unexpected.append_to(differences);
  mismatched.append_to(differences);
  if (!differences.empty()) return differences;
  for (auto& [from, to] : copies) std::memcpy(to.raw(), from.raw(), static_cast<size_t>(to.bytes()));
  return "";
}

}  // namespace luq
