#include "luq/core/convert.h"

#include "luq/core/error.h"
#include "src/core/floats.h"

namespace luq {

Tensor convert(const Kernels& kernels, const Tensor& x, DType dtype) {
  if (!is_float(x.dtype()) || !is_float(dtype)) {
    fail("[convert] expected float32 or bfloat16, got {} to {}", to_string(x.dtype()), to_string(dtype));
  }
  if (x.dtype() == dtype) return x;
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  kernels.convert({.x = floats(x), .count = x.numel(), .y = floats(y)});
  return y;
}

}  // namespace luq
