// Batch norm, pointwise operations, pooling and the update on AVX2.

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Float = __m256;
  static constexpr int kLanes = 8;

  static __m256i mask(int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count >= kLanes ? kLanes : static_cast<int>(count)), lane);
  }
  static Float set(float x) { return _mm256_set1_ps(x); }
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
  static void store_bits(int32_t* p, Float x, int64_t count) {
    _mm256_maskstore_epi32(p, mask(count), _mm256_castps_si256(x));
  }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  // Bit i is x[i] > 0.
  static uint32_t positive_bits(Float x) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ)));
  }
  static Float zero_where_not_positive(Float x) {
    return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NLE_UQ), x);  // NaN stays
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

#include "kernels/cpu/float_impl.h"

}  // namespace

void add_avx2_float(Kernels& table) {
  table.column_sum = {column_sum, "avx2"};
  table.batch_norm_stats = {batch_norm_stats, "avx2"};
  table.batch_norm_apply = {batch_norm_apply, "avx2"};
  table.batch_norm_backward = {batch_norm_backward, "avx2"};
  table.relu = {relu, "avx2"};
  table.relu_backward = {relu_backward, "avx2"};
  table.add = {add, "avx2"};
  table.max_pool = {max_pool, "avx2"};
  table.max_pool_backward = {max_pool_backward, "avx2"};
  table.adaptive_avg_pool = {adaptive_avg_pool, "avx2"};
  table.adaptive_avg_pool_backward = {adaptive_avg_pool_backward, "avx2"};
  table.sgd = {sgd, "avx2"};
}

}  // namespace luq::kernels
