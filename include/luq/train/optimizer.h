// The update of the parameters from their gradients.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "luq/config/experiment.h"
#include "luq/nn/module.h"

namespace luq {

// Stochastic gradient descent as torch.optim.SGD with dampening 0 computes it: g += weight_decay w; the velocity is g
// at the first step and momentum v + g after it; w -= lr (nesterov ? g + momentum v : v).
class Sgd {
 public:
  // The parameters must outlive the optimiser. Velocities are allocated here, once, unless momentum is 0.
  // config.decay_norm false: no weight decay on norm parameters and biases. Throws UserError for another config.name
  // and for nesterov without momentum.
  Sgd(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels);

  // Another table from the next step on: one that keeps a record, for example.
  void use(const Kernels& kernels) { kernels_ = &kernels; }
  // For backward to call after each closure: updates the parameters whose gradients are complete, since nothing but the
  // model holds their slots, and drops these gradients, so that a full set of them never exists. A parameter that
  // someone else holds waits for step(). An error in the middle of backward leaves the parameters behind it updated.
  // lr > 0.
  void update_complete(double lr);
  // Updates every parameter that still has a gradient, drops the gradients, and ends the step. lr > 0.
  void step(double lr);

  // The velocities, as "optimizer.momentum.<parameter>", sharing their buffers; empty when momentum is 0. Whoever
  // overwrites them (a resume) says so with set_resumed().
  std::vector<std::pair<std::string, Tensor>> state() const;
  void set_resumed() { first_step_ = false; }

 private:
  void update(size_t index, double lr);

  OptimizerConfig config_;
  std::vector<Parameter*> parameters_;
  const Kernels* kernels_;
  std::vector<Tensor> velocities_;  // by parameter
  bool first_step_ = true;
};

}  // namespace luq
