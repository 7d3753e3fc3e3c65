#include "src/train/denormal_warning.h"

#include <fmt/format.h>

namespace luq {
namespace {

constexpr int64_t every_steps = 8;  // of so many one is looked at

}  // namespace

DenormalWatch* DenormalWarning::watch(int64_t step) {
  return !watch_.found() && step % every_steps == 0 ? &watch_ : nullptr;
}

void DenormalWarning::look(int64_t step, Module& model, const Optimizer& optimizer, RunLog& log) {
  for (const Parameter* parameter : model.parameters()) {
    watch_.look("the parameter", parameter->name, parameter->var.value());
  }
  for (const Buffer* buffer : model.buffers()) watch_.look("the buffer", buffer->name, buffer->value);
  for (const auto& [name, tensor] : optimizer.state()) watch_.look("the optimiser's state", name, tensor);
  if (!watch_.found()) return;
  log.warning(
      fmt::format("step {}: {} is mostly below 2^-126 (denormal): processors compute with such values up to 100 times "
                  "slower, so a step may take very long, and training gains nothing from them; where gradients vanish, "
                  "end the run or set train.label_smoothing above 0; where weights or inputs do, lower "
                  "optimizer.weight_decay or check model.weights and the scale of the data. This is said once",
                  step + 1, watch_.what()));
}

}  // namespace luq
