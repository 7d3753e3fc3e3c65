// 4-bit matmul tiles for AVX-512BW without VNNI: vpmaddubsw gives sums of two products in int16, which cannot saturate
// on operands of up to 64, vpaddw adds a chain of those, vpmaddwd widens.

#include <immintrin.h>

#include "kernels/cpu/qconv_tiles.h"
#include "kernels/cpu/qconv_zmm.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct Avx512 : Zmm {
  static constexpr int kMaxRows = 13;  // one register less for sums: the pairs need one
  static constexpr int kMaxBlocks = 2;
  static constexpr bool kChained = true;
  static Int pairs(Int u, Int s) { return _mm512_maddubs_epi16(u, s); }
  static Int add16(Int a, Int b) { return _mm512_add_epi16(a, b); }
  static Int widen(Int sum, Int pairs) { return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))); }
};

}  // namespace

void add_avx512_qconv(Kernels& table) { add_qconv<Avx512>(table, "avx512"); }

}  // namespace luq::kernels
