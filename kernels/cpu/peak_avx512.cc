// Rates of the multiply-add units on AVX-512.

#include <immintrin.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/peak_impl.h"

// Sums of pairs in int16, as the matmul tiles add them: 64 products in two instructions.
void peak_int8(const PeakArgs& a) {
  const __m512i one = _mm512_set1_epi8(1);
  run_peak(a, _mm512_setzero_si512(), 128, [one](__m512i sum) {
    __m512i u = one;
    asm volatile("" : "+v"(u));
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(u, one));
  });
}

void peak_float32(const PeakArgs& a) {
  const __m512 small = _mm512_set1_ps(0.5f);
  run_peak(a, _mm512_setzero_ps(), 32, [small](__m512 sum) { return _mm512_fmadd_ps(small, small, sum); });
}

void peak_read(const PeakReadArgs& a) {
  const auto load = [](const uint8_t* p) { return _mm512_load_si512(reinterpret_cast<const __m512i*>(p)); };
  const auto either = [](__m512i x, __m512i y) { return _mm512_or_si512(x, y); };
  const __m512i all = read_all(a, _mm512_setzero_si512(), load, either);
  *a.all = static_cast<uint8_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(all)));
}

}  // namespace

void add_avx512_peak(Kernels& table) {
  table.peak_int8 = {peak_int8, "avx512"};
  table.peak_float32 = {peak_float32, "avx512"};
  table.peak_read = {peak_read, "avx512"};
}

}  // namespace luq::kernels
