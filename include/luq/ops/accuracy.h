// How often a model is right.
#pragma once

#include <cstdint>

#include "luq/autograd/ctx.h"

namespace luq {

// Rows whose label is among the k largest logits, as in torch.topk; of equal logits the one of the lower class counts
// as the larger, so that k = 1 counts what LossResult::correct does. NaN counts against the label, whatever logit it
// is. logits (N, classes) float32 or bfloat16, labels (N) int32 in 0..classes-1, k in 1..classes. Throws Error
// `[count_top_k] ...` for what is not so.
int64_t count_top_k(Ctx& ctx, const Tensor& logits, const Tensor& labels, int64_t k);

}  // namespace luq
