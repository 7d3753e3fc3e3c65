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

void Sgd::update(size_t index, double lr) {
  Parameter& parameter = *parameters_[index];
  Tensor& gradient = parameter.var.slot()->grad;
  if (!gradient.defined()) return;
  const bool decays = config_.decay_norm || parameter.role == ParameterRole::weight;
  kernels_->sgd({.w = parameter.var.value().data<float>(),
                 .gradient = gradient.data<float>(),
                 .velocity = velocities_.empty() ? nullptr : velocities_[index].data<float>(),
                 .count = parameter.var.value().numel(),
                 .lr = static_cast<float>(lr),
                 .momentum = static_cast<float>(config_.momentum),
                 .weight_decay = decays ? static_cast<float>(config_.weight_decay) : 0.0f,
                 .nesterov = config_.nesterov,
                 .first_step = first_step_});
  gradient = Tensor();
}

void Sgd::update_complete(double lr) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i]->var.slot().use_count() == 1) update(i, lr);
  }
}

void Sgd::step(double lr) {
  for (size_t i = 0; i < parameters_.size(); ++i) update(i, lr);
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
