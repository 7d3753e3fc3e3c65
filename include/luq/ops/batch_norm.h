// Batch normalisation (Ioffe and Szegedy 2015) over all dimensions but the last.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

struct BatchNormOptions {
  float momentum = 0.1f;  // of the running statistics: new = (1 - momentum) old + momentum batch
  float eps = 1e-5f;
};

// Options of what follows the norm: relu(norm(x) + residual), each part if asked for. The result is that of the ops add
// and relu, to the bit in float32; in bfloat16 it is rounded once instead of after each. Taken together they need fewer
// passes over memory.
struct NormActivation {
  bool relu = false;
  float ceiling = 0;  // of ReLU: 6 for ReLU6, 0 for none
  Var residual = {};  // of x's shape; undefined: none
};

// y = (x - mean) / sqrt(variance + eps) * gamma + beta. x, y (N, ..., C); gamma, beta, running_mean and
// running_variance (C). Training uses the batch's statistics (biased variance) and moves the running ones (unbiased
// variance, as PyTorch does); evaluation uses the running ones.
// activation: ReLU and a residual behind the norm, in the same passes.
// Throws Error `[batch_norm] <layer>: ...` for a shape that does not fit, and UserError for one value per channel in
// training.
Var batch_norm(Ctx& ctx, const Var& x, const Var& gamma, const Var& beta, Tensor& running_mean,
               Tensor& running_variance, const BatchNormOptions& options, const std::string& layer,
               const NormActivation& activation = {});

}  // namespace luq
