#include "luq/ops/pointwise.h"

#include "luq/core/convert.h"
#include "luq/ops/plan.h"
#include "luq/ops/trace.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {

namespace {

// The buffer of a value that only the op's own argument holds, else a new one of its shape.
Tensor reuse(Tensor& x) { return x.unique() ? x : Tensor::empty(x.shape(), x.dtype(), x.device()); }
Tensor reuse(Var& x) { return reuse(x.value()); }

// ceiling: 0 for none.
Var relu_with_ceiling(Ctx& ctx, const char* op, Var x, float ceiling) {
  check_float(op, "", "x", x.value());
  const Kernels& kernels = *ctx.kernels;
  const int64_t count = x.value().numel();
  const bool needs_grad = ctx.records(x);
  Var y(reuse(x), needs_grad);
  y.set_non_negative(true);
  Tensor mask;
  if (needs_grad) mask = Tensor::empty({(count + 7) / 8}, DType::uint8, y.value().device());
  kernels.relu({.x = floats(std::as_const(x).value()),
                .count = count,
                .y = floats(y.value()),
                .mask = needs_grad ? mask.data<uint8_t>() : nullptr,
                .ceiling = ceiling});
  record_plan(ctx, op, "", y.shape(), y.shape(), kernels.relu.implementation,
              needs_grad ? kernels.relu_backward.implementation : "-", 0, y.value().dtype());
  record_trace(ctx, "relu", x, y, {{"ceiling", ceiling}});
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, mask, count, x_slot = x.slot()](Tensor dy) {
    Tensor dx = reuse(dy);
    kernels.relu_backward(
        {.dy = floats(std::as_const(dy)), .mask = mask.data<uint8_t>(), .count = count, .dx = floats(dx)});
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

}  // namespace

Var relu(Ctx& ctx, Var x) { return relu_with_ceiling(ctx, "relu", std::move(x), 0); }

Var relu6(Ctx& ctx, Var x) { return relu_with_ceiling(ctx, "relu6", std::move(x), 6); }

Var gelu(Ctx& ctx, const Var& x) {
  check_float("gelu", "", "x", x.value());
  const Kernels& kernels = *ctx.kernels;
  const int64_t count = x.value().numel();
  const bool needs_grad = ctx.records(x);
  Var y(Tensor::empty(x.shape(), x.value().dtype(), x.value().device()), needs_grad);
  kernels.gelu({.x = floats(x.value()), .count = count, .y = floats(y.value())});
  record_plan(ctx, "gelu", "", y.shape(), y.shape(), kernels.gelu.implementation,
              needs_grad ? kernels.gelu_backward.implementation : "-", 0, y.value().dtype());
  record_trace(ctx, "gelu", x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, count, x_value = x.value(), x_slot = x.slot()](Tensor dy) {
    Tensor dx = reuse(dy);
    kernels.gelu_backward({.x = floats(x_value), .dy = floats(std::as_const(dy)), .count = count, .dx = floats(dx)});
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

Var add(Ctx& ctx, Var a, Var b) {
  check_float("add", "", "a", a.value());
  check_float("add", "", "b", b.value());
  if (a.shape() != b.shape()) {
    fail("[add] expected two equal shapes, got {} and {}", to_string(a.shape()), to_string(b.shape()));
  }
  if (a.value().dtype() != b.value().dtype()) {
    fail("[add] expected two equal dtypes, got {} and {}", to_string(a.value().dtype()), to_string(b.value().dtype()));
  }
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(a) || ctx.records(b);
  Var y(a.value().unique() ? a.value() : reuse(b), needs_grad);
  y.set_non_negative(a.non_negative() && b.non_negative());
  kernels.add({.a = floats(std::as_const(a).value()),
               .b = floats(std::as_const(b).value()),
               .count = y.value().numel(),
               .y = floats(y.value())});
  record_plan(ctx, "add", "", y.shape(), y.shape(), kernels.add.implementation, "-", 0, y.value().dtype());
  if (ctx.trace != nullptr) {
    ctx.trace->push_back({.op = "add",
                          .layer = "",
                          .operands = {{.role = "x", .value = a}, {.role = "residual", .value = b}},
                          .attributes = {},
                          .output = y});
  }
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, a_slot = a.slot(), b_slot = b.slot()](Tensor dy) {
    if (a_slot != nullptr) add_gradient(kernels, *a_slot, dy);
    if (b_slot != nullptr) add_gradient(kernels, *b_slot, std::move(dy));
  });
  return y;
}

Var dropout(Ctx& ctx, Var x, float probability, const std::string& layer) {
  check_float("dropout", layer, "x", x.value());
  if (!(probability >= 0.0f && probability < 1.0f)) {
    fail("[dropout] {}: expected a probability in [0, 1), got {}", layer, probability);
  }
  if (!ctx.training || probability == 0.0f) return x;
  const Kernels& kernels = *ctx.kernels;
  const RngKey key = ctx.rng(layer, "dropout");
  const bool needs_grad = ctx.records(x);
  const DType dtype = x.value().dtype();
  const int64_t count = x.value().numel();
  const auto run = [&kernels, probability, key, count, dtype](Tensor from) {  // in float32
    from = convert(kernels, std::move(from), DType::float32);
    Tensor to = reuse(from);
    kernels.dropout({.x = std::as_const(from).data<float>(),
                     .count = count,
                     .probability = probability,
                     .key = key,
                     .y = to.data<float>()});
    return convert(kernels, to, dtype);
  };
  const bool non_negative = x.non_negative();
  const std::shared_ptr<GradSlot> x_slot = x.slot();
  Tensor value = std::move(x.value());
  x = Var();
  Var y(run(std::move(value)), needs_grad);
  y.set_non_negative(non_negative);
  record_plan(ctx, "dropout", layer, y.shape(), y.shape(), kernels.dropout.implementation,
              needs_grad ? kernels.dropout.implementation : "-", 0, y.value().dtype());
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, run, x_slot](Tensor dy) { add_gradient(kernels, *x_slot, run(std::move(dy))); });
  return y;
}

Var flatten(Ctx& ctx, const Var& x) {
  if (x.shape().rank() < 1) fail("[flatten] expected x of shape (N,...), got a scalar");
  const int64_t rows = x.shape()[0];
  const Shape shape{rows, rows == 0 ? 0 : x.value().numel() / rows};
  const bool needs_grad = ctx.records(x);
  Var y(x.value().reshape(shape), needs_grad);
  y.set_non_negative(x.non_negative());
  record_plan(ctx, "flatten", "", x.shape(), y.shape(), "-", "-", 0, y.value().dtype());
  record_trace(ctx, "flatten", x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels = *ctx.kernels, x_shape = x.shape(), x_slot = x.slot()](Tensor dy) {
    Tensor dx = dy.reshape(x_shape);
    dy = Tensor();
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

}  // namespace luq
