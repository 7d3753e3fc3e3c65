// Floats from one type to another.
#pragma once

#include "luq/core/tensor.h"

namespace luq {

struct Kernels;

// x in this type: x itself when it has it. float32 and bfloat16; what becomes bfloat16 is rounded to nearest, ties to
// even. Throws Error for other types.
Tensor convert(const Kernels& kernels, const Tensor& x, DType dtype);

}  // namespace luq
