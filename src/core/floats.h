// Tensors of activations as operands of kernels.
#pragma once

#include "kernels/kernels.h"
#include "luq/core/tensor.h"

namespace luq {

// Null when undefined. Throws Error when the tensor is neither float32 nor bfloat16.
inline kernels::ConstFloats floats(const Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  if (tensor.dtype() == DType::bfloat16) return tensor.data<BFloat16>();
  return tensor.data<float>();
}
inline kernels::Floats floats(Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  if (tensor.dtype() == DType::bfloat16) return tensor.data<BFloat16>();
  return tensor.data<float>();
}

}  // namespace luq
