// A bias added to the results of a library; a thread has one element. Bytes an element: 8 where both are float32, 6
// from float32 to bfloat16, 4 where both are bfloat16.
#include "kernels/cuda/nvcc/bias.h"

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    add_bias_to(const From* x, const float* bias, int64_t count, int64_t channels, To* y) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) store1(y + i, __fadd_rn(load1(x + i), bias[i % channels]));
}

template <typename From, typename To>
void add(const ConstFloats& x, const float* bias, int64_t count, int64_t channels, const Floats& y) {
  launch("conv_forward, bias", add_bias_to<From, To>, {.blocks = blocks_for(count, kThreads), .threads = kThreads},
         x.as<From>(), bias, count, channels, y.as<To>());
}

}  // namespace

void add_bias(const ConstFloats& x, const float* bias, int64_t count, int64_t channels, const Floats& y) {
  if (x.bfloat16) {
    add<BFloat16, BFloat16>(x, bias, count, channels, y);
  } else if (y.bfloat16) {
    add<float, BFloat16>(x, bias, count, channels, y);
  } else {
    add<float, float>(x, bias, count, channels, y);
  }
}

}  // namespace luq::kernels::cuda
