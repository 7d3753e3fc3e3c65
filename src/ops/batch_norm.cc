#include "luq/ops/batch_norm.h"

#include <optional>

#include "luq/ops/plan.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {
namespace {

// The fused kernel, or the chain that it stands for.
void forward(const Kernels& kernels, const kernels::BatchNormActArgs& a) {
  if (kernels.batch_norm_act) return kernels.batch_norm_act(a);
  kernels.batch_norm_apply({.x = a.x,
                            .rows = a.rows,
                            .c = a.c,
                            .mean = a.mean,
                            .inverse_std = a.inverse_std,
                            .gamma = a.gamma,
                            .beta = a.beta,
                            .y = a.y});
  const int64_t count = a.rows * a.c;
  if (a.residual) kernels.add({.a = a.y, .b = a.residual, .count = count, .y = a.y});
  if (a.relu) kernels.relu({.x = a.y, .count = count, .y = a.y, .mask = a.mask, .ceiling = a.ceiling});
  if (a.stats != nullptr) kernels.stats({.x = a.y, .count = count, .stats = a.stats});
}

void backward(const Kernels& kernels, const kernels::BatchNormActBackwardArgs& a) {
  if (kernels.batch_norm_act_backward) return kernels.batch_norm_act_backward(a);
  const int64_t count = a.rows * a.c;
  kernels::ConstFloats dy = a.dy;
  if (a.mask != nullptr) {
    const kernels::Floats masked = a.dresidual ? a.dresidual : a.dx;
    kernels.relu_backward({.dy = dy, .mask = a.mask, .count = count, .dx = masked});
    dy = masked;
  } else if (a.dresidual && a.dresidual.data != dy.data) {
    const int64_t bytes = count * dy.element_bytes();
    kernels.copy_rows(
        {.from = dy.data, .from_stride = 0, .rows = 1, .bytes = bytes, .to_stride = 0, .to = a.dresidual.data});
  }
  kernels.batch_norm_backward({.x = a.x,
                               .dy = dy,
                               .rows = a.rows,
                               .c = a.c,
                               .mean = a.mean,
                               .inverse_std = a.inverse_std,
                               .gamma = a.gamma,
                               .training = a.training,
                               .dx = a.dx,
                               .dgamma = a.dgamma,
                               .dbeta = a.dbeta});
  if (a.stats != nullptr) kernels.stats({.x = a.dx, .count = count, .stats = a.stats});
}

void describe(Ctx& ctx, const std::string& layer, const NormActivation& activation, const Var& y, bool needs_grad,
              int64_t parameters) {
  const Kernels& k = *ctx.kernels;
  std::string op = "batch_norm";
  if (activation.residual.value().defined()) op += " + add";
  if (activation.relu) op += activation.ceiling > 0 ? fmt::format(" + relu{}", activation.ceiling) : " + relu";
  const char* forward = k.batch_norm_act ? k.batch_norm_act.implementation : k.batch_norm_apply.implementation;
  const char* backward =
      k.batch_norm_act_backward ? k.batch_norm_act_backward.implementation : k.batch_norm_backward.implementation;
  record_plan(ctx, op.c_str(), layer, y.shape(), y.shape(), forward, needs_grad ? backward : "-", parameters,
              y.value().dtype());
}

}  // namespace

Var batch_norm(Ctx& ctx, const Var& x, const Var& gamma, const Var& beta, Tensor& running_mean,
               Tensor& running_variance, const BatchNormOptions& options, const std::string& layer,
               const NormActivation& activation) {
  check_float("batch_norm", layer, "x", x.value());
  if (activation.residual.value().defined()) {
    check_float("batch_norm", layer, "the residual", activation.residual.value());
    if (activation.residual.shape() != x.shape() || activation.residual.value().dtype() != x.value().dtype()) {
      fail("[batch_norm] {}: expected a residual like x, {} {}, got {} {}", layer, to_string(x.value().dtype()),
           to_string(x.shape()), to_string(activation.residual.value().dtype()),
           to_string(activation.residual.shape()));
    }
  }
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
  const Device device = x.value().device();
  Tensor mean = running_mean, variance = running_variance;
  if (ctx.training) {
    if (x.channel_moments()) {
      mean = x.channel_moments()->mean;
      variance = x.channel_moments()->variance;
    } else {
      mean = Tensor::empty({channels}, DType::float32, device);
      variance = Tensor::empty({channels}, DType::float32, device);
      kernels.batch_norm_stats({.x = floats(x.value()),
                                .rows = rows,
                                .c = channels,
                                .mean = mean.data<float>(),
                                .variance = variance.data<float>()});
    }
  } else if (ctx.tape != nullptr) {
    mean = mean.clone();  // the closure must not see later updates of the running statistics
  }
  Tensor scale = Tensor::empty({channels}, DType::float32, device);
  kernels.batch_norm_finish(
      {.mean = std::as_const(mean).data<float>(),
       .variance = std::as_const(variance).data<float>(),
       .c = channels,
       .eps = options.eps,
       .inverse_std = scale.data<float>(),
       .running_mean = ctx.training ? running_mean.data<float>() : nullptr,
       .running_variance = ctx.training ? running_variance.data<float>() : nullptr,
       .momentum = options.momentum,
       .variance_factor =
           ctx.training ? static_cast<float>(static_cast<double>(rows) / static_cast<double>(rows - 1)) : 1});
  const Var& residual = activation.residual;
  const bool has_residual = residual.value().defined();
  const bool needs_grad =
      ctx.tape != nullptr && (x.needs_grad() || gamma.needs_grad() || (has_residual && residual.needs_grad()));
  Var y(Tensor::empty(x.shape(), x.value().dtype(), device), needs_grad);
  y.set_non_negative(activation.relu);
  Tensor mask;
  if (needs_grad && activation.relu) mask = Tensor::empty({(y.value().numel() + 7) / 8}, DType::uint8, device);
  Stats statistics;
  const bool take_statistics = ctx.wants_statistics();
  forward(kernels, {.x = floats(x.value()),
                    .rows = rows,
                    .c = channels,
                    .mean = std::as_const(mean).data<float>(),
                    .inverse_std = std::as_const(scale).data<float>(),
                    .gamma = gamma.value().data<float>(),
                    .beta = beta.value().data<float>(),
                    .residual = floats(residual.value()),
                    .relu = activation.relu,
                    .y = floats(y.value()),
                    .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                    .stats = take_statistics ? &statistics : nullptr,
                    .ceiling = activation.ceiling});
  if (take_statistics) y.set_statistics(statistics);
  describe(ctx, layer, activation, y, needs_grad, 2 * channels);
  if (ctx.trace != nullptr) {
    ctx.trace->push_back(
        {.op = "batch_norm",
         .layer = layer,
         .operands = {{.role = "x", .value = x},
                      {.role = "weight", .value = gamma},
                      {.role = "bias", .value = beta},
                      {.role = "running_mean", .value = Var(running_mean), .constant = true},
                      {.role = "running_var", .value = Var(running_variance), .constant = true}},
         .attributes = {{"eps", options.eps}, {"relu", activation.relu ? 1 : 0}, {"ceiling", activation.ceiling}},
         .output = y});
    if (has_residual) ctx.trace->back().operands.push_back({.role = "residual", .value = residual});
  }
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, recompute = x.recompute(), x_value = x.recompute() ? Tensor() : x.value(), mask, mean,
                       scale, gamma_value = gamma.value(), rows, channels, training = ctx.training, take_statistics,
                       x_slot = x.slot(), gamma_slot = gamma.slot(), beta_slot = beta.slot(),
                       residual_slot = has_residual ? residual.slot() : nullptr](Tensor dy) {
    const Tensor x_again = recompute ? recompute() : x_value;
    const bool in_place = dy.unique();
    Tensor dresidual;
    if (residual_slot != nullptr) dresidual = in_place ? dy : Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    Tensor dx = in_place && residual_slot == nullptr ? dy : Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    Tensor dgamma = Tensor::empty({channels}, DType::float32, dy.device());
    Tensor dbeta = Tensor::empty({channels}, DType::float32, dy.device());
    Stats dx_statistics;
    backward(kernels, {.x = floats(x_again),
                       .dy = floats(std::as_const(dy)),
                       .rows = rows,
                       .c = channels,
                       .mean = mean.data<float>(),
                       .inverse_std = scale.data<float>(),
                       .gamma = gamma_value.data<float>(),
                       .training = training,
                       .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                       .dresidual = floats(dresidual),
                       .dx = floats(dx),
                       .dgamma = dgamma.data<float>(),
                       .dbeta = dbeta.data<float>(),
                       .stats = take_statistics ? &dx_statistics : nullptr});
    dy = Tensor();
    if (residual_slot != nullptr) add_gradient(kernels, *residual_slot, std::move(dresidual));
    if (gamma_slot != nullptr) add_gradient(kernels, *gamma_slot, std::move(dgamma));
    if (beta_slot != nullptr) add_gradient(kernels, *beta_slot, std::move(dbeta));
    if (x_slot == nullptr) return;
    add_gradient(kernels, *x_slot, std::move(dx), take_statistics ? std::optional<Stats>(dx_statistics) : std::nullopt);
  });
  return y;
}

}  // namespace luq
