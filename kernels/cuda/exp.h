// Exponential and normal distribution with the polynomials of kernels/cpu/exp_impl.h, whose bounds hold here: the
// library's functions differ between host and device, these do not.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/numerics.h"

namespace luq::kernels::cuda {

// e^x for x <= 88, within 1e-7 of itself; 0 below -87; NaN passes.
__device__ inline float exp_of(float x) {
  const bool small = !(x >= -87.0f);
  const float inside = small ? -87.0f : x;
  const float whole = rintf(inside * 1.44269504f);
  const float r = fmaf(whole, 2.12194440e-4f, fmaf(whole, -0.693359375f, inside));
  float sum = 0.0013836824f;
  sum = fmaf(sum, r, 0.008374823f);
  sum = fmaf(sum, r, 0.041668225f);
  sum = fmaf(sum, r, 0.1666642f);
  sum = fmaf(sum, r, 0.4999999f);
  sum = fmaf(sum, r, 1.0f);
  sum = fmaf(sum, r, 1.0f);
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
  float sum = 0.04184687f;
  sum = fmaf(sum, t, -0.17791335f);
  sum = fmaf(sum, t, 0.22679803f);
  sum = fmaf(sum, t, -0.08917155f);
  sum = fmaf(sum, t, 0.13904756f);
  sum = fmaf(sum, t, 0.11758847f);
  sum = fmaf(sum, t, 0.1612185f);
  sum = fmaf(sum, t, 0.18570766f);
  sum = fmaf(sum, t, 0.19740823f);
  sum = fmaf(sum, t, 0.19746958f);
  const float tail = kernel * 0.5f * t * sum;
  return {x < 0 ? tail : 1.0f - tail, kernel};
}

}  // namespace luq::kernels::cuda
