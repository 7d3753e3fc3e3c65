// The 4-bit matmuls on AVX2: vpmaddubsw multiplies and adds pairs into int16, which cannot saturate on
// these operands (pairs reach 15 * 7 * 2, 128 * 7 * 2 and 15 * 64 * 2), vpmaddwd widens, vpaddd adds.

#include <immintrin.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Int = __m256i;
  static constexpr int kLanes = 8;  // int32
  static constexpr int kBytes = 32;
  static constexpr int kMaxRows = 5;  // 5 x 2 accumulators, 2 vectors, a broadcast and temporaries fit in 16 registers

  static Int load(const void* p) { return _mm256_loadu_si256(static_cast<const Int*>(p)); }
  static void store(void* p, Int x) { _mm256_storeu_si256(static_cast<Int*>(p), x); }
  static Int broadcast(const void* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  // sums + (four unsigned bytes of u) * (four signed bytes of s), per lane.
  static Int dot(Int sums, Int u, Int s) {
    const Int quads = _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1));
    return _mm256_add_epi32(sums, quads);
  }
  static void store_scaled(float* y, Int sums, float scale, const float* bias, int64_t count) {
    const Int lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const Int mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count >= kLanes ? kLanes : static_cast<int>(count)), lane);
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale));
    if (bias != nullptr) value = _mm256_add_ps(value, _mm256_maskload_ps(bias, mask));
    _mm256_maskstore_ps(y, mask, value);
  }
};

const Kernels& ref_table() {
  static const Kernels table = [] {
    Kernels ref;
    add_ref_qconv(ref);
    return ref;
  }();
  return table;
}

#include "kernels/cpu/qconv_impl.h"

}  // namespace

void add_avx2_qconv(Kernels& table) {
  table.qconv_forward = {qconv_forward, "avx2"};
  table.qconv_backward_data = {qconv_backward_data, "avx2"};
  table.qconv_backward_weight = {qconv_backward_weight, "avx2"};
}

}  // namespace luq::kernels
