// Exponential and normal distribution as in kernels/cpu/exp_impl.h, whose bounds hold here: the
// library's functions differ between host and device, these do not.
#pragma once

#include <luq_cuda/ptx.h>

#include <cmath>

#include "kernels/exp_coefficients.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {

template <int kCount>
__device__ inline float polynomial(float x, const float (&coefficients)[kCount]) {
  float sum = coefficients[kCount - 1];
  LUQ_UNROLL
  for (int i = kCount - 2; i >= 0; --i) sum = fmaf(sum, x, coefficients[i]);
  return sum;
}

// e^x for x <= 88, within 1e-7 of itself; 0 below -87; NaN passes.
__device__ inline float exp_of(float x) {
  const bool small = !(x >= -87.0f);
  const float inside = small ? -87.0f : x;
  const float whole = rintf(inside * 1.44269504f);
  const float r = fmaf(whole, 2.12194440e-4f, fmaf(whole, -0.693359375f, inside));
  constexpr float kCoefficients[] = {LUQ_EXP_COEFFICIENTS};
  const float sum = polynomial(r, kCoefficients);
  const float result = bits_float(float_bits(sum) + (static_cast<uint32_t>(static_cast<int>(whole)) << 23));
  return small ? (x != x ? x : 0.0f) : result;
}

struct Normal {
  float cumulative;  // Phi(x)
  float kernel;      // e^(-x^2 / 2)
};

__device__ inline Normal normal(float x) {
  const float kernel = exp_of(x * -0.5f * x);
  const float t = 1.0f / fmaf(fabsf(x), 0.247487373f, 1.0f);
  constexpr float kCoefficients[] = {LUQ_TAIL_COEFFICIENTS};
  const float tail = kernel * 0.5f * t * polynomial(t, kCoefficients);
  return {x < 0 ? tail : 1.0f - tail, kernel};
}

}  // namespace luq::kernels::cuda
