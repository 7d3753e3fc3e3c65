#include "luq/train/ema.h"

#include <algorithm>
#include <cstring>

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
    const float* value = entry.value.data<float>();
    float* average = entry.average.data<float>();
    const int64_t count = entry.value.numel();
    if (step == 1) {
      std::copy_n(value, count, average);
      continue;
    }
#pragma omp parallel for simd schedule(static) if (parallel : count > 1 << 14)
    for (int64_t i = 0; i < count; ++i) average[i] = decay * average[i] + rest * value[i];
  }
}

void ModelEma::swap() {
  for (Entry& entry : entries_) {
    float* value = entry.value.data<float>();
    std::swap_ranges(value, value + entry.value.numel(), entry.average.data<float>());
  }
}

std::vector<std::pair<std::string, Tensor>> ModelEma::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Entry& entry : entries_) tensors.emplace_back("ema." + entry.name, entry.average);
  return tensors;
}

}  // namespace luq
