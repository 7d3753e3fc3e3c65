// Layer normalisation (Ba et al. 2016) over the last dimension.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// y = (x - mean) / sqrt(variance + eps) * gamma + beta, with mean and biased variance of each row. x, y (..., C); gamma
// and beta (C) float32. Throws Error `[layer_norm] <layer>: ...` for a shape that does not fit.
Var layer_norm(Ctx& ctx, const Var& x, const Var& gamma, const Var& beta, float eps, const std::string& layer);

}  // namespace luq
