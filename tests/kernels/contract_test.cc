// That the contract and these tests have the same entries.

#include <set>
#include <string>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace luq::test {

TEST_CASE("Every entry of the contract has a case in these files", "[kernels]") {
  const std::set<std::string> tested{
      // transformer_test.cc
      "attention", "attention_backward", "gelu", "gelu_backward", "layer_norm", "layer_norm_backward",
      // batch_norm_test.cc
      "batch_norm_stats", "batch_norm_apply", "batch_norm_backward", "batch_norm_act", "batch_norm_act_backward",
      "batch_norm_finish", "column_sum",
      // bfloat16_test.cc
      "convert",
      // conv_test.cc
      "conv_forward", "conv_backward_data", "conv_backward_weight",
      // image_test.cc
      "resize", "finish_images",
      // loss_and_update_test.cc
      "cross_entropy", "sgd", "adamw",
      // peak_test.cc
      "peak_int8", "peak_float32", "peak_bfloat16", "peak_read",
      // pointwise_test.cc
      "relu", "relu_backward", "add", "dropout", "moving_average", "copy_rows",
      // pool_test.cc
      "max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward", "adaptive_avg_pool",
      "adaptive_avg_pool_backward",
      // qconv_test.cc
      "qconv_forward", "qconv_forward_moments", "qconv_backward_data", "qconv_backward_weight",
      // quantize_test.cc
      "stats", "stats_many", "encode", "decode", "random_bits"};
  for (const auto& [entry, implementation] : describe(kernels_for({}))) {
    INFO(entry);
    CHECK((implementation == "-" || tested.count(entry) == 1));
  }
}

}  // namespace luq::test
