// The vector type of the 4-bit matmul tiles with vpdpbusd: 64 products an instruction, added to int32 without
// saturation.
#pragma once

#include <immintrin.h>

#include "kernels/cpu/qconv_zmm.h"

namespace luq::kernels {
namespace {

struct Vnni : Zmm {
  static constexpr int kMaxRows = 14;
  static constexpr int kMaxBlocks = 2;
  static constexpr bool kChained = false;
  static Int dot(Int sum, Int u, Int s) { return _mm512_dpbusd_epi32(sum, u, s); }
};

}  // namespace
}  // namespace luq::kernels
