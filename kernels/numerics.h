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
#include "luq/core/grid.h"
#include "luq/core/rng.h"
#include "luq/core/statistics.h"

namespace luq::kernels {

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
LUQ_HOST_DEVICE inline float clip_of(const Stats& stats, ScaleMethod method, bool unsigned_grid) {
  const float max_abs = stats_max(stats);
  if (method == ScaleMethod::max) return max_abs;
  if (method == ScaleMethod::sawb_nonzero && unsigned_grid)
    return sawb_clip(stats.sum_sq, stats.sum_abs, static_cast<double>(stats.nonzero), max_abs, 16.9, 17.8);
  return sawb_clip(stats.sum_sq, stats.sum_abs, static_cast<double>(stats.count), max_abs, 12.035, 12.03);
}

// The grid's 1 stands for this when its highest value stands for the clip (int4: clip/7, fp4: alpha = clip/64), or, for
// the reference method on unsigned data, for twice that: 2 clip/15.
LUQ_HOST_DEVICE inline float grid_scale(const Grid& grid, float clip, ScaleMethod method, bool unsigned_grid) {
  return (method == ScaleMethod::reference && unsigned_grid ? 2.0f * clip : clip) / grid.highest();
}

// 1/scale, or 0 where the scale is 0 or too small to invert; all codes are 0 then, and so is the scale to store.
LUQ_HOST_DEVICE inline float invert_scale(float scale) { return scale >= 0x1p-126f ? 1.0f / scale : 0.0f; }

// Integers of a uniform grid: round to nearest even, or up with the probability of the fraction (16 random bits), then
// clamped to [low, high]. inverse = 1/scale.
LUQ_HOST_DEVICE inline int integer_nearest(float x, float inverse, int low, int high) {
  const float scaled = fminf(fmaxf(x * inverse, static_cast<float>(low)), static_cast<float>(high));
  return static_cast<int>(rintf(scaled));
}
LUQ_HOST_DEVICE inline int integer_stochastic(float x, float inverse, int low, int high, uint32_t random) {
  const float scaled = fminf(fmaxf(x * inverse, static_cast<float>(low)), static_cast<float>(high));
  const float whole = floorf(scaled);
  const float fraction = scaled - whole;  // exact
  return static_cast<int>(whole) + (fraction * 65536.0f > static_cast<float>(random) ? 1 : 0);
}
LUQ_HOST_DEVICE inline uint32_t integer_code(int value) { return static_cast<uint32_t>(value) & 15u; }

// Code of x on a grid of powers of 2 with so many magnitudes; inverse = 1/scale (0 gives code 0); random in 0..65535,
// kNearestBits to round to nearest.
LUQ_HOST_DEVICE inline uint32_t power_code(float x, float inverse, int magnitudes, uint32_t random) {
  const uint32_t sign = float_bits(x) >> 31;
  const float r = bits_float(float_bits(x) & 0x7fffffffu) * inverse;
  const bool below = r < 1.0f;
  const float s = below ? 1.0f + r : r;
  const uint32_t exponent = ((float_bits(s) + 64u + (random << 7)) >> 23) - 127u;
  uint32_t magnitude = below ? exponent : exponent + 1u;
  if (magnitude > static_cast<uint32_t>(magnitudes)) magnitude = static_cast<uint32_t>(magnitudes);
  return magnitude == 0 ? 0u : (sign << 3) | magnitude;
}

// Code of x by the list of the grid's magnitudes: between two of them, low and high, with the fraction
// f = (r - low) / (high - low) of r = |x| * inverse, the higher one where f >= 1/2 (nearest), or f * 65536 > random.
LUQ_HOST_DEVICE inline uint32_t level_code(const Grid& grid, float x, float inverse, Rounding rounding,
                                           uint32_t random) {
  const float r = bits_float(float_bits(x) & 0x7fffffffu) * inverse;
  int magnitude = 0;
  while (magnitude < grid.magnitudes && r >= grid.level[magnitude + 1]) ++magnitude;
  if (magnitude < grid.magnitudes) {
    const float low = grid.level[magnitude], fraction = (r - low) / (grid.level[magnitude + 1] - low);
    magnitude += rounding == Rounding::nearest ? fraction >= 0.5f : fraction * 65536.0f > static_cast<float>(random);
  }
  return magnitude == 0 ? 0u : (float_bits(x) >> 31 << 3) | static_cast<uint32_t>(magnitude);
}

// Code of x on any grid; random: 16 bits, read where rounding is stochastic.
LUQ_HOST_DEVICE inline uint32_t grid_code(const Grid& grid, float x, float inverse, Rounding rounding,
                                          uint32_t random) {
  const bool nearest = rounding == Rounding::nearest;
  if (grid.kind == GridKind::uniform) {
    return integer_code(nearest ? integer_nearest(x, inverse, grid.low, grid.high)
                                : integer_stochastic(x, inverse, grid.low, grid.high, random));
  }
  if (grid.kind == GridKind::powers_of_2) {
    return power_code(x, inverse, grid.magnitudes, nearest ? kNearestBits : random);
  }
  return level_code(grid, x, inverse, rounding, random);
}

// The integer a code stands for: value = scale * decode(table, code).
LUQ_HOST_DEVICE inline int decode(const CodeTable& table, uint32_t code) { return table.value[code]; }

// Longest sum of products of two operands that int32 holds for certain; longer ones are split and added in int64.
LUQ_HOST_DEVICE inline int64_t max_int32_terms(const CodeTable& a, const CodeTable& b) {
  const int64_t largest = int64_t{a.magnitude()} * b.magnitude();
  return int64_t{0x7fffffff} / (largest > 0 ? largest : 1);
}

// The scale of a result whose place in a vector of scales is i.
LUQ_HOST_DEVICE inline float result_scale(float scale, const float* scales, int64_t i) {
  return scales != nullptr ? scale * scales[i] : scale;
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
