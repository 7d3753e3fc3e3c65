// The ops of a vision transformer, its model, and a small one that learns.

#include "luq/models/vision_transformer.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/ref/float_ops.h"
#include "luq/config/load.h"
#include "luq/core/convert.h"
#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "luq/train/plan.h"
#include "luq/train/step_runner.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

void check_near(const Tensor& a, const Tensor& b, float tolerance) {
  REQUIRE(a.shape() == b.shape());
  float largest = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    largest = std::max(largest, std::fabs(a.data<float>()[i] - b.data<float>()[i]));
  }
  CHECK(largest <= tolerance);
}

Tensor rounded(const Kernels& kernels, const Tensor& x) {
  return convert(kernels, convert(kernels, x, DType::bfloat16), DType::float32);
}

std::unique_ptr<Module> small_vit(const ModelOptions& options) {
  return std::make_unique<VisionTransformer>(ViTOptions{.image_size = options.image_size,
                                                        .patch_size = 8,
                                                        .layers = 2,
                                                        .heads = 3,
                                                        .hidden = 48,
                                                        .mlp = 96,
                                                        .in_channels = options.in_channels,
                                                        .num_classes = options.num_classes});
}

const std::string luq_policy =
    "quantization:\n  weights: {format: int4}\n  activations: {format: int4}\n  gradients: {format: fp4}\n";

ExperimentConfig small_config(const std::string& precision, const std::string& quantization, int64_t threads) {
  static const bool registered = (register_model("small_vit", small_vit), true);
  (void)registered;
  const std::string yaml =
      "seed: 3\nmodel: {name: small_vit}\ndata: {name: synthetic, synthetic: {train_images: 24, test_images: 1, "
      "image_size: 32, num_classes: 4}}\n"
      "optimizer: {name: adamw, lr: 0.002, weight_decay: 0.05}\nlr_scheduler: {name: constant}\n"
      "train: {batch_size: 24}\nthreads: " +
      std::to_string(threads) + "\nprecision: " + precision + "\n" + quantization;
  return parse_experiment(yaml, "test", {});
}

std::vector<float> losses(const ExperimentConfig& config, int steps) {
  StepRunner runner(config);
  std::vector<float> all;
  for (int i = 0; i < steps; ++i) all.push_back(runner.step().loss);
  return all;
}

}  // namespace

TEST_CASE("attention: values and gradients are the kernel's definition", "[ops][attention]") {
  const DType dtype = GENERATE(DType::float32, DType::bfloat16);
  const int64_t n = 2, tokens = 7, heads = 3, dim = 4;
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Tensor qkv = rounded(*ctx.kernels, random_tensor({n, tokens, 3 * heads * dim}, "qkv"));
  const Tensor dy = rounded(*ctx.kernels, random_tensor({n, tokens, heads * dim}, "dy"));
  const Var x(convert(*ctx.kernels, qkv, dtype), true);
  const Var y = attention(ctx, x, heads, "self_attention");
  Tensor expected = Tensor::empty(dy.shape()), log_sum = Tensor::empty({n, heads, tokens});
  kernels::ref::attention(n, tokens, heads, dim, qkv.data<float>(), expected.data<float>(), log_sum.data<float>());
  const float rounding = dtype == DType::bfloat16 ? 0x1p-8f : 0;
  check_near(convert(*ctx.kernels, y.value(), DType::float32), expected, 1e-6f + rounding);

  Var loss(Tensor::full({1}, 0.0f), true);
  tape.record(loss, [&, slot = y.slot()](const Tensor&) {
    add_gradient(*ctx.kernels, *slot, convert(*ctx.kernels, dy, dtype));
  });
  tape.backward(loss);
  Tensor dqkv = Tensor::empty(qkv.shape());
  kernels::ref::attention_backward(n, tokens, heads, dim, qkv.data<float>(), expected.data<float>(),
                                   log_sum.data<float>(), dy.data<float>(), dqkv.data<float>());
  check_near(convert(*ctx.kernels, x.grad(), DType::float32), dqkv, 1e-5f + 2 * rounding);

  Ctx no_gradients = make_ctx();
  CHECK_FALSE(attention(no_gradients, x, heads, "self_attention").needs_grad());
  CHECK_THROWS_WITH(attention(ctx, x, 5, "a"),
                    contains_text("[attention] a: expected qkv of shape (N,T,3 heads D) with 5 heads, got (2,7,36)"));
  CHECK_THROWS_WITH(attention(ctx, Var(Tensor::zeros({2, 36})), 3, "a"), contains_text("got (2,36)"));
}

TEST_CASE("layer_norm: values and gradients are the kernel's definition", "[ops][layer_norm]") {
  const int64_t rows = 6, c = 10;
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(random_tensor({2, 3, c}, "x"), true), gamma(random_tensor({c}, "gamma"), true);
  const Var beta(random_tensor({c}, "beta"), true);
  const Tensor dy = random_tensor({2, 3, c}, "dy");
  const Var y = layer_norm(ctx, x, gamma, beta, 1e-6f, "ln");
  Tensor expected = Tensor::empty(dy.shape()), mean = Tensor::empty({rows}), scale = Tensor::empty({rows});
  kernels::ref::layer_norm(x.value().data<float>(), rows, c, gamma.value().data<float>(), beta.value().data<float>(),
                           1e-6f, expected.data<float>(), mean.data<float>(), scale.data<float>());
  check_near(y.value(), expected, 2e-6f);
  tape.backward(weighted_sum(ctx, y, dy));
  Tensor dx = Tensor::empty(dy.shape()), dgamma = Tensor::empty({c}), dbeta = Tensor::empty({c});
  kernels::ref::layer_norm_backward(x.value().data<float>(), dy.data<float>(), rows, c, mean.data<float>(),
                                    scale.data<float>(), gamma.value().data<float>(), dx.data<float>(),
                                    dgamma.data<float>(), dbeta.data<float>());
  check_near(x.grad(), dx, 1e-5f);
  check_near(gamma.grad(), dgamma, 1e-5f);
  check_near(beta.grad(), dbeta, 1e-5f);
  CHECK_THROWS_WITH(layer_norm(ctx, x, gamma, Var(Tensor::zeros({c + 1})), 1e-6f, "ln"),
                    contains_text("[layer_norm] ln: expected gamma and beta of float32 and C=10 from x (2,3,10)"));
}

TEST_CASE("gelu: values and gradients", "[ops][gelu]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({4}, {-3, -0.5, 0, 2}), true);
  const Var y = gelu(ctx, x);
  CHECK_FALSE(y.non_negative());
  // torch.nn.functional.gelu in float64.
  check_near(y.value(), tensor_of({4}, {-0.0040496940948f, -0.1542687694f, 0, 1.9544997361f}), 1e-6f);
  tape.backward(weighted_sum(ctx, y, tensor_of({4}, {1, 1, 1, 1})));
  check_near(x.grad(), tensor_of({4}, {-0.0119456471f, 0.1325048803f, 0.5f, 1.0852318324f}), 1e-6f);
}

TEST_CASE("embed_tokens puts the class token first and adds the positions; first_token takes it", "[ops][attention]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var patches(tensor_of({2, 1, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8}), true);
  const Var token(tensor_of({1, 1, 2}, {10, 20}), true);
  const Var positions(tensor_of({1, 3, 2}, {0.5f, 0, 0, 0, 0, 0.25f}), true);
  const Var y = embed_tokens(ctx, patches, token, positions);
  CHECK(y.shape() == Shape{2, 3, 2});
  CHECK(values(y.value()) == std::vector<float>{10.5f, 20, 1, 2, 3, 4.25f, 10.5f, 20, 5, 6, 7, 8.25f});
  const Var first = first_token(ctx, y);
  CHECK(values(first.value()) == std::vector<float>{10.5f, 20, 10.5f, 20});
  const Var all = add(ctx, y, y);  // both ways into y
  const Var scores = add(ctx, first, first_token(ctx, all));
  Var loss(Tensor::full({1}, 0.0f), true);
  tape.record(loss, [&, slot = scores.slot(), all_slot = all.slot()](const Tensor&) {
    add_gradient(*ctx.kernels, *slot, tensor_of({2, 2}, {1, 2, 3, 4}));
    add_gradient(*ctx.kernels, *all_slot, tensor_of({2, 3, 2}, {0, 0, 1, 1, 2, 2, 0, 0, 3, 3, 4, 4}));
  });
  tape.backward(loss);
  CHECK(values(patches.grad()) == std::vector<float>{2, 2, 4, 4, 6, 6, 8, 8});
  CHECK(values(token.grad()) == std::vector<float>{12, 18});
  CHECK(values(positions.grad()) == std::vector<float>{12, 18, 8, 8, 12, 12});
  CHECK_THROWS_WITH(embed_tokens(ctx, patches, token, Var(Tensor::zeros({1, 2, 2}))),
                    contains_text("[embed_tokens] expected a class token (1,1,2) and positions (1,3,2)"));
  CHECK_THROWS_WITH(first_token(ctx, token.value().defined() ? Var(Tensor::zeros({2, 2})) : token),
                    contains_text("[first_token] expected x of shape (N,T,C)"));
}

TEST_CASE("linear on tokens is linear on their rows, in float and in 4 bits", "[ops][linear]") {
  const bool quantized = GENERATE(false, true);
  QuantPolicy policy;
  if (quantized) {
    policy.spec = {{.format = Format::int4},
                   {.format = Format::int4},
                   {.format = Format::fp4, .scale_method = ScaleMethod::max, .rounding = Rounding::stochastic}};
    policy.exempt_last_linear = false;
  }
  const QuantPlan plan(policy, {{"fc", LayerKind::linear}});
  const Tensor values_of_x = random_tensor({3, 5, 16}, "x"), dy = random_tensor({3, 5, 8}, "dy");
  std::vector<Tensor> results[2];
  for (const bool tokens : {false, true}) {
    Tape tape;
    Ctx ctx = make_ctx(&tape, &plan);
    Tensor scale = Tensor::zeros({1});
    const Var x(tokens ? values_of_x : values_of_x.reshape({15, 16}), true);
    const Var w(random_tensor({8, 16}, "w"), true), bias(random_tensor({8}, "bias"), true);
    const Var y = linear(ctx, x, w, &bias, "fc", scale);
    CHECK(y.shape() == (tokens ? Shape{3, 5, 8} : Shape{15, 8}));
    tape.backward(weighted_sum(ctx, y, tokens ? dy : dy.reshape({15, 8})));
    results[tokens ? 1 : 0] = {y.value(), x.grad(), w.grad(), bias.grad(), scale};
  }
  for (size_t i = 0; i < results[0].size(); ++i) CHECK(values(results[0][i]) == values(results[1][i]));
}

TEST_CASE("ViT-B/16 has torchvision's parameters in torchvision's order", "[models]") {
  const std::unique_ptr<Module> model = build_model("vit_b_16", {.num_classes = 1000, .image_size = 224});
  std::map<std::string, Shape> shapes;
  std::vector<std::string> names;
  int64_t count = 0;
  for (const Parameter* parameter : model->parameters()) {
    shapes.emplace(parameter->name, parameter->var.shape());
    names.push_back(parameter->name);
    count += parameter->var.value().numel();
  }
  CHECK(count == 86567656);
  const std::string block = "encoder.layers.encoder_layer_0.";
  const std::vector<std::string> first{"class_token",
                                       "conv_proj.weight",
                                       "conv_proj.bias",
                                       "encoder.pos_embedding",
                                       block + "ln_1.weight",
                                       block + "ln_1.bias",
                                       block + "self_attention.in_proj_weight",
                                       block + "self_attention.in_proj_bias",
                                       block + "self_attention.out_proj.weight",
                                       block + "self_attention.out_proj.bias",
                                       block + "ln_2.weight",
                                       block + "ln_2.bias",
                                       block + "mlp.0.weight",
                                       block + "mlp.0.bias",
                                       block + "mlp.3.weight",
                                       block + "mlp.3.bias"};
  REQUIRE(names.size() == 152);
  CHECK(std::vector<std::string>(names.begin(), names.begin() + 16) == first);
  CHECK(std::vector<std::string>(names.end() - 4, names.end()) ==
        std::vector<std::string>{"encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"});
  CHECK(shapes.at("encoder.pos_embedding") == Shape{1, 197, 768});
  CHECK(shapes.at(block + "self_attention.in_proj_weight") == Shape{2304, 768});
  CHECK(build_model("vit_b_16", {.image_size = 32})->parameters()[3]->var.shape() == Shape{1, 5, 768});
  CHECK_THROWS_WITH(build_model("vit_b_16", {.image_size = 100}), contains_text("multiple of 16x16, got 100x100"));
  CHECK_THROWS_AS(build_model("vit_b_16", {.image_size = 100}), UserError);
}

TEST_CASE("a vision transformer starts as torchvision's", "[models]") {
  const ModelOptions options{.in_channels = 3, .num_classes = 4, .image_size = 32};
  const std::unique_ptr<Module> model = small_vit(options);
  model->set_name("");
  model->initialize(1);
  std::map<std::string, Tensor> value;
  for (const Parameter* parameter : model->parameters()) value[parameter->name] = parameter->var.value();
  const auto largest = [&](const std::string& name) {
    float most = 0;
    for (const float x : values(value.at(name))) most = std::max(most, std::fabs(x));
    return most;
  };
  const auto deviation = [&](const std::string& name) {
    double sum = 0;
    for (const float x : values(value.at(name))) sum += static_cast<double>(x) * static_cast<double>(x);
    return std::sqrt(sum / static_cast<double>(value.at(name).numel()));
  };
  const std::string block = "encoder.layers.encoder_layer_1.";
  for (const std::string name : {"class_token", "conv_proj.bias", "heads.head.weight", "heads.head.bias"}) {
    CHECK(largest(name) == 0);
  }
  CHECK(largest(block + "self_attention.in_proj_bias") == 0);
  CHECK(largest(block + "self_attention.out_proj.bias") == 0);
  // There are thousands of values: the uniform ones' largest is near its bound, the normal ones' deviation near its
  // own.
  CHECK(largest(block + "self_attention.in_proj_weight") == Approx(std::sqrt(6.0 / (4 * 48))).epsilon(0.02));
  CHECK(largest(block + "self_attention.out_proj.weight") == Approx(1 / std::sqrt(48.0)).epsilon(0.02));
  CHECK(largest(block + "mlp.0.weight") == Approx(std::sqrt(6.0 / (48 + 96))).epsilon(0.02));
  CHECK(deviation("conv_proj.weight") == Approx(1 / std::sqrt(3.0 * 64)).epsilon(0.05));
  CHECK(deviation("encoder.pos_embedding") == Approx(0.02).epsilon(0.1));
  CHECK(deviation(block + "mlp.3.bias") == Approx(1e-6).epsilon(0.3));
}

TEST_CASE("the plan of a vision transformer: attention in float, all but the outer layers in 4 bits",
          "[models][plan]") {
  const std::string plan = describe_plan(small_config("float32", luq_policy, 1));
  const auto line = [&](const std::string& layer, const std::string& op) {
    const size_t begin = plan.find("\n" + layer + " ");
    for (size_t at = begin; at != std::string::npos; at = plan.find("\n" + layer + " ", at + 1)) {
      const std::string text = plan.substr(at + 1, plan.find('\n', at + 1) - at - 1);
      if (text.find(" " + op + " ") != std::string::npos) return text;
    }
    return "no line for " + layer + ", " + op + " in\n" + plan;
  };
  const std::string block = "encoder.layers.encoder_layer_1.";
  CHECK_THAT(line("conv_proj", "conv2d"), contains_text("float32 ["));
  CHECK_THAT(line("heads.head", "linear"), contains_text("float32 ["));
  for (const std::string name : {"self_attention", "self_attention.out_proj", "mlp.0", "mlp.3"}) {
    CHECK_THAT(line(block + name, "linear"),
               contains_text("int4 x int4") && contains_text("int4 x fp4") && contains_text("fp4 x int4"));
  }
  // Two products of 17 x 17 x 48.
  CHECK_THAT(line(block + "self_attention", "attention"),
             contains_text(" 27,744 ") && contains_text("float32 [") && !contains_text("int4"));
}

TEST_CASE("a small vision transformer learns, in every precision, the same for any threads", "[train][models]") {
  const auto [precision, policy] = GENERATE(table<std::string, std::string>(
      {{"float32", ""}, {"bfloat16", ""}, {"float32", luq_policy}, {"bfloat16", luq_policy}}));
  CAPTURE(precision, policy);
  const std::vector<float> all = losses(small_config(precision, policy, 2), 30);
  CHECK(all.front() == Approx(std::log(4.0)).epsilon(1e-4));  // the head starts at 0
  CHECK(all.back() < 0.5f * all.front());
  const std::vector<float> one_thread = losses(small_config(precision, policy, 1), 4);
  CHECK(std::vector<float>(all.begin(), all.begin() + 4) == one_thread);
}
