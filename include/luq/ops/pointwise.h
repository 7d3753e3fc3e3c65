// Ops on single elements, and reshaping. An argument taken by value is overwritten when the caller moves it in and
// nothing else holds its buffer.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// max(x, 0); the result is known to be non-negative. Keeps one bit an element for backward.
Var relu(Ctx& ctx, Var x);

// min(max(x, 0), 6) (MobileNets). The gradient passes where 0 < x < 6 and where x is NaN, as in PyTorch; otherwise as
// relu.
Var relu6(Ctx& ctx, Var x);

// x Phi(x), Phi the cumulative distribution of the standard normal one: GELU (Hendrycks and Gimpel 2016) by its
// definition, as PyTorch's default. Keeps x for backward.
Var gelu(Ctx& ctx, const Var& x);

// a + b of equal shapes. Throws Error `[add] ...` otherwise.
Var add(Ctx& ctx, Var a, Var b);

// Zeroes elements with `probability` in [0, 1) and scales the others by 1 / (1 - probability) in training; the identity
// in evaluation. Random bits: role "dropout" of `layer`.
Var dropout(Ctx& ctx, Var x, float probability, const std::string& layer);

// (N, ...) -> (N, product of the rest). Elements keep their NHWC order.
Var flatten(Ctx& ctx, const Var& x);

}  // namespace luq
