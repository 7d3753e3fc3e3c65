// Images on AVX2.

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/ref/image.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Lanes {
  static constexpr int64_t kRows = 2;  // 128-bit lanes

  static __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m256i set(int32_t x) { return _mm256_set1_epi32(x); }
  static __m256i load_rows(const uint8_t* const* rows, int64_t offset) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(rows[0] + offset)), load16(rows[1] + offset), 1);
  }
  // The three bytes of pixel `tap` of each lane as int32, then 0.
  static __m256i spread(__m256i bytes, int tap) {
    const __m256i first =
        _mm256_setr_epi32(static_cast<int>(0x80808000u), static_cast<int>(0x80808001u), static_cast<int>(0x80808002u),
                          static_cast<int>(0x80808080u), static_cast<int>(0x80808000u), static_cast<int>(0x80808001u),
                          static_cast<int>(0x80808002u), static_cast<int>(0x80808080u));
    return _mm256_shuffle_epi8(bytes, _mm256_add_epi32(first, _mm256_set1_epi32(3 * tap)));
  }
  static __m256i multiply_add(__m256i a, int32_t k, __m256i sum) {
    return _mm256_add_epi32(sum, _mm256_mullo_epi32(a, set(k)));
  }
  static __m256i shifted(__m256i sum) { return _mm256_srai_epi32(sum, kResizeBits); }
  static __m256i packed(__m256i values) {  // bytes of each lane in its low four
    const __m256i halves = _mm256_packs_epi32(values, values);
    return _mm256_packus_epi16(halves, halves);
  }
  static void store_rows(uint8_t* const* rows, int64_t offset, __m256i values) {
    const __m256i bytes = packed(values);
    const int32_t first = _mm256_extract_epi32(bytes, 0), second = _mm256_extract_epi32(bytes, 4);
    memcpy(rows[0] + offset, &first, 4);
    memcpy(rows[1] + offset, &second, 4);
  }
  static __m256i widen(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bytes(uint8_t* p, __m256i values) {
    const __m256i bytes = packed(values);
    const int32_t first = _mm256_extract_epi32(bytes, 0), second = _mm256_extract_epi32(bytes, 4);
    memcpy(p, &first, 4);
    memcpy(p + 4, &second, 4);
  }
  static void normalize8(__m128i bytes, const double* scale, const double* shift, float* y) {
    const __m256i values = _mm256_cvtepu8_epi32(bytes);
    const __m256d low = _mm256_fmadd_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(values)), _mm256_loadu_pd(scale),
                                        _mm256_loadu_pd(shift));
    const __m256d high = _mm256_fmadd_pd(_mm256_cvtepi32_pd(_mm256_extracti128_si256(values, 1)),
                                         _mm256_loadu_pd(scale + 4), _mm256_loadu_pd(shift + 4));
    _mm_storeu_ps(y, _mm256_cvtpd_ps(low));
    _mm_storeu_ps(y + 4, _mm256_cvtpd_ps(high));
  }
};

#include "kernels/cpu/image_impl.h"

}  // namespace

void add_avx2_image(Kernels& table) {
  table.resize = {resize, "avx2"};
  table.finish_images = {finish_images, "avx2"};
}

}  // namespace luq::kernels
