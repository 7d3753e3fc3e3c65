// The vectors that the quantisers, the float kernels and the fused ones are written in, on AVX2.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/simd_common.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Float = __m256;
  using Int = __m256i;
  static constexpr int kLanes = 8;

  static Float zero() { return _mm256_setzero_ps(); }
  static Float set(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  static Float sqrt(Float x) { return _mm256_sqrt_ps(x); }
  // a * b + c, rounded once.
  static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  // The second operand where the first is NaN.
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float abs(Float x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static Float floor(Float x) { return _mm256_floor_ps(x); }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static Int round(Float x) { return _mm256_cvtps_epi32(x); }  // nearest, ties to even
  static Int bits(Float x) { return _mm256_castps_si256(x); }

  static Float as_floats(Int x) { return _mm256_castsi256_ps(x); }
  static Int load_int(const void* p) { return _mm256_loadu_si256(static_cast<const Int*>(p)); }
  // Bit i: lane i is not 0.
  static uint32_t nonzero_bits(Int x) {
    const Int zeros = _mm256_cmpeq_epi32(x, _mm256_setzero_si256());
    return static_cast<uint32_t>(_mm256_movemask_ps(as_floats(zeros))) ^ 0xffu;
  }

  // 0 for what is below 0, and for -0. As integers these are all up to -infinity; negative NaN come after.
  static Float relu(Float x) {
    const Int keep = _mm256_cmpgt_epi32(bits(x), _mm256_set1_epi32(static_cast<int>(0xff800000u)));
    return as_floats(and_int(keep, bits(x)));
  }

  // ---- 16-bit lanes
  // The first `count` < 2 kLanes; the others are 0.
  static Int load_halves(const BFloat16* p, int64_t count) {
    BFloat16 values[2 * kLanes] = {};
    memcpy(values, p, static_cast<size_t>(count) * sizeof(BFloat16));
    return load_int(values);
  }
  static void store_halves(BFloat16* p, Int x, int64_t count) {
    BFloat16 values[2 * kLanes];
    store_int(values, x);
    memcpy(p, values, static_cast<size_t>(count) * sizeof(BFloat16));
  }
  static Int keep_halves(Int x, uint32_t bits) {
    const Int lane = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    const Int set = and_int(_mm256_set1_epi16(static_cast<int16_t>(bits)), lane);
    return and_int(_mm256_cmpeq_epi16(set, lane), x);
  }
  static uint32_t nonzero_halves(Int x) {
    const Int zeros = _mm256_cmpeq_epi16(x, _mm256_setzero_si256());
    const auto bits = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(zeros, zeros)));
    return ((bits & 0xffu) | (bits >> 8 & 0xff00u)) ^ 0xffffu;
  }
  static Int relu_halves(Int x) {
    return and_int(_mm256_cmpgt_epi16(x, _mm256_set1_epi16(static_cast<int16_t>(0xff80))), x);
  }
  static Int max_halves(Int a, Int b) { return _mm256_max_epi16(a, b); }
  // Elements of even and of odd index to the first and the second half of them all.
  static void merge(Float even, Float odd, Float& first, Float& second) {
    const Float low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    first = _mm256_permute2f128_ps(low, high, 0x20);
    second = _mm256_permute2f128_ps(low, high, 0x31);
  }

  static Int zero_int() { return _mm256_setzero_si256(); }
  static Int set_int(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static void store_int(void* p, Int x) { _mm256_storeu_si256(static_cast<Int*>(p), x); }
  // Past the caches, to an aligned address: the line that is written is not read before. finish_streams() follows, in
  // each thread.
  static void stream_int(void* p, Int x) { _mm256_stream_si256(static_cast<Int*>(p), x); }
  static void finish_streams() { _mm_sfence(); }
  static Int add_int(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int xor_int(Int a, Int b) { return _mm256_xor_si256(a, b); }
  static Int xor_int(Int a, Int b, Int c) { return xor_int(xor_int(a, b), c); }
  static Int and_int(Int a, Int b) { return _mm256_and_si256(a, b); }
  // The sum of all lanes: lane i += lane i + half, for halves 4, 2, 1.
  static float fold(Float x) {
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
  }
  static uint32_t largest(Int x) {
    const __m128i x4 = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i x2 = _mm_max_epi32(x4, _mm_shuffle_epi32(x4, 0x4e));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(x2, _mm_shuffle_epi32(x2, 0xb1))));
  }
  static Int max_int(Int a, Int b) { return _mm256_max_epi32(a, b); }
  // value + 1 where a > b.
  static Int add_where_greater(Int value, Float a, Float b) {
    return _mm256_sub_epi32(value, bits(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
  }
  // The larger of (1 + r) / 2 and r for r = |x| inverse, with the sign of x.
  static Float half_s(Float x, Float inverse) {
    const Float half = set(0.5f), r = mul(abs(x), inverse);
    return as_floats(or_masked(bits(max(multiply_add(r, half, half), r)), bits(x), set_int(0x80000000u)));
  }
  // a | (b & mask)
  static Int or_masked(Int a, Int b, Int mask) { return _mm256_or_si256(a, _mm256_and_si256(b, mask)); }
  // (a & ~mask) | (b & mask)
  static Int choose(Int a, Int b, Int mask) { return or_masked(_mm256_andnot_si256(mask, a), b, mask); }
  template <int kBits>
  static Int shift_left(Int x) {
    return _mm256_slli_epi32(x, kBits);
  }
  template <int kBits>
  static Int shift_right(Int x) {
    return _mm256_srli_epi32(x, kBits);
  }
  static Int min_bytes(Int a, Int b) { return _mm256_min_epu8(a, b); }
  // Sums in int16 of two products of an unsigned and a signed byte.
  static Int multiply_add_bytes(Int a, Int b) { return _mm256_maddubs_epi16(a, b); }
  // table[x] of bytes of x below 16; `table` repeats its 16 bytes.
  static Int look_up_bytes(Int table, Int x) { return _mm256_shuffle_epi8(table, x); }
  static Int repeat16(const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  // Elements of even and of odd index of 2 kLanes.
  static void split(const float* p, Float& even, Float& odd) {
    const Float first = load(p), second = load(p + kLanes);
    const auto in_order = [](Float x) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), _MM_SHUFFLE(3, 1, 2, 0)));
    };
    even = in_order(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
    odd = in_order(_mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)));
  }
  static void split(const BFloat16* p, Float& even, Float& odd) {
    const Int both = _mm256_loadu_si256(reinterpret_cast<const Int*>(p));
    even = _mm256_castsi256_ps(shift_left<16>(both));
    odd = _mm256_castsi256_ps(and_int(both, set_int(0xffff0000u)));
  }
  // Bytes of the words of x and y, below 256; every 8 bytes of the result are of one of them, x first.
  static Int words_to_bytes(Int x, Int y) { return _mm256_packus_epi16(x, y); }
  // Puts what words_to_bytes made twice over from 4 vectors into their order.
  static Int bytes_in_order(Int x) { return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); }
  // 8 vectors of int4 or uint4 values in int32 lanes to 32 bytes of codes, in order.
  static Int codes_of(const Int (&x)[8]) {
    const Int low = _mm256_set1_epi8(15), places = _mm256_set1_epi16(0x1001);
    const Int first = _mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
    const Int second = _mm256_packs_epi16(_mm256_packs_epi32(x[4], x[5]), _mm256_packs_epi32(x[6], x[7]));
    const Int bytes = _mm256_packus_epi16(multiply_add_bytes(and_int(first, low), places),
                                          multiply_add_bytes(and_int(second, low), places));
    const __m128i halves[2] = {_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)};
    return _mm256_set_m128i(_mm_unpackhi_epi16(halves[0], halves[1]), _mm_unpacklo_epi16(halves[0], halves[1]));
  }
  // GCC 12 takes a function that only prefetches for one without effect and drops its calls, were it not for volatile.
  static void prefetch(const void* p) { asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }
  static void prefetch_far(const void* p) { asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p))); }

  static Int block_order() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }
  static void multiply(Int x, uint32_t factor, Int& high, Int& low) {
    const Int m = _mm256_set1_epi64x(factor);
    const Int even = _mm256_mul_epu32(x, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), m);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  }
  static void transpose(Int a, Int b, Int c, Int d, Int* out) {
    const Int ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
    const Int cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
    out[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
    out[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
    out[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    out[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
  }
  static Int low_half(Int x) { return _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)); }
  static Int high_half(Int x) { return _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)); }

  struct Lookup {
    Float low, high;
  };
  static Lookup lookup(const float* values) { return {load(values), load(values + 8)}; }
  static Float decode(const uint8_t* codes, const Lookup& values) {
    int32_t four;
    memcpy(&four, codes, 4);
    const Int bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
    const Int index = _mm256_or_si256(bytes, _mm256_slli_epi64(bytes, 28));
    const Float low = _mm256_permutevar8x32_ps(values.low, index), high = _mm256_permutevar8x32_ps(values.high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }

  static __m256i mask(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count >= kLanes ? kLanes : static_cast<int>(count)), lane);
  }
  static Float set_bits(int32_t x) { return _mm256_castsi256_ps(_mm256_set1_epi32(x)); }
  // The first `count` lanes; the others are 0.
  static Float load(const float* p, int64_t count) {
    return count >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask(count));
  }
  static void store(float* p, Float x, int64_t count) {
    if (count >= kLanes) {
      _mm256_storeu_ps(p, x);
    } else {
      _mm256_maskstore_ps(p, mask(count), x);
    }
  }
  // bfloat16, as float32 in registers.
  static Float load(const BFloat16* p) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
  }
  static Float load(const BFloat16* p, int64_t count) {
    if (count >= kLanes) return load(p);
    BFloat16 values[kLanes] = {};
    memcpy(values, p, static_cast<size_t>(count) * sizeof(BFloat16));
    return load(values);
  }
  // to_bfloat16, in the upper halves of the lanes.
  static Int rounded(Float x) {
    const Int all = bits(x), odd = _mm256_and_si256(_mm256_srli_epi32(all, 16), _mm256_set1_epi32(1));
    const Int sum = _mm256_add_epi32(_mm256_add_epi32(all, _mm256_set1_epi32(0x7fff)), odd);
    const Int quiet = _mm256_or_si256(all, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(sum, quiet, bits(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
  }
  static void store(BFloat16* p, Float x, int64_t count) {
    const Int narrow = _mm256_srli_epi32(rounded(x), 16);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(narrow), _mm256_extracti128_si256(narrow, 1));
    if (count >= kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
      return;
    }
    BFloat16 values[kLanes];
    memcpy(values, &packed, sizeof values);
    memcpy(p, values, static_cast<size_t>(count) * sizeof(BFloat16));
  }
  static void store(BFloat16* p, Float x) { store(p, x, kLanes); }
  static void store_bits(int32_t* p, Float x, int64_t count) {
    _mm256_maskstore_epi32(p, mask(count), _mm256_castps_si256(x));
  }
  // Bit i is p[i] == value, for the first `count` lanes.
  static uint32_t equal_bits(const int32_t* p, int32_t value, int64_t count) {
    const Int equal = _mm256_cmpeq_epi32(_mm256_maskload_epi32(p, mask(count)), _mm256_set1_epi32(value));
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_and_si256(equal, mask(count)))));
  }
  static uint32_t first_bits(int64_t count) { return (1u << count) - 1; }
  // to[i] += x[i].
  static void add_to_doubles(double* to, Float x) {
    const __m128 high = _mm256_extractf128_ps(x, 1);
    _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_cvtps_pd(_mm256_castps256_ps128(x))));
    _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4), _mm256_cvtps_pd(high)));
  }
  static Float keep(Float x, uint32_t bits) {
    const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bit);
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane_bit)), x);
  }
  // best and index become value and at where value > best, or where value is the first NaN.
  static void replace_if_larger(Float& best, Float& index, Float value, Float at) {
    const Float not_larger = _mm256_cmp_ps(value, best, _CMP_LE_OQ);
    const Float stay = _mm256_or_ps(not_larger, _mm256_cmp_ps(best, best, _CMP_UNORD_Q));
    best = _mm256_blendv_ps(value, best, stay);
    index = _mm256_blendv_ps(at, index, stay);
  }
};

}  // namespace
}  // namespace luq::kernels
