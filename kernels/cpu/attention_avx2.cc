// Attention on AVX2.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/attention_impl.h"

}  // namespace

void add_avx2_attention(Kernels& table) {
  table.attention = {attention, "avx2"};
  table.attention_backward = {attention_backward, "avx2"};
}

}  // namespace luq::kernels
