// Convolution and linear layers: the two ops that multiply matrices, in 4 bits where the plan says so.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

struct Conv2dOptions {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int64_t groups = 1;
};

// y = conv(x, weight) + bias. x (N, H, W, C), weight (O, KH, KW, C / groups), bias (O) or null, y (N, OH, OW, O).
//
// layer: looked up in ctx.quant for the formats of weights, activations and gradients; also names the streams of random
// bits. activation_scale: the layer's running activation scale, float32 (1), 0 while none was seen; training updates it
// with momentum 0.1, evaluation uses it. A matmul whose operands both have 4 bits runs in integers on packed codes, any
// other in float32 on the (dequantised) operands. Gradients pass the quantisers unchanged (straight-through). Throws
// Error `[conv2d] <layer>: ...` when shapes do not fit, and from quantize for NaN or infinity.
Var conv2d(Ctx& ctx, const Var& x, const Var& weight, const Var* bias, const Conv2dOptions& options,
           const std::string& layer, Tensor& activation_scale);

// y = x weight^T + bias. x (N, C) or (N, T, C), weight (O, C), bias (O) or null, y (N, O) or (N, T, O). Otherwise as
// conv2d.
Var linear(Ctx& ctx, const Var& x, const Var& weight, const Var* bias, const std::string& layer,
           Tensor& activation_scale);

}  // namespace luq
