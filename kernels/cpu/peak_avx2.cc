// Rates of the multiply-add units on AVX2.

#include <immintrin.h>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/peak_impl.h"

// Sums of pairs in int16, as the matmul tiles add them: 32 products in two instructions.
void peak_int8(const PeakArgs& a) {
  const __m256i one = _mm256_set1_epi8(1);
  run_peak(a, _mm256_setzero_si256(), 64, [one](__m256i sum) {
    __m256i u = one;
    asm volatile("" : "+v"(u));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, one));
  });
}

void peak_float32(const PeakArgs& a) {
  const __m256 small = _mm256_set1_ps(0.5f);
  run_peak(a, _mm256_setzero_ps(), 16, [small](__m256 sum) { return _mm256_fmadd_ps(small, small, sum); });
}

void peak_read(const PeakReadArgs& a) {
  const auto load = [](const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); };
  const auto either = [](__m256i x, __m256i y) { return _mm256_or_si256(x, y); };
  const __m256i all = read_all(a, _mm256_setzero_si256(), load, either);
  *a.all = static_cast<uint8_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(all)));
}

}  // namespace

void add_avx2_peak(Kernels& table) {
  table.peak_int8 = {peak_int8, "avx2"};
  table.peak_float32 = {peak_float32, "avx2"};
  table.peak_read = {peak_read, "avx2"};
}

}  // namespace luq::kernels
