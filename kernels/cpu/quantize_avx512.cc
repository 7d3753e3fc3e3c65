// Statistics, encoders and decoder on AVX-512.

#include <string.h>

#include "kernels/chunk_tree.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/quantize_impl.h"

}  // namespace

void add_avx512_quantize(Kernels& table) {
  table.stats = {stats, "avx512"};
  table.encode = {encode, "avx512"};
  table.random_bits = {random_bits, "avx512"};
  table.decode = {decode_codes, "avx512"};
}

}  // namespace luq::kernels
