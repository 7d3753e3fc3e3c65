// 4-bit matmul tiles for AVX2: vpmaddubsw gives sums of two products in int16, which cannot saturate on operands of up
// to 64, vpaddw adds a chain of those, vpmaddwd widens.

#include <immintrin.h>

#include "kernels/cpu/qconv_tiles.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Avx2 {
  using Int = __m256i;
  using Floats = Simd;
  static constexpr int kLanes = 8;
  static constexpr bool kMoments = false;
  static constexpr int kMaxRows = 6;  // 12 sums, two vectors of weights, one broadcast, one product
  static constexpr int kMaxBlocks = 1;
  static constexpr bool kChained = true;

  static Int zero() { return _mm256_setzero_si256(); }
  static Int set(int x) { return _mm256_set1_epi32(x); }
  static Int load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, Int v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static Int broadcast(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  static Int add(Int a, Int b) { return _mm256_add_epi32(a, b); }
  static Int pairs(Int u, Int s) { return _mm256_maddubs_epi16(u, s); }
  static Int add16(Int a, Int b) { return _mm256_add_epi16(a, b); }
  static Int widen(Int sum, Int pairs) { return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))); }

  template <typename T>
  static void store_float(T* y, Int sums, __m256 scale, const float* bias, bool accumulate, int64_t channels) {
    if (channels <= 0) return;
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
    if (bias != nullptr) value = _mm256_add_ps(value, Simd::load(bias, channels));
    if (accumulate) value = _mm256_add_ps(value, Simd::load(y, channels));
    Simd::store(y, value, channels);
  }

  static void unpack(const uint8_t* packed, int64_t bytes, const uint8_t* table, uint8_t* values) {
    const __m256i lookup = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    const __m256i low = _mm256_set1_epi8(15);
    int64_t i = 0;
    for (; i + 16 <= bytes; i += 16) {
      const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i)));
      const __m256i codes = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), low);
      store(values + 2 * i, _mm256_shuffle_epi8(lookup, codes));
    }
    for (; i < bytes; ++i) {
      values[2 * i] = table[packed[i] & 15];
      values[2 * i + 1] = table[packed[i] >> 4];
    }
  }
};

}  // namespace

void add_avx2_qconv(Kernels& table) { add_qconv<Avx2>(table, "avx2"); }

}  // namespace luq::kernels
