// The update of the parameters from their gradients.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "luq/config/experiment.h"
#include "luq/nn/module.h"

namespace luq {

// What every optimiser does; the rule of the update is that of the one that make_optimizer made.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Another table from the next step on: one that keeps a record, for example.
  void use(const Kernels& kernels) { kernels_ = &kernels; }
  // For backward to call after each closure: updates the parameters whose gradients are complete, since nothing but the
  // model holds their slots, and drops these gradients, so that a full set of them never exists. A parameter that
  // someone else holds waits for step(). An error in the middle of backward leaves the parameters behind it updated.
  // lr > 0. Not for gradients that are to be scaled, or that later micro-batches add to.
  void update_complete(double lr);
  // The L2 norm of all gradients that are there, as one vector. The order of the sum is fixed.
  double gradient_norm() const;
  // Updates every parameter that still has a gradient, multiplied by gradient_scale first, drops the gradients, and
  // ends the step. lr > 0.
  void step(double lr, double gradient_scale = 1);

  // What the optimiser keeps from step to step, as "optimizer.<kind>.<parameter>", sharing its buffers: "momentum" of
  // sgd, unless the momentum is 0; "exp_avg" and "exp_avg_sq" of adamw. Whoever overwrites it (a resume) tells
  // set_resumed() how many steps made it.
  std::vector<std::pair<std::string, Tensor>> state() const;
  void set_resumed(int64_t steps) { steps_ = steps; }

 protected:
  // kinds: of the state, a tensor of zeros for each parameter and kind.
  Optimizer(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels,
            std::vector<std::string> kinds);

  struct Update {
    float* w;               // (count)
    const float* gradient;  // (count)
    std::vector<float*> state;
    int64_t count;
    float lr, weight_decay, gradient_scale;
    int64_t step;  // from 1
  };
  virtual void update(const Kernels& kernels, const Update& update) = 0;
  const OptimizerConfig& config() const { return config_; }

 private:
  void update(size_t index, double lr, double gradient_scale);

  OptimizerConfig config_;
  std::vector<Parameter*> parameters_;
  const Kernels* kernels_;
  std::vector<std::string> kinds_;
  std::vector<std::vector<Tensor>> state_;  // by kind, by parameter
  int64_t steps_ = 0;                       // done
};

// sgd: stochastic gradient descent as torch.optim.SGD with dampening 0: g += weight_decay w; the velocity is g at the
// first step and momentum v + g after it; w -= lr (nesterov ? g + momentum v : v).
// adamw: torch.optim.AdamW (Loshchilov and Hutter 2019), see AdamWArgs of the kernels. Every parameter counts the steps
// of the run, where PyTorch counts those in which it had a gradient.
// config.decay_norm false: no weight decay on norm parameters and biases. The parameters must outlive the optimiser;
// its state is allocated here, once. Throws UserError for another config.name, for values out of their range, and for
// nesterov without momentum or beside adamw.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, std::vector<Parameter*> parameters,
                                          const Kernels& kernels);

// Floats that make_optimizer's optimiser keeps for each of a parameter's.
int64_t optimizer_state_copies(const OptimizerConfig& config);

}  // namespace luq
