#include "luq/autograd/tape.h"

#include <algorithm>

#include "luq/autograd/ctx.h"
#include "luq/core/error.h"
#include "src/core/floats.h"

namespace luq {

RngKey Ctx::rng(std::string_view layer, std::string_view role, uint32_t sample) const {
  return make_rng_key(seed, fmt::format("{}:{}", layer, role), step, micro_batch, sample);
}

void add_gradient(const Kernels& kernels, GradSlot& slot, Tensor gradient, const std::optional<Stats>& statistics) {
  slot.statistics = slot.grad.defined() ? std::nullopt : statistics;
  if (!slot.grad.defined()) {
    slot.grad = std::move(gradient);
    return;
  }
  if (slot.grad.shape() != gradient.shape() || slot.grad.dtype() != gradient.dtype()) {
    fail("[add_gradient] expected {} {} as before, got {} {}", to_string(slot.grad.dtype()),
         to_string(slot.grad.shape()), to_string(gradient.dtype()), to_string(gradient.shape()));
  }
  Tensor sum = slot.grad.unique()  ? slot.grad
               : gradient.unique() ? gradient
                                   : Tensor::empty(gradient.shape(), gradient.dtype(), gradient.device());
  kernels.add({.a = floats(std::as_const(slot.grad)),
               .b = floats(std::as_const(gradient)),
               .count = gradient.numel(),
               .y = floats(sum)});
  slot.grad = std::move(sum);
}

void Tape::record(const Var& output, std::function<void(Tensor dy)> backward) {
  closures_.push_back({output.slot(), std::move(backward)});
}

void Tape::backward(const Var& loss, float seed, const std::function<void()>& after_each) {
  if (!loss.needs_grad()) fail("[backward] expected a loss that depends on a parameter");
  if (loss.value().numel() != 1) fail("[backward] expected a loss of one element, got {}", to_string(loss.shape()));
  const bool recorded = std::any_of(closures_.begin(), closures_.end(),
                                    [&loss](const Entry& entry) { return entry.output == loss.slot(); });
  if (!recorded) fail("[backward] expected a loss that was recorded on this tape since its last backward()");
  loss.slot()->grad = Tensor::full(loss.shape(), seed);
  loss.slot()->statistics.reset();
  while (!closures_.empty()) {
    {
      Entry entry = std::move(closures_.back());
      closures_.pop_back();
      if (!entry.output->grad.defined()) continue;
      Tensor dy = std::move(entry.output->grad);
      entry.output->grad = Tensor();
      entry.backward(std::move(dy));
    }
    if (after_each) after_each();
  }
}

}  // namespace luq
