#include "luq/ops/layer_norm.h"

#include "luq/ops/plan.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {

Var layer_norm(Ctx& ctx, const Var& x, const Var& gamma, const Var& beta, float eps, const std::string& layer) {
  check_float("layer_norm", layer, "x", x.value());
  if (x.shape().rank() < 1) fail("[layer_norm] {}: expected x of shape (...,C), got a scalar", layer);
  const int64_t channels = x.shape()[-1];
  for (const Var* parameter : {&gamma, &beta}) {
    if (parameter->shape() != Shape{channels} || parameter->value().dtype() != DType::float32) {
      fail("[layer_norm] {}: expected gamma and beta of float32 and C={} from x {}, got {} {}", layer, channels,
           to_string(x.shape()), to_string(parameter->value().dtype()), to_string(parameter->shape()));
    }
  }
  const Kernels& kernels = *ctx.kernels;
  const int64_t rows = channels == 0 ? 0 : x.value().numel() / channels;
  const bool needs_grad = ctx.tape != nullptr && (x.needs_grad() || gamma.needs_grad() || beta.needs_grad());
  const Device device = x.value().device();
  Var y(Tensor::empty(x.shape(), x.value().dtype(), device), needs_grad);
  Tensor mean, inverse_std;
  if (needs_grad) {
    mean = Tensor::empty({rows}, DType::float32, device);
    inverse_std = Tensor::empty({rows}, DType::float32, device);
  }
  kernels.layer_norm({.x = floats(x.value()),
                      .rows = rows,
                      .c = channels,
                      .gamma = gamma.value().data<float>(),
                      .beta = beta.value().data<float>(),
                      .eps = eps,
                      .y = floats(y.value()),
                      .mean = needs_grad ? mean.data<float>() : nullptr,
                      .inverse_std = needs_grad ? inverse_std.data<float>() : nullptr});
  record_plan(ctx, "layer_norm", layer, x.shape(), y.shape(), kernels.layer_norm.implementation,
              needs_grad ? kernels.layer_norm_backward.implementation : "-", 2 * channels, y.value().dtype());
  if (ctx.trace != nullptr) {
    ctx.trace->push_back(
        {.op = "layer_norm",
         .layer = layer,
         .operands = {{.role = "x", .value = x}, {.role = "weight", .value = gamma}, {.role = "bias", .value = beta}},
         .attributes = {{"eps", eps}},
         .output = y});
  }
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, rows, channels, x_value = x.value(), mean, inverse_std, gamma_value = gamma.value(),
                       x_slot = x.slot(), gamma_slot = gamma.slot(), beta_slot = beta.slot()](Tensor dy) {
    Tensor dx = dy.unique() ? dy : Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    Tensor dgamma = Tensor::empty({channels}, DType::float32, dx.device());
    Tensor dbeta = Tensor::empty({channels}, DType::float32, dx.device());
    kernels.layer_norm_backward({.x = floats(x_value),
                                 .dy = floats(std::as_const(dy)),
                                 .rows = rows,
                                 .c = channels,
                                 .mean = mean.data<float>(),
                                 .inverse_std = inverse_std.data<float>(),
                                 .gamma = gamma_value.data<float>(),
                                 .dx = floats(dx),
                                 .dgamma = dgamma.data<float>(),
                                 .dbeta = dbeta.data<float>()});
    dy = Tensor();
    if (gamma_slot != nullptr) add_gradient(kernels, *gamma_slot, std::move(dgamma));
    if (beta_slot != nullptr) add_gradient(kernels, *beta_slot, std::move(dbeta));
    if (x_slot != nullptr) add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

}  // namespace luq
