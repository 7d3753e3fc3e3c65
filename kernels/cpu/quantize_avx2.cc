// Statistics, encoders and decoder on AVX2.

#include <string.h>

#include "kernels/chunk_tree.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/quantize_impl.h"

}  // namespace

void add_avx2_quantize(Kernels& table) {
  table.stats = {stats, "avx2"};
  table.encode = {encode, "avx2"};
  table.random_bits = {random_bits, "avx2"};
  table.decode = {decode_codes, "avx2"};
}

}  // namespace luq::kernels
