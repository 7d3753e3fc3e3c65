// Both halves of the 4-bit matmul driver need these: decode tables, byte interleaving.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu/qconv_driver.h"

namespace luq::kernels {

constexpr int64_t kParallelMacs = 1 << 17;  // less work than this is not worth waking threads for

// Code -> byte. An unsigned operand is value + offset, so that it is never negative, and at most 2 kMaxCodeValue; a
// signed one has offset 0.
struct DecodeTable {
  alignas(16) uint8_t value[16];
  int offset;

  static DecodeTable as_unsigned(const CodeTable& table) {
    int lowest = 0;
    for (int8_t v : table.value) lowest = v < lowest ? v : lowest;
    return DecodeTable(table, -lowest);
  }
  static DecodeTable as_signed(const CodeTable& table) { return DecodeTable(table, 0); }
  uint8_t zero() const { return value[0]; }

 private:
  DecodeTable(const CodeTable& table, int shift) : offset(shift) {
    for (uint32_t code = 0; code < 16; ++code) value[code] = static_cast<uint8_t>(decode(table, code) + shift);
  }
};

// Steps whose sums of two products of an unsigned by a signed byte stay within int16: at least 1, as no sum of two is
// beyond 4 kMaxCodeValue^2.
inline int64_t int16_chain(const DecodeTable& u, const DecodeTable& s) {
  int u_max = 0, s_max = 0;
  for (int code = 0; code < 16; ++code) {
    u_max = u.value[code] > u_max ? u.value[code] : u_max;
    const int magnitude = std::abs(static_cast<int8_t>(s.value[code]));
    s_max = magnitude > s_max ? magnitude : s_max;
  }
  return 32767 / std::max(2 * u_max * s_max, 1);
}

// to[c * 4 + i] = row i [c] for 16 values of c.
inline void interleave4(const void* row0, const void* row1, const void* row2, const void* row3, void* to) {
  const auto load = [](const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); };
  const __m128i a = load(row0), b = load(row1), c = load(row2), d = load(row3);
  const __m128i ab_low = _mm_unpacklo_epi8(a, b), ab_high = _mm_unpackhi_epi8(a, b);
  const __m128i cd_low = _mm_unpacklo_epi8(c, d), cd_high = _mm_unpackhi_epi8(c, d);
  __m128i* out = static_cast<__m128i*>(to);
  _mm_storeu_si128(out + 0, _mm_unpacklo_epi16(ab_low, cd_low));
  _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(ab_low, cd_low));
  _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(ab_high, cd_high));
  _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(ab_high, cd_high));
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Groups of a convolution that are computed together, as one with zero weights off the diagonal: enough of them to fill
// a block of 16 columns. One group: the plain convolution.
inline int64_t merged_groups(const ConvShape& shape) {
  const int64_t wider = shape.c_group() > shape.o_group() ? shape.c_group() : shape.o_group();
  int64_t merged = kBlock / wider;
  if (merged < 1) merged = 1;
  return merged < shape.groups ? merged : shape.groups;
}

// The tile [begin, end) number `index` of `count` near-equal ones.
inline int64_t part_begin(int64_t length, int64_t count, int64_t index) { return length * index / count; }

}  // namespace luq::kernels
