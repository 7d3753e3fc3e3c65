// The 4-bit matmul tiles of the AVX-512 files share this: 512-bit integer vectors, and unpacking.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/simd_avx512.h"

namespace luq::kernels {
namespace {

struct Zmm {
  using Int = __m512i;
  using Floats = Simd;
  static constexpr int kLanes = 16;
  static Int zero() { return _mm512_setzero_si512(); }
  static Int set(int x) { return _mm512_set1_epi32(x); }
  static Int load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Int v) { _mm512_storeu_si512(p, v); }
  static Int broadcast(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static Int add(Int a, Int b) { return _mm512_add_epi32(a, b); }

  static constexpr bool kMoments = true;
  template <int kRows, class Get>
  [[gnu::always_inline]] static void add_moments(int64_t* sums, int64_t* squares, Get get) {
    Int total = zero(), even = zero(), odd = zero();
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const Int x = get(row), high = _mm512_srli_epi64(x, 32);
      total = add(total, x);
      even = _mm512_add_epi64(even, _mm512_mul_epi32(x, x));
      odd = _mm512_add_epi64(odd, _mm512_mul_epi32(high, high));
    }
    const auto add_to = [](int64_t* to, Int x) { store(to, _mm512_add_epi64(load(to), x)); };
    add_to(sums, _mm512_srai_epi64(_mm512_slli_epi64(total, 32), 32));
    add_to(sums + 8, _mm512_srai_epi64(total, 32));
    add_to(squares, even);
    add_to(squares + 8, odd);
  }

  // `channels` results, to be stored in y or, accumulated, already with what is there.
  template <typename T>
  static __m512 scaled(const T* y, Int sums, __m512 scale, const float* bias, bool accumulate, int64_t channels) {
    __m512 value = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(0xffff, sums), scale);
    if (bias != nullptr) value = _mm512_add_ps(value, Simd::load(bias, channels));
    if (accumulate) value = _mm512_add_ps(value, Simd::load(y, channels));
    return value;
  }
  template <typename T>
  static void store_float(T* y, Int sums, __m512 scale, const float* bias, bool accumulate, int64_t channels) {
    if (channels <= 0) return;
    Simd::store(y, scaled(y, sums, scale, bias, accumulate, channels), channels);
  }

  static void unpack(const uint8_t* packed, int64_t bytes, const uint8_t* table, uint8_t* values) {
    const __m512i lookup = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t i = 0; i < bytes; i += 32) {
      const int64_t left = bytes - i;
      const __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
      const __m512i wide = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, packed + i));
      const __m512i codes = _mm512_and_si512(_mm512_or_si512(wide, _mm512_slli_epi16(wide, 4)), low);
      const __m512i decoded = _mm512_shuffle_epi8(lookup, codes);
      if (left >= 32) {
        _mm512_storeu_si512(values + 2 * i, decoded);
      } else {
        _mm512_mask_storeu_epi8(values + 2 * i, (uint64_t{1} << (2 * left)) - 1, decoded);
      }
    }
  }
};

}  // namespace
}  // namespace luq::kernels
