// Pointwise operations, pooling and the update on AVX-512.

#include <math.h>
#include <string.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/float_impl.h"

}  // namespace

void add_avx512_float(Kernels& table) {
  table.convert = {convert, "avx512"};
  table.relu = {relu, "avx512"};
  table.relu_backward = {relu_backward, "avx512"};
  table.add = {add, "avx512"};
  table.gelu = {gelu, "avx512"};
  table.gelu_backward = {gelu_backward, "avx512"};
  table.max_pool = {max_pool, "avx512"};
  table.max_pool_backward = {max_pool_backward, "avx512"};
  table.adaptive_avg_pool = {adaptive_avg_pool, "avx512"};
  table.adaptive_avg_pool_backward = {adaptive_avg_pool_backward, "avx512"};
  table.sgd = {sgd, "avx512"};
  table.adamw = {adamw, "avx512"};
}

}  // namespace luq::kernels
