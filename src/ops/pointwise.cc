#include "luq/ops/pointwise.h"

#include "kernels/kernels.h"
#include "luq/ops/plan.h"
#include "src/ops/check.h"

namespace luq {

namespace {

// The buffer of a value that only the op's own argument holds, else a new one of its shape.
Tensor reuse(Var& x) { return x.value().unique() ? x.value() : Tensor::empty(x.shape()); }

}  // namespace

Var relu(Ctx& ctx, Var x) {
  check_float32("relu", "", "x", x.value());
  const Kernels& kernels = *ctx.kernels;
  const int64_t count = x.value().numel();
  const bool needs_grad = ctx.records(x);
  Var y(reuse(x), needs_grad);
  y.set_non_negative(true);
  Tensor mask;
  if (needs_grad) mask = Tensor::empty({(count + 7) / 8}, DType::uint8);
  kernels.relu({.x = std::as_const(x).value().data<float>(),
                .count = count,
                .y = y.value().data<float>(),
                .mask = needs_grad ? mask.data<uint8_t>() : nullptr});
  record_plan(ctx, "relu", "", y.shape(), y.shape(), kernels.relu.implementation,
              needs_grad ? kernels.relu_backward.implementation : "-");
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

Var add(Ctx& ctx, Var a, Var b) {
  check_float32("add", "", "a", a.value());
  check_float32("add", "", "b", b.value());
  if (a.shape() != b.shape()) {
    fail("[add] expected two equal shapes, got {} and {}", to_string(a.shape()), to_string(b.shape()));
  }
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(a) || ctx.records(b);
  Var y(a.value().unique() ? a.value() : reuse(b), needs_grad);
  y.set_non_negative(a.non_negative() && b.non_negative());
  kernels.add({.a = a.value().data<float>(),
               .b = b.value().data<float>(),
               .count = y.value().numel(),
               .y = y.value().data<float>()});
  record_plan(ctx, "add", "", y.shape(), y.shape(), kernels.add.implementation, "-");
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, a_slot = a.slot(), b_slot = b.slot()](Tensor dy) {
    if (a_slot != nullptr) add_gradient(kernels, *a_slot, dy);
    if (b_slot != nullptr) add_gradient(kernels, *b_slot, std::move(dy));
  });
  return y;
}

Var dropout(Ctx& ctx, Var x, float probability, const std::string& layer) {
  check_float32("dropout", layer, "x", x.value());
  if (!(probability >= 0.0f && probability < 1.0f)) {
    fail("[dropout] {}: expected a probability in [0, 1), got {}", layer, probability);
  }
  if (!ctx.training || probability == 0.0f) return x;
  const Kernels& kernels = *ctx.kernels;
  const RngKey key = ctx.rng(layer, "dropout");
  const bool needs_grad = ctx.records(x);
  Var y(reuse(x), needs_grad);
  y.set_non_negative(x.non_negative());
  const int64_t count = x.value().numel();
  kernels.dropout({.x = x.value().data<float>(),
                   .count = count,
                   .probability = probability,
                   .key = key,
                   .y = y.value().data<float>()});
  record_plan(ctx, "dropout", layer, y.shape(), y.shape(), kernels.dropout.implementation,
              needs_grad ? kernels.dropout.implementation : "-");
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
  record_plan(ctx, "flatten", "", x.shape(), y.shape(), "-", "-");
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels = *ctx.kernels, x_shape = x.shape(), x_slot = x.slot()](Tensor dy) {
    Tensor dx = dy.reshape(x_shape);
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

}  // namespace luq
