#include "luq/train/step_runner.h"

#include <chrono>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "src/train/experiment_parts.h"
#include "src/train/training_step.h"

namespace luq {

struct StepRunner::State {
  explicit State(const ExperimentConfig& experiment)
      : config(experiment),
        parts(make_parts(config, true)),
        optimizer(make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels)) {
    Loader loader(parts.train_set, transform_options(config),
                  {.batch_size = config.train.batch_size, .shuffle = true, .augment = true, .seed = config.seed});
    loader.start(0);
    if (!loader.next(batch)) fail("[step] the data set gave no batch");
    batch.images = batch.images.to(parts.device);
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
  Ctx ctx = state_->parts.context(state_->config);
  KernelProfile* profile = state_->profile;
  if (profile != nullptr) ctx.kernels = &profile->kernels();
  ctx.training = true;
  ctx.step = state_->step++;
  const StepOutcome outcome = training_step(state_->config, state_->parts, ctx, *state_->optimizer, state_->batch,
                                            state_->config.optimizer.lr, [profile](const char* name) {
                                              if (profile != nullptr) profile->set_phase(name);
                                            });
  if (const DeviceMemory* device = device_memory(ctx.device)) device->wait();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          static_cast<float>(outcome.loss)};
}

void StepRunner::record(KernelProfile* profile) {
  state_->profile = profile;
  state_->optimizer->use(profile != nullptr ? profile->kernels() : *state_->parts.kernels);
}

int64_t StepRunner::peak_memory() const {
  const MemoryStats stats = memory_stats(state_->parts.device);
  return stats.peak_bytes + stats.scratch_bytes;
}

const Kernels& StepRunner::kernels() const { return *state_->parts.kernels; }

int64_t StepRunner::batch_size() const { return state_->batch.size(); }

}  // namespace luq
