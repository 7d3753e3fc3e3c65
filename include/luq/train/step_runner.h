// Training steps without a run: one experiment on one of its batches, for profiles and benchmarks.
#pragma once

#include <memory>
#include <vector>

#include "luq/config/experiment.h"
#include "luq/core/profile.h"

namespace luq {

class StepRunner {
 public:
  // Builds the experiment as train() would and loads its first batch. Writes nothing. Throws like train().
  explicit StepRunner(const ExperimentConfig& config);
  ~StepRunner();

  // One step on that batch: forward, loss, backward, update. Seconds, and the loss.
  struct Result {
    double seconds = 0;
    float loss = 0;
  };
  Result step();
  // Steps from here on are recorded, or no longer.
  void record(KernelProfile* profile);

  int64_t batch_size() const;
  int64_t peak_memory() const;     // bytes that tensors took on the experiment's device, and its kernels beside them
  const Kernels& kernels() const;  // of the experiment

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace luq
