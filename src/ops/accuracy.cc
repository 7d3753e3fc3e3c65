#include "luq/ops/accuracy.h"

#include "kernels/kernels.h"
#include "luq/core/convert.h"
#include "luq/core/error.h"

namespace luq {

int64_t count_top_k(Ctx& ctx, const Tensor& logits, const Tensor& labels, int64_t k) {
  const Shape& s = logits.shape();
  if (s.rank() != 2 || labels.shape() != Shape{s[0]} || labels.dtype() != DType::int32) {
    fail("[count_top_k] expected logits (N,classes) and int32 labels (N), got {} and {}{}", to_string(s),
         to_string(labels.dtype()), to_string(labels.shape()));
  }
  const int64_t classes = s[1];
  if (k < 1 || k > classes) fail("[count_top_k] expected k in 1..{}, got {}", classes, k);
  const Tensor values = convert(*ctx.kernels, logits, DType::float32).to({});
  int64_t count = 0;
  for (int64_t row = 0; row < s[0]; ++row) {
    const int32_t label = labels.data<int32_t>()[row];
    if (label < 0 || label >= classes) {
      fail("[count_top_k] expected labels in 0..{}, got {} in row {}", classes - 1, label, row);
    }
    const float* x = values.data<float>() + row * classes;  // (classes)
    int64_t larger = 0;
    for (int64_t c = 0; c < label; ++c) larger += x[c] < x[label] ? 0 : 1;
    for (int64_t c = label + 1; c < classes; ++c) larger += x[c] <= x[label] ? 0 : 1;
    count += larger < k ? 1 : 0;
  }
  return count;
}

}  // namespace luq
