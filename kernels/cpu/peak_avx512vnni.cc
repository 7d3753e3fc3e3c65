// Rates of the multiply-add units on AVX-512 with VNNI.

#include <immintrin.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/peak_impl.h"

void peak_int8(const PeakArgs& a) {
  const __m512i one = _mm512_set1_epi8(1);
  run_peak(a, _mm512_setzero_si512(), 128, [one](__m512i sum) { return _mm512_dpbusd_epi32(sum, one, one); });
}

}  // namespace

void add_avx512vnni_peak(Kernels& table) { table.peak_int8 = {peak_int8, "avx512vnni"}; }

}  // namespace luq::kernels
