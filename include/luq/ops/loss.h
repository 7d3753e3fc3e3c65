// Softmax cross-entropy.
#pragma once

#include "luq/autograd/ctx.h"

namespace luq {

struct LossResult {
  Var loss;             // (1): mean over the batch
  int64_t correct = 0;  // rows whose largest logit (the first of equals) is the label
};

// logits (N, classes) float32, labels (N) int32 in 0..classes-1, label_smoothing in [0, 1) as in PyTorch: the target is
// (1 - s) one-hot + s / classes. The mean is added in double, in row order.
// Throws Error `[softmax_cross_entropy] ...` for shapes that do not fit and for a label out of range.
// Mixed images (mixup, cutmix): one-hot is label_weight one-hot(label) + (1 - label_weight) one-hot(other label), with
// other_labels (N) int32 and label_weight (N) float32 in [0, 1], both or neither; `correct` counts the first label.
LossResult softmax_cross_entropy(Ctx& ctx, const Var& logits, const Tensor& labels, float label_smoothing = 0.0f,
                                 const Tensor& other_labels = {}, const Tensor& label_weight = {});

}  // namespace luq
