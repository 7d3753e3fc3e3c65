#include "luq/train/ema.h"

#include <utility>

#include "kernels/kernels.h"
#include "luq/core/device.h"
#include "luq/core/error.h"

namespace luq {

ModelEma::ModelEma(Module& model, double decay) : decay_(decay) {
  if (!(decay > 0 && decay < 1))
    fail_user("[ema] train.ema_decay: expected a number above 0 and below 1, got {}", decay);
  const auto add = [this](const std::string& name, const Tensor& value) {
    entries_.push_back({name, value, value.clone()});
  };
  for (Parameter* parameter : model.parameters()) add(parameter->name, parameter->var.value());
  for (Buffer* buffer : model.buffers()) add(buffer->name, buffer->value);
}

void ModelEma::update(int64_t step) {
  const auto decay = static_cast<float>(decay_), rest = static_cast<float>(1.0 - decay_);
  for (Entry& entry : entries_) {
    if (step == 1) {
      entry.average.copy_from(entry.value);
      continue;
    }
    kernels_for(entry.value.device())
        .moving_average({.value = std::as_const(entry.value).data<float>(),
                         .count = entry.value.numel(),
                         .decay = decay,
                         .rest = rest,
                         .average = entry.average.data<float>()});
  }
}

void ModelEma::swap() {
  for (Entry& entry : entries_) {
    const Tensor kept = entry.value.clone();
    entry.value.copy_from(entry.average);
    entry.average.copy_from(kept);
  }
}

std::vector<std::pair<std::string, Tensor>> ModelEma::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Entry& entry : entries_) tensors.emplace_back("ema." + entry.name, entry.average);
  return tensors;
}

}  // namespace luq
