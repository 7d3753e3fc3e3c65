#include "luq/train/optimizer.h"

#include "kernels/kernels.h"
#include "luq/core/error.h"

namespace luq {

Sgd::Sgd(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels)
    : config_(config), parameters_(std::move(parameters)), kernels_(&kernels) {
  if (config.name != "sgd") fail_user("[optimizer] optimizer.name: expected sgd, got '{}'", config.name);
  if (config.nesterov && config.momentum <= 0) {
    fail_user("[optimizer] optimizer.nesterov needs optimizer.momentum above 0");
  }
  if (config.momentum == 0) return;
  for (const Parameter* parameter : parameters_) velocities_.push_back(Tensor::zeros(parameter->var.shape()));
}

void Sgd::step(double lr) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    Tensor& gradient = parameter.var.slot()->grad;
    if (!gradient.defined()) continue;
    const bool decays = config_.decay_norm || parameter.role == ParameterRole::weight;
    kernels_->sgd({.w = parameter.var.value().data<float>(),
                   .gradient = gradient.data<float>(),
                   .velocity = velocities_.empty() ? nullptr : velocities_[i].data<float>(),
                   .count = parameter.var.value().numel(),
                   .lr = static_cast<float>(lr),
                   .momentum = static_cast<float>(config_.momentum),
                   .weight_decay = decays ? static_cast<float>(config_.weight_decay) : 0.0f,
                   .nesterov = config_.nesterov,
                   .first_step = first_step_});
    gradient = Tensor();
  }
  first_step_ = false;
}

std::vector<std::pair<std::string, Tensor>> Sgd::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (size_t i = 0; i < velocities_.size(); ++i) {
    tensors.emplace_back("optimizer.momentum." + parameters_[i]->name, velocities_[i]);
  }
  return tensors;
}

}  // namespace luq
