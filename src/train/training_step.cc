#include "src/train/training_step.h"

#include <algorithm>
#include <cmath>

#include "luq/core/error.h"
#include "luq/ops/loss.h"
#include "luq/train/checkpoint.h"

namespace luq {
namespace {

// step: updates done. Before the first one the learning rate is not at fault.
void check_finite(const char* what, double value, Module& model, uint64_t step) {
  if (std::isfinite(value)) return;
  const std::string name = first_non_finite(model);
  fail("{} is {}; {}; the run stops ({})", what, std::isnan(value) ? "NaN" : "infinite",
       name.empty() ? "every parameter and buffer is finite, so the activations overflowed"
                    : "the first parameter or buffer that holds NaN or infinity is " + name,
       step > 0 ? "a lower optimizer.lr may help"
                : "no update was done yet: look at model.weights and at data.augment.mean and std");
}

// Of every layer's weights that are quantised, where the device takes them all at once.
std::unordered_map<const void*, Stats> take_weight_statistics(const Ctx& ctx, const ExperimentParts& parts) {
  if (!takes_statistics_together(*ctx.kernels)) return {};
  std::unordered_map<std::string, const Tensor*> weights;
  for (const Parameter* parameter : parts.model->parameters()) {
    weights.emplace(parameter->name, &parameter->var.value());
  }
  std::vector<Tensor> wanted;
  for (const MatmulLayer& layer : parts.model->matmul_layers()) {
    const auto weight = weights.find(layer.name + ".weight");
    if (weight != weights.end() && parts.plan[layer.name].weights.format.quantized()) wanted.push_back(*weight->second);
  }
  return statistics_of(*ctx.kernels, wanted);
}

}  // namespace

StepOutcome training_step(const ExperimentConfig& config, ExperimentParts& parts, Ctx ctx, Optimizer& optimizer,
                          const Batch& batch, double lr, const std::function<void(const char*)>& phase) {
  const auto begin = [&phase](const char* name) {
    if (phase) phase(name);
  };
  const int64_t count = config.train.micro_batches;
  const bool clips = config.train.clip_grad_norm > 0;
  StepOutcome outcome;
  begin("forward");
  const auto weight_statistics = take_weight_statistics(ctx, parts);
  ctx.weight_statistics = &weight_statistics;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * batch.size() / count, end = (i + 1) * batch.size() / count;
    if (first == end) continue;  // broken images were left out
    begin("forward");
    Tape tape;
    ctx.tape = &tape;
    ctx.micro_batch = static_cast<uint32_t>(i);
    const Batch part = count == 1 ? batch : batch.part(first, end - first);
    const double share = static_cast<double>(part.size()) / static_cast<double>(batch.size());
    const Var logits = parts.model->forward(ctx, parts.input(ctx, part.images));
    const LossResult result =
        softmax_cross_entropy(ctx, logits, part.labels, static_cast<float>(config.train.label_smoothing),
                              part.other_labels, part.label_weight);
    const double loss = static_cast<double>(result.loss.value().data<float>()[0]);
    check_finite("the loss", loss, *parts.model, ctx.step);
    outcome.loss += loss * share;
    outcome.correct += result.correct;
    begin("backward");
    if (count > 1 || clips) {
      tape.backward(result.loss, static_cast<float>(share));
    } else {
      tape.backward(result.loss, 1.0f, [&] {
        begin("update");
        optimizer.update_complete(lr);
        begin("backward");
      });
    }
  }
  begin("update");
  double scale = 1;
  if (clips) {
    outcome.gradient_norm = optimizer.gradient_norm();
    check_finite("the norm of the gradients", *outcome.gradient_norm, *parts.model, ctx.step);
    scale = std::min(1.0, config.train.clip_grad_norm / (*outcome.gradient_norm + 1e-6));
  }
  optimizer.step(lr, scale);
  return outcome;
}

}  // namespace luq
