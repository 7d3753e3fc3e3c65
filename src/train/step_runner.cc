#include "luq/train/step_runner.h"

#include <chrono>

#include "luq/core/error.h"
#include "luq/ops/loss.h"
#include "luq/train/optimizer.h"
#include "src/train/experiment_parts.h"

namespace luq {

struct StepRunner::State {
  explicit State(const ExperimentConfig& experiment)
      : config(experiment),
        parts(make_parts(config, true)),
        optimizer(make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels)) {
    Loader loader(parts.train_set, augment_options(config),
                  {.batch_size = config.train.batch_size, .shuffle = true, .augment = true, .seed = config.seed});
    loader.start(0);
    if (!loader.next(batch)) fail("[step] the data set gave no batch");
  }

  ExperimentConfig config;
  ExperimentParts parts;
  std::unique_ptr<Optimizer> optimizer;
  Batch batch;
  KernelProfile* profile = nullptr;
  uint64_t step = 0;
};

StepRunner::StepRunner(const ExperimentConfig& config) : state_(std::make_unique<State>(config)) {}
StepRunner::~StepRunner() = default;

StepRunner::Result StepRunner::step() {
  const auto start = std::chrono::steady_clock::now();
  Tape tape;
  Ctx ctx = state_->parts.context(state_->config);
  KernelProfile* profile = state_->profile;
  if (profile != nullptr) ctx.kernels = &profile->kernels();
  const auto phase = [profile](const char* name) {
    if (profile != nullptr) profile->set_phase(name);
  };
  phase("forward");
  ctx.tape = &tape;
  ctx.training = true;
  ctx.step = state_->step++;
  const Var logits = state_->parts.model->forward(ctx, state_->parts.input(state_->batch.images));
  const LossResult result = softmax_cross_entropy(ctx, logits, state_->batch.labels,
                                                  static_cast<float>(state_->config.train.label_smoothing));
  phase("backward");
  tape.backward(result.loss, 1.0f, [&] {
    phase("update");
    state_->optimizer->update_complete(state_->config.optimizer.lr);
    phase("backward");
  });
  phase("update");
  state_->optimizer->step(state_->config.optimizer.lr);
  const float loss = result.loss.value().data<float>()[0];
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), loss};
}

void StepRunner::record(KernelProfile* profile) {
  state_->profile = profile;
  state_->optimizer->use(profile != nullptr ? profile->kernels() : *state_->parts.kernels);
}

const Kernels& StepRunner::kernels() const { return *state_->parts.kernels; }

int64_t StepRunner::batch_size() const { return state_->batch.size(); }

}  // namespace luq
