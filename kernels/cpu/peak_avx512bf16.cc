// Rates of the multiply-add units on AVX-512 with bfloat16.

#include <immintrin.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/peak_impl.h"

void peak_bfloat16(const PeakArgs& a) {
  const __m512bh small = (__m512bh)_mm512_set1_epi16(0x3f00);  // 0.5
  run_peak(a, _mm512_setzero_ps(), 64, [small](__m512 sum) { return _mm512_dpbf16_ps(sum, small, small); });
}

}  // namespace

void add_avx512bf16_peak(Kernels& table) { table.peak_bfloat16 = {peak_bfloat16, "avx512bf16"}; }

}  // namespace luq::kernels
