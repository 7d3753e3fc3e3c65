#include "luq/ops/batch_norm.h"

#include <cmath>

#include "kernels/kernels.h"
#include "luq/ops/plan.h"
#include "src/ops/check.h"

namespace luq {
namespace {

Tensor inverse_std(const Tensor& variance, float eps) {
  Tensor result = Tensor::empty(variance.shape());
  for (int64_t c = 0; c < variance.numel(); ++c) {
    result.data<float>()[c] = 1.0f / std::sqrt(variance.data<float>()[c] + eps);
  }
  return result;
}

void update_running(Tensor& running, const Tensor& batch, float momentum, float factor) {
  for (int64_t c = 0; c < batch.numel(); ++c) {
    float& value = running.data<float>()[c];
    value = (1 - momentum) * value + momentum * (factor * batch.data<float>()[c]);
  }
}

}  // namespace

Var batch_norm(Ctx& ctx, const Var& x, const Var& gamma, const Var& beta, Tensor& running_mean,
               Tensor& running_variance, const BatchNormOptions& options, const std::string& layer) {
  check_float32("batch_norm", layer, "x", x.value());
  if (x.shape().rank() < 2) {
    fail("[batch_norm] {}: expected x of shape (N,...,C), got {}", layer, to_string(x.shape()));
  }
  const int64_t channels = x.shape()[-1];
  for (const Tensor* tensor : {&gamma.value(), &beta.value(), &std::as_const(running_mean)}) {
    if (tensor->shape() != Shape{channels}) {
      fail("[batch_norm] {}: expected C={} from x {}, got parameters of shape {}", layer, channels,
           to_string(x.shape()), to_string(tensor->shape()));
    }
  }
  const int64_t rows = channels == 0 ? 0 : x.value().numel() / channels;
  if (ctx.training && rows < 2) {
    fail_user(
        "[batch_norm] {}: expected more than one value per channel when training, got x {}; raise train.batch_size",
        layer, to_string(x.shape()));
  }
  const Kernels& kernels = *ctx.kernels;
  Tensor mean = running_mean, variance = running_variance;
  if (ctx.training) {
    mean = Tensor::empty({channels});
    variance = Tensor::empty({channels});
    kernels.batch_norm_stats({.x = x.value().data<float>(),
                              .rows = rows,
                              .c = channels,
                              .mean = mean.data<float>(),
                              .variance = variance.data<float>()});
    update_running(running_mean, mean, options.momentum, 1.0f);
    update_running(running_variance, variance, options.momentum,
                   static_cast<float>(static_cast<double>(rows) / static_cast<double>(rows - 1)));
  } else if (ctx.tape != nullptr) {
    mean = mean.clone();  // the closure must not see later updates of the running statistics
  }
  const Tensor scale = inverse_std(variance, options.eps);
  const bool needs_grad = ctx.tape != nullptr && (x.needs_grad() || gamma.needs_grad());
  Var y(Tensor::empty(x.shape()), needs_grad);
  kernels.batch_norm_apply({.x = x.value().data<float>(),
                            .rows = rows,
                            .c = channels,
                            .mean = std::as_const(mean).data<float>(),
                            .inverse_std = scale.data<float>(),
                            .gamma = gamma.value().data<float>(),
                            .beta = beta.value().data<float>(),
                            .y = y.value().data<float>()});
  record_plan(ctx, "batch_norm", layer, y.shape(), y.shape(), kernels.batch_norm_apply.implementation,
              needs_grad ? kernels.batch_norm_backward.implementation : "-", 2 * channels);
  if (!needs_grad) return y;

  ctx.tape->record(
      y, [&kernels, x_value = x.value(), mean, scale, gamma_value = gamma.value(), rows, channels,
          training = ctx.training, x_slot = x.slot(), gamma_slot = gamma.slot(), beta_slot = beta.slot()](Tensor dy) {
        Tensor dx = dy.unique() ? dy : Tensor::empty(dy.shape());
        Tensor dgamma = Tensor::empty({channels}), dbeta = Tensor::empty({channels});
        kernels.batch_norm_backward({.x = x_value.data<float>(),
                                     .dy = std::as_const(dy).data<float>(),
                                     .rows = rows,
                                     .c = channels,
                                     .mean = mean.data<float>(),
                                     .inverse_std = scale.data<float>(),
                                     .gamma = gamma_value.data<float>(),
                                     .training = training,
                                     .dx = dx.data<float>(),
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
