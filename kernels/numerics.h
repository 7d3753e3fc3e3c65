// The arithmetic of the 4-bit formats, defined once for host and device. Every kernel table produces exactly these
// codes and these integers; docs/numerics.md says the same in prose with worked examples.
//
// Rounding to FP4. With r = |x| / alpha, the unbiased rule of LUQ (arXiv 2112.10769, section 4) is: below 1, up to 1
// with probability r; in [2^k, 2^(k+1)), up with probability r / 2^k - 1. Write s = 1 + r below 1 and s = r otherwise:
// in both cases the probability is the fraction of s, that is, its float32 mantissa. Adding 16 random bits to the upper
// 16 bits of the mantissa (rounded from 23) therefore carries into the exponent with the right probability, and the
// exponent is read off. Its bias is at most 2^-17 (2^-17 + 2^-24 below alpha) of the local gap. With the constant
// 0x8000 in place of the random bits the same addition rounds to the nearest power of two with the threshold in the
// middle of the gap (RDNP).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "luq/core/format.h"
#include "luq/core/rng.h"
#include "luq/core/statistics.h"

namespace luq::kernels {

constexpr int kFp4MaxExponent = 7;          // exponent codes 1..7 are 1, 2, ..., 64
constexpr float kFp4MaxMagnitude = 64.0f;   // 2^6: alpha = max|x| / 64
constexpr int64_t kStatsChunk = 4096;       // elements per chunk of the statistics
constexpr int kStatsLanes = 64;             // float lanes a chunk is summed in: lane = index in chunk % 64
constexpr int kStatsGroup = 256;            // chunks whose results are folded together
constexpr uint32_t kNearestBits = 0x8000u;  // stands in for the random bits when rounding to nearest

// Sums over a tensor in one fixed order: in a chunk, lane l adds |x| (and x*x, one multiplication and one addition, no
// fma) of elements l, l + 64, ... in float32 from 0; lanes are then folded 64 -> 32 -> ... -> 1 (lane i += lane i +
// half) in float32. The chunks' results, as doubles, are folded in the same way in groups of 256 consecutive ones, of
// which the last is filled with 0: result i += result i + 128, i + 64, ...; the groups' results likewise, until one is
// left. (A tree is as exact as a sum from left to right, or more so, and takes a GPU microseconds instead of
// milliseconds.)
using luq::Stats;

LUQ_HOST_DEVICE inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
LUQ_HOST_DEVICE inline float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

LUQ_HOST_DEVICE inline bool stats_finite(const Stats& stats) { return stats.abs_bits_max < 0x7f800000u; }
LUQ_HOST_DEVICE inline float stats_max(const Stats& stats) { return bits_float(stats.abs_bits_max); }

// clip of SAWB with the guards of docs/numerics.md: outside the range of the fit the largest magnitude is used.
LUQ_HOST_DEVICE inline float sawb_clip(double sum_sq, double sum_abs, double count, float max_abs, double c1,
                                       double c2) {
  if (count <= 0) return 0.0f;
  const double rms = sqrt(sum_sq / count);
  const double clip = c1 * rms - c2 * (sum_abs / count);
  if (!(clip <= max_abs) || !(clip >= rms)) return max_abs;  // also catches NaN
  return static_cast<float>(clip);
}

// The clip of `method` for finite statistics; unsigned_grid: the tensor cannot be negative and uses 0..15.
LUQ_HOST_DEVICE inline float integer_clip(const Stats& stats, ScaleMethod method, bool unsigned_grid) {
  const float max_abs = stats_max(stats);
  if (method == ScaleMethod::max) return max_abs;
  if (method == ScaleMethod::sawb_nonzero && unsigned_grid)
    return sawb_clip(stats.sum_sq, stats.sum_abs, static_cast<double>(stats.nonzero), max_abs, 16.9, 17.8);
  return sawb_clip(stats.sum_sq, stats.sum_abs, static_cast<double>(stats.count), max_abs, 12.035, 12.03);
}

// The step between neighbouring integer codes: clip/7, clip/15, or 2 clip/15 for the reference method on unsigned data.
LUQ_HOST_DEVICE inline float integer_scale(float clip, ScaleMethod method, bool unsigned_grid) {
  if (!unsigned_grid) return clip / 7.0f;
  return method == ScaleMethod::reference ? 2.0f * clip / 15.0f : clip / 15.0f;
}

LUQ_HOST_DEVICE inline float fp4_alpha(float max_abs) { return max_abs * 0x1p-6f; }

// 1/scale, or 0 where the scale is 0 or too small to invert; all codes are 0 then, and so is the scale to store.
LUQ_HOST_DEVICE inline float invert_scale(float scale) { return scale >= 0x1p-126f ? 1.0f / scale : 0.0f; }

// Integer code values: round to nearest even, or up with the probability of the fraction (16 random bits), then clamped
// to [low, high]: -7..7 or 0..15. inverse = 1/scale.
LUQ_HOST_DEVICE inline int int4_value_nearest(float x, float inverse, int low, int high) {
  const float scaled = fminf(fmaxf(x * inverse, static_cast<float>(low)), static_cast<float>(high));
  return static_cast<int>(rintf(scaled));
}
LUQ_HOST_DEVICE inline int int4_value_stochastic(float x, float inverse, int low, int high, uint32_t random) {
  const float scaled = fminf(fmaxf(x * inverse, static_cast<float>(low)), static_cast<float>(high));
  const float whole = floorf(scaled);
  const float fraction = scaled - whole;  // exact
  return static_cast<int>(whole) + (fraction * 65536.0f > static_cast<float>(random) ? 1 : 0);
}
LUQ_HOST_DEVICE inline uint32_t int4_code(int value) { return static_cast<uint32_t>(value) & 15u; }

// FP4 code of x; inverse = 1/alpha (0 gives code 0); random in 0..65535, kNearestBits to round to nearest.
LUQ_HOST_DEVICE inline uint32_t fp4_code(float x, float inverse, uint32_t random) {
  const uint32_t sign = float_bits(x) >> 31;
  const float r = bits_float(float_bits(x) & 0x7fffffffu) * inverse;
  const bool below = r < 1.0f;
  const float s = below ? 1.0f + r : r;
  const uint32_t exponent = ((float_bits(s) + 64u + (random << 7)) >> 23) - 127u;
  uint32_t magnitude = below ? exponent : exponent + 1u;
  if (magnitude > kFp4MaxExponent) magnitude = kFp4MaxExponent;
  return magnitude == 0 ? 0u : (sign << 3) | magnitude;
}

// The integer a code stands for: value = scale * decode(code).
LUQ_HOST_DEVICE inline int decode(Format format, uint32_t code) {
  if (format == Format::uint4) return static_cast<int>(code);
  if (format == Format::int4) return static_cast<int>(code ^ 8u) - 8;
  const uint32_t exponent = code & 7u;
  const int magnitude = exponent == 0 ? 0 : 1 << (exponent - 1u);
  return (code & 8u) != 0 ? -magnitude : magnitude;
}

LUQ_HOST_DEVICE inline int max_magnitude(Format format) {
  return format == Format::uint4 ? 15 : format == Format::int4 ? 7 : 64;
}

// Longest sum of products of two formats that int32 holds for certain; longer ones are split and added in int64.
LUQ_HOST_DEVICE inline int64_t max_int32_terms(Format a, Format b) {
  return int64_t{0x7fffffff} / (int64_t{max_magnitude(a)} * max_magnitude(b));
}

// A whole number below 2^127 as a double, rounded to nearest even.
LUQ_HOST_DEVICE inline double nearest_double(unsigned __int128 whole) {
  int shift = 0;
  bool rest = false;  // bits below the 64 that are kept
  for (int step = 32; step > 0; step /= 2) {
    if (whole >> (63 + step) == 0) continue;
    const unsigned __int128 kept = whole >> step;
    rest = rest || kept << step != whole;
    whole = kept;
    shift += step;
  }
  return ldexp(static_cast<double>(static_cast<uint64_t>(whole) | static_cast<uint64_t>(rest)), shift);
}

// Mean and biased variance of `rows` results scale * s, from the sums of s and of s * s; int64 holds
// rows * max |s|^2. The differences of large numbers are exact; the rest is a few roundings in double.
LUQ_HOST_DEVICE inline void moments_of_sums(int64_t sum, int64_t square, int64_t rows, float scale, float* mean,
                                            float* variance) {
  const auto count = static_cast<double>(rows), step = static_cast<double>(scale);
  const __int128 spread = static_cast<__int128>(square) * rows - static_cast<__int128>(sum) * sum;
  *mean = static_cast<float>(step * (static_cast<double>(sum) / count));
  *variance =
      static_cast<float>(step * step * (nearest_double(static_cast<unsigned __int128>(spread)) / count / count));
}

LUQ_HOST_DEVICE inline uint32_t load_code(const uint8_t* row, int64_t column) {
  return (row[column >> 1] >> ((column & 1) * 4)) & 15u;
}

}  // namespace luq::kernels
