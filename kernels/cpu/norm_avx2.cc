// Batch norm, layer norm and what is fused with it on AVX2.

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/chunk_tree.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

#include "kernels/cpu/norm_impl.h"

}  // namespace

void add_avx2_norm(Kernels& table) {
  table.column_sum = {column_sum, "avx2", prepare_column_sum};
  table.batch_norm_stats = {batch_norm_stats, "avx2", prepare_batch_norm_stats};
  table.batch_norm_apply = {batch_norm_apply, "avx2", prepare_batch_norm_apply};
  table.batch_norm_backward = {batch_norm_backward, "avx2", prepare_batch_norm_backward};
  table.batch_norm_act = {batch_norm_act, "avx2", prepare_batch_norm_act};
  table.batch_norm_act_backward = {batch_norm_act_backward, "avx2", prepare_batch_norm_act_backward};
  table.layer_norm = {layer_norm, "avx2"};
  table.layer_norm_backward = {layer_norm_backward, "avx2", prepare_layer_norm_backward};
}

}  // namespace luq::kernels
