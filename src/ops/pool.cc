#include "luq/ops/pool.h"

#include "luq/core/convert.h"
#include "luq/ops/plan.h"
#include "luq/ops/pointwise.h"
#include "luq/ops/trace.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {
namespace {

using kernels::PoolShape;

PoolShape pool_shape(const char* op, const Var& x, const Pool2dOptions& o) {
  check_float(op, "", "x", x.value());
  if (x.shape().rank() != 4) fail("[{}] expected x of shape (N,H,W,C), got {}", op, to_string(x.shape()));
  if (o.kernel < 1 || o.stride < 1 || o.padding < 0 || o.padding > o.kernel / 2) {
    fail("[{}] expected kernel, stride >= 1 and padding in 0..kernel/2, got {}, {} and {}", op, o.kernel, o.stride,
         o.padding);
  }
  const PoolShape shape{.n = x.shape()[0],
                        .h = x.shape()[1],
                        .w = x.shape()[2],
                        .c = x.shape()[3],
                        .kh = o.kernel,
                        .kw = o.kernel,
                        .stride_h = o.stride,
                        .stride_w = o.stride,
                        .pad_h = o.padding,
                        .pad_w = o.padding,
                        .ceil_mode = o.ceil_mode};
  if (shape.h + 2 * o.padding < o.kernel || shape.w + 2 * o.padding < o.kernel) {
    fail("[{}] expected an image at least as large as the window {}x{} (padding {}), got x {}; use larger images", op,
         o.kernel, o.kernel, o.padding, to_string(x.shape()));
  }
  return shape;
}

void trace(Ctx& ctx, const char* op, const Var& x, const Var& y, const Pool2dOptions& o) {
  if (ctx.trace == nullptr) return;
  record_trace(ctx, op, x, y,
               {{"kernel", static_cast<double>(o.kernel)},
                {"stride", static_cast<double>(o.stride)},
                {"padding", static_cast<double>(o.padding)},
                {"ceil_mode", o.ceil_mode ? 1 : 0},
                {"count_include_pad", o.count_include_pad ? 1 : 0}});
}

}  // namespace

Var max_pool2d(Ctx& ctx, const Var& x, const Pool2dOptions& options) {
  const Kernels& kernels = *ctx.kernels;
  const PoolShape shape = pool_shape("max_pool2d", x, options);
  const Shape output{shape.n, shape.oh(), shape.ow(), shape.c};
  const bool needs_grad = ctx.records(x);
  const Device device = x.value().device();
  Var y(Tensor::empty(output, x.value().dtype(), device), needs_grad);
  y.set_non_negative(x.non_negative());
  Tensor index;
  if (needs_grad) index = Tensor::empty(output, DType::int32, device);
  kernels.max_pool({.shape = shape,
                    .x = floats(x.value()),
                    .y = floats(y.value()),
                    .index = needs_grad ? index.data<int32_t>() : nullptr});
  record_plan(ctx, "max_pool2d", "", x.shape(), y.shape(), kernels.max_pool.implementation,
              needs_grad ? kernels.max_pool_backward.implementation : "-", 0, y.value().dtype());
  trace(ctx, "max_pool2d", x, y, options);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, shape, index, x_shape = x.shape(), x_slot = x.slot()](Tensor dy) {
    Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
    kernels.max_pool_backward(
        {.shape = shape, .dy = floats(std::as_const(dy)), .index = index.data<int32_t>(), .dx = floats(dx)});
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

Var avg_pool2d(Ctx& ctx, const Var& x, const Pool2dOptions& options) {
  const PoolShape shape = pool_shape("avg_pool2d", x, options);
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(x);
  const DType dtype = x.value().dtype();
  const Tensor values = convert(kernels, x.value(), DType::float32);
  Tensor means = Tensor::empty({shape.n, shape.oh(), shape.ow(), shape.c}, DType::float32, values.device());
  kernels.avg_pool({.shape = shape,
                    .x = values.data<float>(),
                    .y = means.data<float>(),
                    .count_include_pad = options.count_include_pad});
  Var y(convert(kernels, means, dtype), needs_grad);
  y.set_non_negative(x.non_negative());
  record_plan(ctx, "avg_pool2d", "", x.shape(), y.shape(), kernels.avg_pool.implementation,
              needs_grad ? kernels.avg_pool_backward.implementation : "-", 0, y.value().dtype());
  trace(ctx, "avg_pool2d", x, y, options);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, shape, dtype, include_pad = options.count_include_pad, x_shape = x.shape(),
                       x_slot = x.slot()](Tensor dy) {
    dy = convert(kernels, dy, DType::float32);
    Tensor dx = Tensor::empty(x_shape, DType::float32, dy.device());
    kernels.avg_pool_backward({.shape = shape,
                               .dy = std::as_const(dy).data<float>(),
                               .dx = dx.data<float>(),
                               .count_include_pad = include_pad});
    add_gradient(kernels, *x_slot, convert(kernels, dx, dtype));
  });
  return y;
}

Var global_avg_pool(Ctx& ctx, const Var& x) { return flatten(ctx, adaptive_avg_pool2d(ctx, x, 1)); }

Var adaptive_avg_pool2d(Ctx& ctx, const Var& x, int64_t size) {
  check_float("adaptive_avg_pool2d", "", "x", x.value());
  const Shape s = x.shape();
  if (s.rank() != 4 || s[1] < 1 || s[2] < 1 || size < 1) {
    fail("[adaptive_avg_pool2d] expected x of shape (N,H,W,C) and a size >= 1, got {} and {}", to_string(s), size);
  }
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(x);
  const DType dtype = x.value().dtype();
  const Tensor values = convert(kernels, x.value(), DType::float32);
  Tensor means = Tensor::empty({s[0], size, size, s[3]}, DType::float32, values.device());
  kernels.adaptive_avg_pool({.n = s[0],
                             .h = s[1],
                             .w = s[2],
                             .c = s[3],
                             .oh = size,
                             .ow = size,
                             .x = values.data<float>(),
                             .y = means.data<float>()});
  Var y(convert(kernels, means, dtype), needs_grad);
  y.set_non_negative(x.non_negative());
  record_plan(ctx, "adaptive_avg_pool2d", "", x.shape(), y.shape(), kernels.adaptive_avg_pool.implementation,
              needs_grad ? kernels.adaptive_avg_pool_backward.implementation : "-", 0, y.value().dtype());
  record_trace(ctx, "adaptive_avg_pool2d", x, y, {{"size", static_cast<double>(size)}});
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, s, size, dtype, x_slot = x.slot()](Tensor dy) {
    dy = convert(kernels, dy, DType::float32);
    Tensor dx = Tensor::empty(s, DType::float32, dy.device());
    kernels.adaptive_avg_pool_backward({.n = s[0],
                                        .h = s[1],
                                        .w = s[2],
                                        .c = s[3],
                                        .oh = size,
                                        .ow = size,
                                        .dy = std::as_const(dy).data<float>(),
                                        .dx = dx.data<float>()});
    add_gradient(kernels, *x_slot, convert(kernels, dx, dtype));
  });
  return y;
}

}  // namespace luq
