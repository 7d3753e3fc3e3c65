#include "luq/train/optimizer.h"

#include <cmath>

#include "kernels/kernels.h"
#include "luq/core/error.h"

namespace luq {
namespace {

std::vector<std::string> state_kinds(const OptimizerConfig& config) {
  if (config.name == "sgd")
    return config.momentum == 0 ? std::vector<std::string>{} : std::vector{std::string("momentum")};
  if (config.name == "adamw") return {"exp_avg", "exp_avg_sq"};
  fail_user("[optimizer] optimizer.name: expected sgd or adamw, got '{}'", config.name);
}

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels)
      : Optimizer(config, std::move(parameters), kernels, state_kinds(config)) {}

 private:
  void update(const Kernels& kernels, const Update& u) override {
    kernels.sgd({.w = u.w,
                 .gradient = u.gradient,
                 .velocity = u.state.empty() ? nullptr : u.state[0],
                 .count = u.count,
                 .lr = u.lr,
                 .momentum = static_cast<float>(config().momentum),
                 .weight_decay = u.weight_decay,
                 .nesterov = config().nesterov,
                 .first_step = u.step == 1,
                 .gradient_scale = u.gradient_scale});
  }
};

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels)
      : Optimizer(config, std::move(parameters), kernels, state_kinds(config)) {}

 private:
  void update(const Kernels& kernels, const Update& u) override {
    kernels.adamw({.w = u.w,
                   .gradient = u.gradient,
                   .m = u.state[0],
                   .v = u.state[1],
                   .count = u.count,
                   .lr = u.lr,
                   .beta1 = static_cast<float>(config().beta1),
                   .beta2 = static_cast<float>(config().beta2),
                   .eps = static_cast<float>(config().eps),
                   .weight_decay = u.weight_decay,
                   .step = u.step,
                   .gradient_scale = u.gradient_scale});
  }
};

void check(const OptimizerConfig& config) {
  const auto require = [](bool holds, const char* key, const char* range, double value) {
    if (!holds) fail_user("[optimizer] optimizer.{}: expected {}, got {}", key, range, value);
  };
  require(config.weight_decay >= 0, "weight_decay", ">= 0", config.weight_decay);
  if (config.name == "sgd") {
    require(config.momentum >= 0, "momentum", ">= 0", config.momentum);
    if (config.nesterov && config.momentum <= 0) {
      fail_user("[optimizer] optimizer.nesterov needs optimizer.momentum above 0");
    }
  } else {
    if (config.nesterov) fail_user("[optimizer] optimizer.nesterov: belongs to optimizer.name sgd");
    require(config.beta1 >= 0 && config.beta1 < 1, "beta1", "0 <= x < 1", config.beta1);
    require(config.beta2 >= 0 && config.beta2 < 1, "beta2", "0 <= x < 1", config.beta2);
    require(config.eps >= 0, "eps", ">= 0", config.eps);
  }
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, std::vector<Parameter*> parameters, const Kernels& kernels,
                     std::vector<std::string> kinds)
    : config_(config), parameters_(std::move(parameters)), kernels_(&kernels), kinds_(std::move(kinds)) {
  for (size_t kind = 0; kind < kinds_.size(); ++kind) {
    state_.emplace_back();
    for (const Parameter* parameter : parameters_) {
      state_.back().push_back(Tensor::zeros(parameter->var.shape(), DType::float32, parameter->var.value().device()));
    }
  }
}

void Optimizer::update(size_t index, double lr, double gradient_scale) {
  Parameter& parameter = *parameters_[index];
  Tensor& gradient = parameter.var.slot()->grad;
  if (!gradient.defined()) return;
  const bool decays = config_.decay_norm || parameter.role == ParameterRole::weight;
  Update one{.w = parameter.var.value().data<float>(),
             .gradient = std::as_const(gradient).data<float>(),
             .state = {},
             .count = gradient.numel(),
             .lr = static_cast<float>(lr),
             .weight_decay = decays ? static_cast<float>(config_.weight_decay) : 0.0f,
             .gradient_scale = static_cast<float>(gradient_scale),
             .step = steps_ + 1};
  for (std::vector<Tensor>& tensors : state_) one.state.push_back(tensors[index].data<float>());
  update(*kernels_, one);
  gradient = Tensor();
}

void Optimizer::update_complete(double lr) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i]->var.slot().use_count() == 1) update(i, lr, 1);
  }
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (const Parameter* parameter : parameters_) {
    const Tensor& gradient = parameter->var.grad();
    if (!gradient.defined()) continue;
    Stats stats;
    kernels_->stats({.x = gradient.data<float>(), .count = gradient.numel(), .stats = &stats});
    sum += stats.sum_sq;
  }
  return std::sqrt(sum);
}

void Optimizer::step(double lr, double gradient_scale) {
  for (size_t i = 0; i < parameters_.size(); ++i) update(i, lr, gradient_scale);
  ++steps_;
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (size_t kind = 0; kind < kinds_.size(); ++kind) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      tensors.emplace_back("optimizer." + kinds_[kind] + "." + parameters_[i]->name, state_[kind][i]);
    }
  }
  return tensors;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, std::vector<Parameter*> parameters,
                                          const Kernels& kernels) {
  state_kinds(config);  // refuses other names
  check(config);
  if (config.name == "adamw") return std::make_unique<AdamW>(config, std::move(parameters), kernels);
  return std::make_unique<Sgd>(config, std::move(parameters), kernels);
}

int64_t optimizer_state_copies(const OptimizerConfig& config) {
  return static_cast<int64_t>(state_kinds(config).size());
}

}  // namespace luq
