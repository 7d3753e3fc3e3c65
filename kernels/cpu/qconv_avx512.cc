// The 4-bit matmuls on AVX-512 without VNNI: vpmaddubsw multiplies and adds pairs into int16, which cannot saturate on
// these operands (pairs reach 15 * 7 * 2, 128 * 7 * 2 and 15 * 64 * 2), vpmaddwd widens, vpaddd adds.

#include <immintrin.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Simd {
  using Int = __m512i;
  static constexpr int kLanes = 16;  // int32
  static constexpr int kBytes = 64;
  static constexpr int kMaxRows =
      12;  // 12 x 2 accumulators, 2 vectors, a broadcast and temporaries fit in 32 registers

  static Int load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Int x) { _mm512_storeu_si512(p, x); }
  static Int broadcast(const void* p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  // sums + (four unsigned bytes of u) * (four signed bytes of s), per lane.
  static Int dot(Int sums, Int u, Int s) {
    const Int quads = _mm512_madd_epi16(_mm512_maddubs_epi16(u, s), _mm512_set1_epi16(1));
    return _mm512_add_epi32(sums, quads);
  }
  static void store_scaled(float* y, Int sums, float scale, const float* bias, int64_t count) {
    const __mmask16 mask = count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
    __m512 value = _mm512_mul_ps(_mm512_maskz_cvtepi32_ps(mask, sums), _mm512_set1_ps(scale));
    if (bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias));
    _mm512_mask_storeu_ps(y, mask, value);
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

void add_avx512_qconv(Kernels& table) {
  table.qconv_forward = {qconv_forward, "avx512"};
  table.qconv_backward_data = {qconv_backward_data, "avx512"};
  table.qconv_backward_weight = {qconv_backward_weight, "avx512"};
}

}  // namespace luq::kernels
