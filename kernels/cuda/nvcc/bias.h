#pragma once

#include "kernels/kernels.h"

namespace luq::kernels::cuda {

// y = x + bias, (count / channels, channels); y may be x.
void add_bias(const ConstFloats& x, const float* bias, int64_t count, int64_t channels, const Floats& y);

}  // namespace luq::kernels::cuda
