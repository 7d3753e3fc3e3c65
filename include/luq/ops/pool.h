// Pooling over windows of (N, H, W, C).
#pragma once

#include "luq/autograd/ctx.h"

namespace luq {

struct Pool2dOptions {
  int64_t kernel = 2;
  int64_t stride = 2;
  int64_t padding = 0;  // at most kernel / 2
  bool ceil_mode = false;
  bool count_include_pad = true;  // average: padding counts in the divisor, PyTorch's default
};

// The largest element of each window; the first one gets the gradient. Throws Error `[max_pool2d] ...`.
Var max_pool2d(Ctx& ctx, const Var& x, const Pool2dOptions& options);

// The mean of each window. Throws Error `[avg_pool2d] ...`.
Var avg_pool2d(Ctx& ctx, const Var& x, const Pool2dOptions& options);

// The mean of each (H, W) plane: (N, H, W, C) -> (N, C).
Var global_avg_pool(Ctx& ctx, const Var& x);

// Means of size x size windows that tile the input, PyTorch's AdaptiveAvgPool2d(size): (N, H, W, C) -> (N, size, size,
// C).
Var adaptive_avg_pool2d(Ctx& ctx, const Var& x, int64_t size);

}  // namespace luq
