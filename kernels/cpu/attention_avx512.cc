// Attention on AVX-512.

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/attention_impl.h"

}  // namespace

void add_avx512_attention(Kernels& table) {
  table.attention = {attention, "avx512", prepare_attention};
  table.attention_backward = {attention_backward, "avx512", prepare_attention_backward};
}

}  // namespace luq::kernels
