#include "luq/train/optimizer.h"

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
    Sgd optimizer(sgd_config(c.momentum, c.nesterov, c.weight_decay), {parameter.get()}, kernels_for(Device{}));
    for (int step = 0; step < 3; ++step) {
      set_gradient(*parameter, step);
      optimizer.step(rates[step]);
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
  Sgd optimizer(config, {weight.get(), bias.get(), norm.get()}, kernels_for(Device{}));
  for (int step = 0; step < 3; ++step) {
    for (Parameter* parameter : {weight.get(), bias.get(), norm.get()}) set_gradient(*parameter, step);
    optimizer.step(rates[step]);
  }
  check_values(*weight, {1.0131480693817139, -1.9707961082458496, 0.4083214998245239});
  check_values(*bias, {1.0475000143051147, -2.0399999618530273, 0.42499998211860657});
  check_values(*norm, {1.0475000143051147, -2.0399999618530273, 0.42499998211860657});
}

TEST_CASE("optimizer: going on from copied state gives the same bits", "[optimizer]") {
  const OptimizerConfig config = sgd_config(0.9, true, 0.01);
  const auto whole = make_parameter("w", ParameterRole::weight);
  const auto parts = make_parameter("w", ParameterRole::weight);
  Sgd straight(config, {whole.get()}, kernels_for(Device{}));
  auto first = std::make_unique<Sgd>(config, std::vector<Parameter*>{parts.get()}, kernels_for(Device{}));
  for (int step = 0; step < 2; ++step) {
    set_gradient(*whole, step);
    straight.step(rates[step]);
    set_gradient(*parts, step);
    first->step(rates[step]);
  }
  REQUIRE(first->state().size() == 1);
  CHECK(first->state()[0].first == "optimizer.momentum.w");
  const Tensor velocity = first->state()[0].second.clone();
  Sgd second(config, {parts.get()}, kernels_for(Device{}));
  Tensor target = second.state()[0].second;
  for (int i = 0; i < 3; ++i) target.data<float>()[i] = velocity.data<float>()[i];
  second.set_resumed();
  set_gradient(*whole, 2);
  straight.step(rates[2]);
  set_gradient(*parts, 2);
  second.step(rates[2]);
  for (int i = 0; i < 3; ++i) {
    CHECK(whole->var.value().data<float>()[i] == parts->var.value().data<float>()[i]);
    CHECK(straight.state()[0].second.data<float>()[i] == target.data<float>()[i]);
  }
}

TEST_CASE("optimizer: a parameter without a gradient is left alone; no momentum, no state", "[optimizer]") {
  const auto parameter = make_parameter("w", ParameterRole::weight);
  Sgd optimizer(sgd_config(0, false, 0.1), {parameter.get()}, kernels_for(Device{}));
  optimizer.step(0.1);
  check_values(*parameter, {1.0, -2.0, 0.5});
  CHECK(optimizer.state().empty());
}

TEST_CASE("optimizer: settings that make no sense are refused", "[optimizer]") {
  OptimizerConfig config = sgd_config(0, true, 0);
  CHECK_THROWS_AS(Sgd(config, {}, kernels_for(Device{})), UserError);
  config = sgd_config(0.9, false, 0);
  config.name = "adam";
  CHECK_THROWS_AS(Sgd(config, {}, kernels_for(Device{})), UserError);
}

TEST_CASE("optimizer: updates inside backward give the same weights, and leave slots that others hold", "[optimizer]") {
  for (const double momentum : {0.0, 0.9}) {
    const auto inside = make_parameter("w", ParameterRole::weight), after = make_parameter("w", ParameterRole::weight);
    Sgd first(sgd_config(momentum, false, 0.01), {inside.get()}, kernels_for(Device{}));
    Sgd second(sgd_config(momentum, false, 0.01), {after.get()}, kernels_for(Device{}));
    for (int step = 0; step < 3; ++step) {
      set_gradient(*inside, step);
      set_gradient(*after, step);
      const float before = inside->var.value().data<float>()[0];
      {
        const std::shared_ptr<GradSlot> closure = inside->var.slot();
        first.update_complete(rates[step]);
        CHECK(inside->var.value().data<float>()[0] == before);
        CHECK(inside->var.grad().defined());
      }
      first.update_complete(rates[step]);
      CHECK_FALSE(inside->var.grad().defined());
      first.step(rates[step]);
      second.step(rates[step]);
      for (size_t i = 0; i < 3; ++i) {
        CHECK(inside->var.value().data<float>()[i] == after->var.value().data<float>()[i]);
      }
    }
  }
}

}  // namespace luq
