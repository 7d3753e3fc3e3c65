#include "src/train/prepare_steps.h"

#include <algorithm>
#include <functional>
#include <set>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/stand_in_kernels.h"
#include "luq/ops/loss.h"
#include "src/core/no_memory.h"

namespace luq {
namespace {

ImageBatch images_of(const ExperimentParts& parts, int64_t count) {
  const Shape shape{count, parts.image[0], parts.image[1], parts.image[2]};
  return ImageBatch::of(Tensor::empty(shape, DType::uint8), 1, 0);
}

// complete: those alone that nothing adds to any more.
void drop_gradients(Module& model, bool complete) {
  for (Parameter* parameter : model.parameters()) {
    const auto& slot = parameter->var.slot();
    if (!complete || slot.use_count() == 1) slot->grad = Tensor();
  }
}

void pass_training(const ExperimentConfig& config, ExperimentParts& parts, Ctx ctx, int64_t count) {
  const bool keeps_gradients = config.train.micro_batches > 1 || config.train.clip_grad_norm > 0;
  Tape tape;
  ctx.tape = &tape;
  ctx.training = true;
  const Var logits = parts.model->forward(ctx, parts.input(ctx, images_of(parts, count)));
  const Var loss = softmax_cross_entropy(ctx, logits, Tensor::zeros({count}, DType::int32)).loss;
  tape.backward(loss, 1, [&] { drop_gradients(*parts.model, !keeps_gradients); });
}

void pass_evaluation(ExperimentParts& parts, Ctx ctx, int64_t count) {
  const Var logits = parts.model->forward(ctx, parts.input(ctx, images_of(parts, count)));
  softmax_cross_entropy(ctx, logits, Tensor::zeros({count}, DType::int32));
}

void pass_all(const ExperimentConfig& config, ExperimentParts& parts) {
  const StandInKernels preparing(*parts.kernels, StandIn::preparing);
  Ctx ctx = parts.context(config);
  ctx.kernels = &preparing.kernels();
  const int64_t batch = config.train.batch_size, micro_batches = config.train.micro_batches;
  int64_t evaluated = parts.test_set->info().images;
  if (config.eval.max_images > 0) evaluated = std::min(evaluated, config.eval.max_images);
  const int64_t eval_batch = std::min(config.eval.batch_size, evaluated);
  // The largest first: smaller ones find their memory there.
  std::set<int64_t, std::greater<>> training{(batch + micro_batches - 1) / micro_batches, batch / micro_batches};
  std::set<int64_t, std::greater<>> evaluation{eval_batch, eval_batch > 0 ? evaluated % eval_batch : 0};
  training.erase(0);
  evaluation.erase(0);
  for (const int64_t count : training) pass_training(config, parts, ctx, count);
  drop_gradients(*parts.model, false);
  for (const int64_t count : evaluation) pass_evaluation(parts, ctx, count);
}

}  // namespace

void prepare_steps(const ExperimentConfig& config, ExperimentParts& parts) {
  if (parts.device.type != DeviceType::cpu) return;
  try {
    or_out_of_memory("[allocate]", [&] { pass_all(config, parts); });
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(fmt::format("[train] before the first step: {}", error.what()));
  } catch (const Error&) {  // which the first step will meet again, and tell
    drop_gradients(*parts.model, false);
  }
  reset_peak_memory(parts.device);
}

}  // namespace luq
