// Images on AVX-512.

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/ref/image.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Lanes {
  static constexpr int64_t kRows = 4;  // 128-bit lanes

  static __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m512i set(int32_t x) { return _mm512_set1_epi32(x); }
  static __m512i load_rows(const uint8_t* const* rows, int64_t offset) {
    __m512i bytes = _mm512_castsi128_si512(load16(rows[0] + offset));
    bytes = _mm512_inserti32x4(bytes, load16(rows[1] + offset), 1);
    bytes = _mm512_inserti32x4(bytes, load16(rows[2] + offset), 2);
    return _mm512_inserti32x4(bytes, load16(rows[3] + offset), 3);
  }
  // The three bytes of pixel `tap` of each lane as int32, then 0.
  static __m512i spread(__m512i bytes, int tap) {
    const __m512i first =
        _mm512_broadcast_i32x4(_mm_setr_epi32(static_cast<int>(0x80808000u), static_cast<int>(0x80808001u),
                                              static_cast<int>(0x80808002u), static_cast<int>(0x80808080u)));
    return _mm512_shuffle_epi8(bytes, _mm512_add_epi32(first, _mm512_set1_epi32(3 * tap)));
  }
  static __m512i multiply_add(__m512i a, int32_t k, __m512i sum) {
    return _mm512_add_epi32(sum, _mm512_mullo_epi32(a, set(k)));
  }
  static __m512i shifted(__m512i sum) {
    return _mm512_max_epi32(_mm512_srai_epi32(sum, kResizeBits), _mm512_setzero_si512());
  }
  static void store_rows(uint8_t* const* rows, int64_t offset, __m512i values) {
    const __m128i bytes = _mm512_cvtusepi32_epi8(values);
    const int32_t row0 = _mm_extract_epi32(bytes, 0), row1 = _mm_extract_epi32(bytes, 1);
    const int32_t row2 = _mm_extract_epi32(bytes, 2), row3 = _mm_extract_epi32(bytes, 3);
    memcpy(rows[0] + offset, &row0, 4);
    memcpy(rows[1] + offset, &row1, 4);
    memcpy(rows[2] + offset, &row2, 4);
    memcpy(rows[3] + offset, &row3, 4);
  }
  static __m512i widen(const uint8_t* p) { return _mm512_cvtepu8_epi32(load16(p)); }
  static void store_bytes(uint8_t* p, __m512i values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(values));
  }
  static void normalize8(__m128i bytes, const double* scale, const double* shift, float* y) {
    const __m512d values = _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(bytes));
    _mm256_storeu_ps(y, _mm512_cvtpd_ps(_mm512_fmadd_pd(values, _mm512_loadu_pd(scale), _mm512_loadu_pd(shift))));
  }
};

#include "kernels/cpu/image_impl.h"

}  // namespace

void add_avx512_image(Kernels& table) {
  table.resize = {resize, "avx512"};
  table.finish_images = {finish_images, "avx512"};
}

}  // namespace luq::kernels
