// Batch norm, pointwise operations, pooling and the update on AVX-512.

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Float = __m512;
  static constexpr int kLanes = 16;

  static __mmask16 mask(int64_t count) { return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }
  static Float set(float x) { return _mm512_set1_ps(x); }
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
  static void store_bits(int32_t* p, Float x, int64_t count) {
    _mm512_mask_storeu_epi32(p, mask(count), _mm512_castps_si512(x));
  }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
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

#include "kernels/cpu/float_impl.h"

}  // namespace

void add_avx512_float(Kernels& table) {
  table.column_sum = {column_sum, "avx512"};
  table.batch_norm_stats = {batch_norm_stats, "avx512"};
  table.batch_norm_apply = {batch_norm_apply, "avx512"};
  table.batch_norm_backward = {batch_norm_backward, "avx512"};
  table.relu = {relu, "avx512"};
  table.relu_backward = {relu_backward, "avx512"};
  table.add = {add, "avx512"};
  table.max_pool = {max_pool, "avx512"};
  table.max_pool_backward = {max_pool_backward, "avx512"};
  table.adaptive_avg_pool = {adaptive_avg_pool, "avx512"};
  table.adaptive_avg_pool_backward = {adaptive_avg_pool_backward, "avx512"};
  table.sgd = {sgd, "avx512"};
}

}  // namespace luq::kernels
