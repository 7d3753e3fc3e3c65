#include "luq/train/optimizer.h"

#include <cmath>
#include <memory>
#include <vector>

#include "luq/core/error.h"
#include "tests/catch.h"

namespace luq {
namespace {

std::unique_ptr<Parameter> make_parameter(const std::string& name, ParameterRole role) {
  const float values[] = {1.0f, -2.0f, 0.5f};
  auto parameter = std::make_unique<Parameter>();
  parameter->name = name;
  parameter->role = role;
  parameter->var = Var(Tensor::from(Shape{3}, values), true);
  return parameter;
}

void set_gradient(Parameter& parameter, int step) {
  static const float gradients[3][3] = {{0.1f, -0.2f, 0.3f}, {0.05f, 0.4f, -0.1f}, {-0.3f, 0.2f, 0.25f}};
  parameter.var.slot()->grad = Tensor::from(Shape{3}, gradients[step]);
}

constexpr double rates[] = {0.1, 0.05, 0.2};

OptimizerConfig sgd_config(double momentum, bool nesterov, double weight_decay) {
  OptimizerConfig config;
  config.momentum = momentum;
  config.nesterov = nesterov;
  config.weight_decay = weight_decay;
  return config;
}

OptimizerConfig adamw_config(double weight_decay) {
  OptimizerConfig config;
  config.name = "adamw";
  config.weight_decay = weight_decay;
  return config;
}

void check_values(const Parameter& parameter, const std::vector<double>& expected) {
  for (size_t i = 0; i < 3; ++i) {
    CHECK(parameter.var.value().data<float>()[i] == Approx(expected[i]).epsilon(1e-6));
  }
}

}  // namespace

TEST_CASE("optimizer: three steps as torch.optim.SGD takes them", "[optimizer]") {
  struct Case {
    double momentum;
    bool nesterov;
    double weight_decay;
    std::vector<double> expected;
  };
  const Case cases[] = {
      {0, false, 0, {1.0475000143051147, -2.0399999618530273, 0.42499998211860657}},
      {0, false, 0.1, {1.0131480693817139, -1.9707961082458496, 0.4083214998245239}},
      {0.9, false, 0.01, {1.0104931592941284, -2.055936574935913, 0.37736406922340393}},
      {0.9, true, 0.01, {1.053558588027954, -2.0834367275238037, 0.3131250739097595}},
  };
  for (const Case& c : cases) {
    const auto parameter = make_parameter("w", ParameterRole::weight);
    const auto optimizer =
        make_optimizer(sgd_config(c.momentum, c.nesterov, c.weight_decay), {parameter.get()}, kernels_for(Device{}));
    for (int step = 0; step < 3; ++step) {
      set_gradient(*parameter, step);
      optimizer->step(rates[step]);
      CHECK(!parameter->var.grad().defined());
    }
    INFO(c.momentum << " " << c.nesterov << " " << c.weight_decay);
    check_values(*parameter, c.expected);
  }
}

TEST_CASE("optimizer: decay_norm false leaves norm parameters and biases undecayed", "[optimizer]") {
  OptimizerConfig config = sgd_config(0, false, 0.1);
  config.decay_norm = false;
  const auto weight = make_parameter("w", ParameterRole::weight);
  const auto bias = make_parameter("b", ParameterRole::bias);
  const auto norm = make_parameter("g", ParameterRole::norm);
  const auto optimizer = make_optimizer(config, {weight.get(), bias.get(), norm.get()}, kernels_for(Device{}));
  for (int step = 0; step < 3; ++step) {
    for (Parameter* parameter : {weight.get(), bias.get(), norm.get()}) set_gradient(*parameter, step);
    optimizer->step(rates[step]);
  }
  check_values(*weight, {1.0131480693817139, -1.9707961082458496, 0.4083214998245239});
  check_values(*bias, {1.0475000143051147, -2.0399999618530273, 0.42499998211860657});
  check_values(*norm, {1.0475000143051147, -2.0399999618530273, 0.42499998211860657});
}

TEST_CASE("optimizer: three steps as torch.optim.AdamW takes them", "[optimizer]") {
  struct Case {
    double beta1, beta2, eps, weight_decay;
    std::vector<double> expected;  // of PyTorch in float64
  };
  const Case cases[] = {
      {0.9, 0.999, 1e-8, 0, {0.922835731592971, -2.0221533403442695, 0.2521874385669962}},
      {0.9, 0.999, 1e-8, 0.1, {0.8916069108648523, -1.954975236704309, 0.23775215703804875}},
      {0.8, 0.95, 1e-3, 0.01, {0.9371388826808077, -2.0277927951893773, 0.25389871021456245}},
      {0, 0, 1e-8, 0.3, {0.9585330119923305, -1.9506559934544998, 0.20347150638633332}},
  };
  for (const Case& c : cases) {
    const auto parameter = make_parameter("w", ParameterRole::weight);
    OptimizerConfig config = adamw_config(c.weight_decay);
    config.beta1 = c.beta1;
    config.beta2 = c.beta2;
    config.eps = c.eps;
    const auto optimizer = make_optimizer(config, {parameter.get()}, kernels_for(Device{}));
    for (int step = 0; step < 3; ++step) {
      set_gradient(*parameter, step);
      optimizer->step(rates[step]);
    }
    INFO(c.beta1 << " " << c.beta2 << " " << c.eps << " " << c.weight_decay);
    check_values(*parameter, c.expected);
  }
}

TEST_CASE("optimizer: going on from copied state gives the same bits", "[optimizer]") {
  for (const OptimizerConfig& config : {sgd_config(0.9, true, 0.01), adamw_config(0.01)}) {
    const auto whole = make_parameter("w", ParameterRole::weight);
    const auto parts = make_parameter("w", ParameterRole::weight);
    const auto straight = make_optimizer(config, {whole.get()}, kernels_for(Device{}));
    const auto first = make_optimizer(config, {parts.get()}, kernels_for(Device{}));
    for (int step = 0; step < 2; ++step) {
      set_gradient(*whole, step);
      straight->step(rates[step]);
      set_gradient(*parts, step);
      first->step(rates[step]);
    }
    const auto second = make_optimizer(config, {parts.get()}, kernels_for(Device{}));
    REQUIRE(first->state().size() == static_cast<size_t>(optimizer_state_copies(config)));
    for (size_t i = 0; i < first->state().size(); ++i) {
      CHECK(first->state()[i].first == second->state()[i].first);
      const Tensor from = first->state()[i].second;
      Tensor target = second->state()[i].second;
      for (int k = 0; k < 3; ++k) target.data<float>()[k] = from.data<float>()[k];
    }
    second->set_resumed(2);
    set_gradient(*whole, 2);
    straight->step(rates[2]);
    set_gradient(*parts, 2);
    second->step(rates[2]);
    for (int k = 0; k < 3; ++k) {
      CHECK(whole->var.value().data<float>()[k] == parts->var.value().data<float>()[k]);
      for (size_t i = 0; i < straight->state().size(); ++i) {
        const Tensor one = straight->state()[i].second, other = second->state()[i].second;
        CHECK(one.data<float>()[k] == other.data<float>()[k]);
      }
    }
  }
}

TEST_CASE("optimizer: the names of its state", "[optimizer]") {
  const auto parameter = make_parameter("w", ParameterRole::weight);
  const auto names = [&](const OptimizerConfig& config) {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : make_optimizer(config, {parameter.get()}, kernels_for({}))->state()) {
      CHECK(tensor.shape() == Shape{3});
      all.push_back(name);
    }
    return all;
  };
  CHECK(names(sgd_config(0.9, false, 0)) == std::vector<std::string>{"optimizer.momentum.w"});
  CHECK(names(adamw_config(0)) == std::vector<std::string>{"optimizer.exp_avg.w", "optimizer.exp_avg_sq.w"});
}

TEST_CASE("optimizer: the norm is that of all gradients, and a scaled gradient is what is taken", "[optimizer]") {
  for (const OptimizerConfig& config : {sgd_config(0.9, false, 0.01), adamw_config(0.01)}) {
    const auto a = make_parameter("a", ParameterRole::weight), b = make_parameter("b", ParameterRole::bias);
    const auto none = make_parameter("none", ParameterRole::bias), half = make_parameter("a", ParameterRole::weight);
    const auto optimizer = make_optimizer(config, {a.get(), b.get(), none.get()}, kernels_for({}));
    const auto other = make_optimizer(config, {half.get()}, kernels_for({}));
    set_gradient(*a, 0);
    set_gradient(*b, 1);
    const double squares = 0.1 * 0.1 + 0.2 * 0.2 + 0.3 * 0.3 + 0.05 * 0.05 + 0.4 * 0.4 + 0.1 * 0.1;
    CHECK(optimizer->gradient_norm() == Approx(std::sqrt(squares)).epsilon(1e-6));
    optimizer->step(0.1, 0.5);
    set_gradient(*half, 0);
    for (int i = 0; i < 3; ++i) half->var.slot()->grad.data<float>()[i] *= 0.5f;
    other->step(0.1);
    for (int i = 0; i < 3; ++i) CHECK(a->var.value().data<float>()[i] == half->var.value().data<float>()[i]);
    CHECK(optimizer->gradient_norm() == 0);
  }
}

TEST_CASE("optimizer: a parameter without a gradient is left alone; no momentum, no state", "[optimizer]") {
  const auto parameter = make_parameter("w", ParameterRole::weight);
  const auto optimizer = make_optimizer(sgd_config(0, false, 0.1), {parameter.get()}, kernels_for(Device{}));
  optimizer->step(0.1);
  check_values(*parameter, {1.0, -2.0, 0.5});
  CHECK(optimizer->state().empty());
}

TEST_CASE("optimizer: settings that make no sense are refused", "[optimizer]") {
  OptimizerConfig config = sgd_config(0, true, 0);
  CHECK_THROWS_AS(make_optimizer(config, {}, kernels_for(Device{})), UserError);
  config = sgd_config(0.9, false, 0);
  config.name = "adam";
  CHECK_THROWS_AS(make_optimizer(config, {}, kernels_for(Device{})), UserError);
  for (const auto change : std::initializer_list<void (*)(OptimizerConfig&)>{
           [](OptimizerConfig& c) { c.nesterov = true; }, [](OptimizerConfig& c) { c.beta1 = 1; },
           [](OptimizerConfig& c) { c.beta2 = -0.1; }, [](OptimizerConfig& c) { c.eps = -1e-8; },
           [](OptimizerConfig& c) { c.weight_decay = -1; }}) {
    config = adamw_config(0);
    make_optimizer(config, {}, kernels_for({}));
    change(config);
    CHECK_THROWS_AS(make_optimizer(config, {}, kernels_for({})), UserError);
  }
}

TEST_CASE("optimizer: updates inside backward give the same weights, and leave slots that others hold", "[optimizer]") {
  for (const OptimizerConfig& config : {sgd_config(0, false, 0.01), sgd_config(0.9, false, 0.01), adamw_config(0.01)}) {
    const auto inside = make_parameter("w", ParameterRole::weight), after = make_parameter("w", ParameterRole::weight);
    const auto first = make_optimizer(config, {inside.get()}, kernels_for(Device{}));
    const auto second = make_optimizer(config, {after.get()}, kernels_for(Device{}));
    for (int step = 0; step < 3; ++step) {
      set_gradient(*inside, step);
      set_gradient(*after, step);
      const float before = inside->var.value().data<float>()[0];
      {
        const std::shared_ptr<GradSlot> closure = inside->var.slot();
        first->update_complete(rates[step]);
        CHECK(inside->var.value().data<float>()[0] == before);
        CHECK(inside->var.grad().defined());
      }
      first->update_complete(rates[step]);
      CHECK_FALSE(inside->var.grad().defined());
      first->step(rates[step]);
      second->step(rates[step]);
      for (size_t i = 0; i < 3; ++i) {
        CHECK(inside->var.value().data<float>()[i] == after->var.value().data<float>()[i]);
      }
    }
  }
}

}  // namespace luq
