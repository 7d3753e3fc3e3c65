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
  static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static Float sqrt(Float x) { return _mm512_sqrt_ps(x); }
  // a * b + c, rounded once.
  static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  // The second operand where the first is NaN.
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float abs(Float x) { return _mm512_abs_ps(x); }
  static Float floor(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static Int round(Float x) { return _mm512_cvtps_epi32(x); }  // nearest, ties to even
  static Int bits(Float x) { return _mm512_castps_si512(x); }

  static Float as_floats(Int x) { return _mm512_castsi512_ps(x); }
  static Int load_int(const void* p) { return _mm512_loadu_si512(p); }
  // Bit i: lane i is not 0.
  static uint32_t nonzero_bits(Int x) { return _mm512_test_epi32_mask(x, x); }

  // 0 for what is below 0, and for -0. As integers these are all up to -infinity; negative NaN come after.
  static Float relu(Float x) {
    return keep(x, _mm512_cmpgt_epi32_mask(bits(x), _mm512_set1_epi32(static_cast<int>(0xff800000u))));
  }

  // ---- 16-bit lanes
  // The first `count` < 2 kLanes; the others are 0.
  static Int load_halves(const BFloat16* p, int64_t count) { return _mm512_maskz_loadu_epi16((1u << count) - 1, p); }
  static void store_halves(BFloat16* p, Int x, int64_t count) { _mm512_mask_storeu_epi16(p, (1u << count) - 1, x); }
  static Int keep_halves(Int x, uint32_t bits) { return _mm512_maskz_mov_epi16(bits, x); }
  static uint32_t nonzero_halves(Int x) { return _mm512_test_epi16_mask(x, x); }
  static Int relu_halves(Int x) {
    return keep_halves(x, _mm512_cmpgt_epi16_mask(x, _mm512_set1_epi16(static_cast<int16_t>(0xff80))));
  }
  static Int max_halves(Int a, Int b) { return _mm512_max_epi16(a, b); }
  // Elements of even and of odd index to the first and the second half of them all.
  static void merge(Float even, Float odd, Float& first, Float& second) {
    const Int low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    first = _mm512_permutex2var_ps(even, low, odd);
    second = _mm512_permutex2var_ps(even, add_int(low, set_int(8)), odd);
  }

  static Int zero_int() { return _mm512_setzero_si512(); }
  static Int set_int(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static void store_int(void* p, Int x) { _mm512_storeu_si512(p, x); }
  // Past the caches, to an aligned address: the line that is written is not read before. finish_streams() follows, in
  // each thread.
  static void stream_int(void* p, Int x) { _mm512_stream_si512(static_cast<Int*>(p), x); }
  static void finish_streams() { _mm_sfence(); }
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
  // value + 1 where a > b.
  static Int add_where_greater(Int value, Float a, Float b) {
    return _mm512_mask_add_epi32(value, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), value, _mm512_set1_epi32(1));
  }
  // GCC 12 takes a function that only prefetches for one without effect and drops its calls, were it not for volatile.
  static void prefetch(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }
  static void prefetch_far(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }
  // The larger of (1 + r) / 2 and r for r = |x| inverse, with the sign of x.
  static Float half_s(Float x, Float inverse) {
    const Float half = set(0.5f), r = mul(x, inverse);
    const Float signed_half = as_floats(or_masked(bits(half), bits(x), set_int(0x80000000u)));
    constexpr int larger_magnitude = 7;
    return _mm512_range_ps(multiply_add(r, half, signed_half), r, larger_magnitude);
  }
  // a | (b & mask)
  static Int or_masked(Int a, Int b, Int mask) { return _mm512_ternarylogic_epi32(a, b, mask, 0xF8); }
  // (a & ~mask) | (b & mask)
  static Int choose(Int a, Int b, Int mask) { return _mm512_ternarylogic_epi32(mask, a, b, 0xAC); }
  template <int kBits>
  static Int shift_left(Int x) {
    return _mm512_slli_epi32(x, kBits);
  }
  template <int kBits>
  static Int shift_right(Int x) {
    return _mm512_srli_epi32(x, kBits);
  }
  static Int min_bytes(Int a, Int b) { return _mm512_min_epu8(a, b); }
  // Sums in int16 of two products of an unsigned and a signed byte.
  static Int multiply_add_bytes(Int a, Int b) { return _mm512_maddubs_epi16(a, b); }
  // table[x] of bytes of x below 16; `table` repeats its 16 bytes.
  static Int look_up_bytes(Int table, Int x) { return _mm512_shuffle_epi8(table, x); }
  static Int repeat16(const uint8_t* bytes) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  // Elements of even and of odd index of 2 kLanes.
  static void split(const float* p, Float& even, Float& odd) {
    const Int evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const Float first = load(p), second = load(p + kLanes);
    even = _mm512_permutex2var_ps(first, evens, second);
    odd = _mm512_permutex2var_ps(first, add_int(evens, set_int(1)), second);
  }
  static void split(const BFloat16* p, Float& even, Float& odd) {
    const Int both = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(shift_left<16>(both));
    odd = _mm512_castsi512_ps(and_int(both, set_int(0xffff0000u)));
  }
  // Bytes of the words of x and y, below 256; every 8 bytes of the result are of one of them, x first.
  static Int words_to_bytes(Int x, Int y) { return _mm512_packus_epi16(x, y); }
  // Puts what words_to_bytes made twice over from 4 vectors into their order.
  static Int bytes_in_order(Int x) {
    const Int order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, x);
  }
  // 8 vectors of int4 or uint4 values in int32 lanes to 64 bytes of codes, in order.
  static Int codes_of(const Int (&x)[8]) {
    const Int low = _mm512_set1_epi8(15), places = _mm512_set1_epi16(0x1001);
    const Int first = _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
    const Int second = _mm512_packs_epi16(_mm512_packs_epi32(x[4], x[5]), _mm512_packs_epi32(x[6], x[7]));
    const Int bytes = _mm512_packus_epi16(multiply_add_bytes(and_int(first, low), places),
                                          multiply_add_bytes(and_int(second, low), places));
    const Int order = _mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4, 27, 19, 11, 3, 26,
                                       18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
    return _mm512_permutexvar_epi16(order, bytes);
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
