// Pointwise operations, pooling and the update on AVX2.

#include <math.h>
#include <string.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/float_impl.h"

}  // namespace

void add_avx2_float(Kernels& table) {
  table.convert = {convert, "avx2"};
  table.relu = {relu, "avx2"};
  table.relu_backward = {relu_backward, "avx2"};
  table.add = {add, "avx2"};
  table.gelu = {gelu, "avx2"};
  table.gelu_backward = {gelu_backward, "avx2"};
  table.max_pool = {max_pool, "avx2"};
  table.max_pool_backward = {max_pool_backward, "avx2"};
  table.adaptive_avg_pool = {adaptive_avg_pool, "avx2"};
  table.adaptive_avg_pool_backward = {adaptive_avg_pool_backward, "avx2"};
  table.sgd = {sgd, "avx2"};
  table.adamw = {adamw, "avx2"};
}

}  // namespace luq::kernels
