#include "luq/ops/pointwise.h"

#include "kernels/kernels.h"
#include "luq/core/error.h"
#include "luq/ops/plan.h"

namespace luq {

Var relu(Ctx& ctx, const Var& x) {
  const Kernels& kernels = *ctx.kernels;
  const int64_t count = x.value().numel();
  const bool needs_grad = ctx.records(x);
  Var y(Tensor::empty(x.shape()), needs_grad);
  y.set_non_negative(true);
  Tensor mask;
  if (needs_grad) mask = Tensor::empty({(count + 7) / 8}, DType::uint8);
  kernels.relu({.x = x.value().data<float>(),
                .count = count,
                .y = y.value().data<float>(),
                .mask = needs_grad ? mask.data<uint8_t>() : nullptr});
  record_plan(ctx, "relu", "", x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, mask, count, x_slot = x.slot()](Tensor dy) {
    Tensor dx = dy.unique() ? dy : Tensor::empty(dy.shape());
    kernels.relu_backward(
        {.dy = std::as_const(dy).data<float>(), .mask = mask.data<uint8_t>(), .count = count, .dx = dx.data<float>()});
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

Var add(Ctx& ctx, const Var& a, const Var& b) {
  if (a.shape() != b.shape()) {
    fail("[add] expected two equal shapes, got {} and {}", to_string(a.shape()), to_string(b.shape()));
  }
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(a) || ctx.records(b);
  Var y(Tensor::empty(a.shape()), needs_grad);
  y.set_non_negative(a.non_negative() && b.non_negative());
  kernels.add({.a = a.value().data<float>(),
               .b = b.value().data<float>(),
               .count = y.value().numel(),
               .y = y.value().data<float>()});
  record_plan(ctx, "add", "", a, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, a_slot = a.slot(), b_slot = b.slot()](Tensor dy) {
    if (a_slot != nullptr) add_gradient(kernels, *a_slot, dy);
    if (b_slot != nullptr) add_gradient(kernels, *b_slot, std::move(dy));
  });
  return y;
}

Var dropout(Ctx& ctx, const Var& x, float probability, const std::string& layer) {
  if (!(probability >= 0.0f && probability < 1.0f)) {
    fail("[dropout] {}: expected a probability in [0, 1), got {}", layer, probability);
  }
  if (!ctx.training || probability == 0.0f) return x;
  const Kernels& kernels = *ctx.kernels;
  const RngKey key = ctx.rng(layer, "dropout");
  const bool needs_grad = ctx.records(x);
  Var y(Tensor::empty(x.shape()), needs_grad);
  y.set_non_negative(x.non_negative());
  const int64_t count = x.value().numel();
  kernels.dropout({.x = x.value().data<float>(),
                   .count = count,
                   .probability = probability,
                   .key = key,
                   .y = y.value().data<float>()});
  record_plan(ctx, "dropout", layer, x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, probability, key, count, x_slot = x.slot()](Tensor dy) {
    Tensor dx = dy.unique() ? dy : Tensor::empty(dy.shape());
    kernels.dropout({.x = std::as_const(dy).data<float>(),
                     .count = count,
                     .probability = probability,
                     .key = key,
                     .y = dx.data<float>()});
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

Var flatten(Ctx& ctx, const Var& x) {
  if (x.shape().rank() < 1) fail("[flatten] expected x of shape (N,...), got a scalar");
  const int64_t rows = x.shape()[0];
  const Shape shape{rows, rows == 0 ? 0 : x.value().numel() / rows};
  const bool needs_grad = ctx.records(x);
  Var y(x.value().reshape(shape), needs_grad);
  y.set_non_negative(x.non_negative());
  record_plan(ctx, "flatten", "", x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels = *ctx.kernels, x_shape = x.shape(), x_slot = x.slot()](Tensor dy) {
    Tensor dx = dy.reshape(x_shape);
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

}  // namespace luq
