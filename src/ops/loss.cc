#include "luq/ops/loss.h"

#include "kernels/kernels.h"
#include "luq/core/convert.h"
#include "luq/ops/plan.h"
#include "src/ops/check.h"

namespace luq {

namespace {

void check_labels(const char* name, const Tensor& labels, const Shape& logits) {
  if (labels.shape() != Shape{logits[0]}) {
    fail("[softmax_cross_entropy] expected {} of shape ({}), got {}", name, logits[0], to_string(labels.shape()));
  }
  if (labels.dtype() != DType::int32) {
    fail("[softmax_cross_entropy] expected {} of dtype int32, got {}", name, to_string(labels.dtype()));
  }
  for (int64_t row = 0; row < logits[0]; ++row) {
    const int32_t label = labels.data<int32_t>()[row];
    if (label < 0 || label >= logits[1]) {
      fail("[softmax_cross_entropy] expected {} in 0..{}, got {} in row {}", name, logits[1] - 1, label, row);
    }
  }
}

void check_weights(const Tensor& weights, int64_t rows) {
  if (weights.shape() != Shape{rows} || weights.dtype() != DType::float32) {
    fail("[softmax_cross_entropy] expected label_weight of shape ({}) and dtype float32, got {} {}", rows,
         to_string(weights.shape()), to_string(weights.dtype()));
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float weight = weights.data<float>()[row];
    if (!(weight >= 0 && weight <= 1)) {
      fail("[softmax_cross_entropy] expected label_weight in [0, 1], got {} in row {}", weight, row);
    }
  }
}

// The targets of a batch on the device, as the kernel reads them.
struct Targets {
  Tensor labels, other_labels, label_weight;
  void put(kernels::CrossEntropyArgs& args) const {
    args.labels = labels.data<int32_t>();
    if (!other_labels.defined()) return;
    args.other_labels = other_labels.data<int32_t>();
    args.label_weight = label_weight.data<float>();
  }
};

}  // namespace

LossResult softmax_cross_entropy(Ctx& ctx, const Var& logits, const Tensor& labels, float label_smoothing,
                                 const Tensor& other_labels, const Tensor& label_weight) {
  check_float("softmax_cross_entropy", "", "logits", logits.value());
  const Shape& s = logits.shape();
  if (s.rank() != 2 || s[0] < 1) {
    fail("[softmax_cross_entropy] expected logits of shape (N,classes) with N >= 1, got {}", to_string(s));
  }
  if (!(label_smoothing >= 0.0f && label_smoothing < 1.0f)) {
    fail("[softmax_cross_entropy] expected label_smoothing in [0, 1), got {}", label_smoothing);
  }
  check_labels("labels", labels, s);
  const bool mixed = other_labels.defined();
  if (mixed != label_weight.defined()) {
    fail("[softmax_cross_entropy] expected both other_labels and label_weight or neither");
  }
  if (mixed) {
    check_labels("other_labels", other_labels, s);
    check_weights(label_weight, s[0]);
  }
  const Kernels& kernels = *ctx.kernels;
  const bool needs_grad = ctx.records(logits);
  const Device device = logits.value().device();
  Tensor losses = Tensor::empty({s[0]}, DType::float32, device);
  LossResult result;
  const DType dtype = logits.value().dtype();
  const Tensor values = convert(kernels, logits.value(), DType::float32);
  kernels::CrossEntropyArgs args{.logits = values.data<float>(),
                                 .labels = nullptr,
                                 .rows = s[0],
                                 .classes = s[1],
                                 .label_smoothing = label_smoothing,
                                 .loss = losses.data<float>(),
                                 .dlogits = nullptr,
                                 .gradient_scale = 1.0f / static_cast<float>(s[0]),
                                 .correct = &result.correct};
  const Targets targets{labels.to(device), other_labels.to(device), label_weight.to(device)};
  targets.put(args);
  kernels.cross_entropy(args);
  losses = losses.to({});
  double sum = 0;
  for (int64_t row = 0; row < s[0]; ++row) sum += std::as_const(losses).data<float>()[row];
  result.loss = Var(Tensor::full({1}, static_cast<float>(sum / static_cast<double>(s[0]))), needs_grad);
  record_plan(ctx, "softmax_cross_entropy", "", s, result.loss.shape(), kernels.cross_entropy.implementation,
              needs_grad ? kernels.cross_entropy.implementation : "-", 0, dtype);
  if (!needs_grad) return result;

  ctx.tape->record(result.loss, [&kernels, args, values, targets, dtype, slot = logits.slot()](const Tensor& dy) {
    kernels::CrossEntropyArgs backward = args;
    Tensor gradient = Tensor::empty(values.shape(), DType::float32, values.device());
    targets.put(backward);
    backward.loss = nullptr;
    backward.correct = nullptr;
    backward.dlogits = gradient.data<float>();
    backward.gradient_scale *= dy.data<float>()[0];
    kernels.cross_entropy(backward);
    add_gradient(kernels, *slot, convert(kernels, gradient, dtype));
  });
  return result;
}

}  // namespace luq
