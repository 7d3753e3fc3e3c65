// Attention on AVX2.

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/attention_impl.h"

}  // namespace

void add_avx2_attention(Kernels& table) {
  table.attention = {attention, "avx2", prepare_attention};
  table.attention_backward = {attention_backward, "avx2", prepare_attention_backward};
}

}  // namespace luq::kernels
