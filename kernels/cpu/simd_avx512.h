// The vectors that the quantisers, the float kernels and the fused ones are written in, on AVX-512.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd_common.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Float = __m512;
  using Int = __m512i;
  static constexpr int kLanes = 16;

  static Float zero() { return _mm512_setzero_ps(); }
  static Float set(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  // The second operand where the first is NaN.
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float abs(Float x) { return _mm512_abs_ps(x); }
  static Float floor(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static Int round(Float x) { return _mm512_cvtps_epi32(x); }  // nearest, ties to even
  static Int bits(Float x) { return _mm512_castps_si512(x); }

  static Int zero_int() { return _mm512_setzero_si512(); }
  static Int set_int(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static void store_int(void* p, Int x) { _mm512_storeu_si512(p, x); }
  static Int add_int(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static Int xor_int(Int a, Int b) { return _mm512_xor_si512(a, b); }
  static Int xor_int(Int a, Int b, Int c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
  static Int and_int(Int a, Int b) { return _mm512_and_si512(a, b); }
  // The sum of all lanes: lane i += lane i + half, for halves 8, 4, 2, 1.
  static float fold(Float x) {
    const __m256 x8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
  }
  static uint32_t largest(Int x) { return static_cast<uint32_t>(_mm512_reduce_max_epi32(x)); }
  static Int max_int(Int a, Int b) { return _mm512_max_epi32(a, b); }
  static int64_t count_zeros(Float x) { return _mm_popcnt_u32(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_EQ_OQ)); }
  // value + 1 where a > b.
  static Int add_where_greater(Int value, Float a, Float b) {
    return _mm512_mask_add_epi32(value, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), value, _mm512_set1_epi32(1));
  }
  // LUQ codes of 32 values, numerics.h's fp4_code, with 32 random numbers of 16 bits in order. The upper 16 bits of the
  // mantissas, and the exponents, of all 32 are brought together in lanes of 16 bits.
  static void store_fp4(uint8_t* p, Float x0, Float x1, Float inverse, Int random) {
    const Float one = set(1.0f);
    const Float r0 = mul(abs(x0), inverse), r1 = mul(abs(x1), inverse);
    const __mmask16 below0 = _mm512_cmp_ps_mask(r0, one, _CMP_LT_OQ), below1 = _mm512_cmp_ps_mask(r1, one, _CMP_LT_OQ);
    const Int s0 = bits(_mm512_mask_add_ps(r0, below0, r0, one)), s1 = bits(_mm512_mask_add_ps(r1, below1, r1, one));
    const Int half = _mm512_set1_epi32(64);
    const Int t0 = _mm512_srli_epi32(_mm512_add_epi32(s0, half), 7),
              t1 = _mm512_srli_epi32(_mm512_add_epi32(s1, half), 7);
    const Int low_words = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                                           24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const Int high_words = _mm512_add_epi16(low_words, _mm512_set1_epi16(1));
    const Int sum = _mm512_add_epi16(_mm512_permutex2var_epi16(t0, low_words, t1), random);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(sum, random);
    const Int exponent = _mm512_permutex2var_epi16(t0, high_words, t1), unit = _mm512_set1_epi16(1);
    Int magnitude = _mm512_sub_epi16(exponent, _mm512_set1_epi16(126));
    magnitude = _mm512_mask_add_epi16(magnitude, carry, magnitude, unit);
    magnitude = _mm512_mask_sub_epi16(magnitude, _mm512_kunpackw(below1, below0), magnitude, unit);
    magnitude = _mm512_min_epu16(magnitude, _mm512_set1_epi16(7));
    const __mmask32 negative = _mm512_movepi16_mask(_mm512_permutex2var_epi16(bits(x0), high_words, bits(x1)));
    const __mmask32 nonzero = _mm512_test_epi16_mask(magnitude, magnitude);
    const Int code = _mm512_or_si512(magnitude, _mm512_maskz_mov_epi16(negative & nonzero, _mm512_set1_epi16(8)));
    const Int pairs = _mm512_or_si512(code, _mm512_srli_epi32(code, 12));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(pairs));
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  // 16 codes in int32 lanes to 8 bytes.
  static void store_codes(uint8_t* p, Int codes) {
    const Int pairs = _mm512_or_si512(codes, _mm512_srli_epi64(codes, 28));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm512_cvtepi64_epi8(pairs));
  }

  static Int block_order() { return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); }
  static void multiply(Int x, uint32_t factor, Int& high, Int& low) {
    const Int m = _mm512_set1_epi64(factor);
    const Int even = _mm512_mul_epu32(x, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), m);
    low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
    high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  }
  static void transpose(Int a, Int b, Int c, Int d, Int* out) {
    const Int ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
    const Int cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
    out[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
    out[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
  }
  static Int low_half(Int x) { return _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x)); }
  static Int high_half(Int x) { return _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(x, 1)); }

  using Lookup = __m512;
  static Lookup lookup(const float* values) { return _mm512_loadu_ps(values); }
  static Float decode(const uint8_t* codes, Lookup values) {
    const Int bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    const Int spread = _mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28));
    return _mm512_permutexvar_ps(_mm512_and_si512(spread, _mm512_set1_epi32(15)), values);
  }

  static __mmask16 mask(int64_t count) { return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }
  static Float set_bits(int32_t x) { return _mm512_castsi512_ps(_mm512_set1_epi32(x)); }
  // The first `count` lanes; the others are 0.
  static Float load(const float* p, int64_t count) {
    return count >= kLanes ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask(count), p);
  }
  static void store(float* p, Float x, int64_t count) {
    if (count >= kLanes) {
      _mm512_storeu_ps(p, x);
    } else {
      _mm512_mask_storeu_ps(p, mask(count), x);
    }
  }
  // bfloat16, as float32 in registers.
  static Float widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
  static Float load(const BFloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Float load(const BFloat16* p, int64_t count) {
    return count >= kLanes ? load(p) : widen(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  // to_bfloat16, in the upper halves of the lanes.
  static Int rounded(Float x) {
    const Int all = bits(x), odd = _mm512_and_si512(_mm512_srli_epi32(all, 16), _mm512_set1_epi32(1));
    const Int sum = _mm512_add_epi32(_mm512_add_epi32(all, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(sum, nan, all, _mm512_set1_epi32(0x400000));
  }
  static void store(BFloat16* p, Float x, int64_t count) {
    const __m256i narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(x), 16));
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow);
    } else {
      _mm256_mask_storeu_epi16(p, mask(count), narrow);
    }
  }
  static void store(BFloat16* p, Float x) { store(p, x, kLanes); }
  // x as it will be read again from the type of p.
  static Float as_stored(const float*, Float x) { return x; }
  static Float as_stored(const BFloat16*, Float x) {
    return _mm512_castsi512_ps(_mm512_and_si512(rounded(x), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static void store_bits(int32_t* p, Float x, int64_t count) {
    _mm512_mask_storeu_epi32(p, mask(count), _mm512_castps_si512(x));
  }
  // Bit i is p[i] == value, for the first `count` lanes.
  static uint32_t equal_bits(const int32_t* p, int32_t value, int64_t count) {
    const __mmask16 lanes = mask(count);
    return _mm512_mask_cmpeq_epi32_mask(lanes, _mm512_maskz_loadu_epi32(lanes, p), _mm512_set1_epi32(value));
  }
  static uint32_t first_bits(int64_t count) { return (1u << count) - 1; }
  // to[i] += x[i].
  static void add_to_doubles(double* to, Float x) {
    const __m256 high = _mm512_extractf32x8_ps(x, 1);
    _mm512_storeu_pd(to, _mm512_add_pd(_mm512_loadu_pd(to), _mm512_cvtps_pd(_mm512_castps512_ps256(x))));
    _mm512_storeu_pd(to + 8, _mm512_add_pd(_mm512_loadu_pd(to + 8), _mm512_cvtps_pd(high)));
  }
  // Bit i is x[i] > 0.
  static uint32_t positive_bits(Float x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ); }
  static Float zero_where_not_positive(Float x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), x);  // NaN stays
  }
  static Float keep(Float x, uint32_t bits) { return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), x); }
  // best and index become value and at where value > best, or where value is the first NaN.
  static void replace_if_larger(Float& best, Float& index, Float value, Float at) {
    const __mmask16 not_larger = _mm512_cmp_ps_mask(value, best, _CMP_LE_OQ);
    const __mmask16 best_nan = _mm512_cmp_ps_mask(best, best, _CMP_UNORD_Q);
    const __mmask16 replace = static_cast<__mmask16>(~(not_larger | best_nan));
    best = _mm512_mask_mov_ps(best, replace, value);
    index = _mm512_mask_mov_ps(index, replace, at);
  }
};

}  // namespace
}  // namespace luq::kernels
