// 4-bit matmul tiles with vpdpbusd, as in qconv_avx512vnni.cc, whose results are rounded to bfloat16 by vcvtneps2bf16:
// two operations a vector instead of eight, which short sums feel. The instruction rounds to nearest, ties to even, and
// takes magnitudes below 2^-126 for 0.

#include <immintrin.h>

#include "kernels/cpu/qconv_tiles.h"
#include "kernels/cpu/qconv_vnni.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct VnniBf16 : Vnni {
  using Vnni::store_float;
  static void store_float(BFloat16* y, Int sums, __m512 scale, const float* bias, bool accumulate, int64_t channels) {
    if (channels <= 0) return;
    const __m512 value = scaled(y, sums, scale, bias, accumulate, channels);
    const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(value);
    if (channels >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), narrow);
    } else {
      _mm256_mask_storeu_epi16(y, Simd::mask(channels), narrow);
    }
  }
};

}  // namespace

void add_avx512bf16_qconv(Kernels& table) { add_qconv<VnniBf16>(table, "avx512bf16"); }

}  // namespace luq::kernels
