// The 4-bit path of conv2d and linear: equal to the float op at the dequantised operands, unbiased over seeds, with
// running activation scales, codes made once, and closures that keep packed codes only.

#include <cmath>
#include <limits>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/ops/batch_norm.h"
#include "luq/ops/matmul.h"
#include "luq/ops/pointwise.h"
#include "tests/catch.h"
#include "tests/unit/formats.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

constexpr QuantSpec kFloat{};
constexpr QuantSpec kInt4{Format::int4, ScaleMethod::sawb, Rounding::nearest};
constexpr QuantSpec kFp4{Format::fp4, ScaleMethod::max, Rounding::stochastic};

QuantPlan plan_of(const LayerQuant& spec, const std::vector<std::string>& names = {"conv"}) {
  QuantPolicy policy;
  policy.spec = spec;
  policy.exempt_first_conv = policy.exempt_last_linear = false;
  std::vector<MatmulLayer> layers;
  for (const std::string& name : names) layers.push_back({name, LayerKind::conv});
  return QuantPlan(policy, layers);
}

// The bound of the float sums here: at most 64 terms, each rounded once.
constexpr double kRounding = 64 * 0x1p-24;

// The values that the layer multiplies in place of x.
Tensor seen(const Ctx& ctx, const Tensor& x, const QuantSpec& spec, bool non_negative, const char* role) {
  if (!spec.format.quantized()) return x;
  return dequantize(*ctx.kernels, quantize(*ctx.kernels, x, spec, non_negative, ctx.rng("conv", role), "test"));
}

// Largest difference over the largest magnitude of the reference.
double relative_error(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double difference = 0, magnitude = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a.data<float>()[i]) - b.data<float>()[i]));
    magnitude = std::max(magnitude, std::abs(static_cast<double>(b.data<float>()[i])));
  }
  REQUIRE(magnitude > 0);
  return difference / magnitude;
}

struct Gradients {
  Tensor y, dx, dw, db;
};

Gradients run(Ctx ctx, const Tensor& x, bool non_negative, const Tensor& w, const Tensor& dy,
              const Conv2dOptions& options) {
  Tape tape;
  ctx.tape = &tape;
  Tensor scale = Tensor::zeros({1});
  Var input(x, true);
  input.set_non_negative(non_negative);
  const Var weight(w, true), bias(random_tensor({w.size(0)}, "bias"), true);
  const Var y = conv2d(ctx, input, weight, &bias, options, "conv", scale);
  tape.backward(weighted_sum(ctx, y, dy));
  return {y.value(), input.grad(), weight.grad(), bias.grad()};
}

// A kernel table that counts calls of the encoder, by the kind of grid.
int integer_encodings = 0, power_encodings = 0;
Kernels counting_kernels() {
  integer_encodings = power_encodings = 0;
  Kernels kernels = kernels_for({});
  kernels.encode.run = [](const kernels::EncodeArgs& args) {
    ++(args.grid.kind == GridKind::uniform ? integer_encodings : power_encodings);
    kernels_for({}).encode(args);
  };
  return kernels;
}

}  // namespace

TEST_CASE("a quantised conv equals the float conv at the dequantised operands", "[quantized]") {
  const bool weights = GENERATE(false, true), activations = GENERATE(false, true), gradients = GENERATE(false, true);
  const bool non_negative = GENERATE(false, true), stochastic = GENERATE(false, true);
  LayerQuant spec{weights ? kInt4 : kFloat, activations ? kInt4 : kFloat, gradients ? kFp4 : kFloat};
  if (stochastic) spec.weights.rounding = spec.activations.rounding = Rounding::stochastic;
  CAPTURE(weights, activations, gradients, non_negative, stochastic);
  const QuantPlan plan = plan_of(spec);
  const Ctx quantized = make_ctx(nullptr, &plan), plain = make_ctx();
  const Conv2dOptions options{.stride = 2, .padding = 1, .dilation = 1, .groups = 2};
  const Tensor x = random_tensor({3, 7, 6, 6}, "x", non_negative ? 0.0f : -1.0f, 1.0f);
  const Tensor w = random_tensor({4, 3, 3, 3}, "w"), dy = random_tensor({3, 4, 3, 4}, "dy");

  const Gradients actual = run(quantized, x, non_negative, w, dy, options);
  const Tensor seen_x = seen(quantized, x, spec.activations, non_negative, "activations");
  const Tensor seen_w = seen(quantized, w, spec.weights, false, "weights");
  const Gradients expected =
      run(plain, seen_x, non_negative, seen_w, seen(quantized, dy, spec.gradient_for_data, false, "gradient"), options);
  CHECK(relative_error(actual.y, expected.y) < kRounding);
  CHECK(relative_error(actual.dx, expected.dx) < kRounding);
  CHECK(relative_error(actual.dw, expected.dw) < kRounding);
  const Gradients unquantized = run(plain, x, non_negative, w, dy, options);
  CHECK(values(actual.db) == values(unquantized.db));  // from the float gradient, whatever the formats
  if (activations) CHECK(relative_error(actual.y, unquantized.y) > 1e-4);  // quantising did change something
}

TEST_CASE("a quantised linear layer is the 1x1 convolution of its rows", "[quantized]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  const Tensor x = random_tensor({5, 9}, "x"), w = random_tensor({7, 9}, "w"), dy = random_tensor({5, 7}, "dy");
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  Tensor scale = Tensor::zeros({1});
  const Var x_linear(x, true), w_linear(w, true), x_conv(x.reshape({5, 1, 1, 9}), true);
  const Var w_conv(w.reshape({7, 1, 1, 9}), true);
  const Var y = linear(ctx, x_linear, w_linear, nullptr, "conv", scale);
  tape.backward(weighted_sum(ctx, y, dy));
  const Var y_conv = conv2d(ctx, x_conv, w_conv, nullptr, {}, "conv", scale);
  tape.backward(weighted_sum(ctx, y_conv, dy.reshape({5, 1, 1, 7})));
  CHECK(values(y.value()) == values(y_conv.value()));
  CHECK(values(x_linear.grad()) == values(x_conv.grad()));
  CHECK(values(w_linear.grad()) == values(w_conv.grad()));
}

TEST_CASE("quantised gradients are unbiased over seeds", "[quantized]") {
  // dx and dw at the dequantised forward operands, with the gradient in float32, are the expectation.
  const int seeds = 3000;
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4}), exact_plan = plan_of({kInt4, kInt4, kFloat});
  const Tensor x = random_tensor({2, 4, 4, 3}, "x"), w = random_tensor({4, 3, 3, 3}, "w");
  Tensor dy = random_tensor({2, 4, 4, 4}, "dy");
  // Magnitudes over many octaves, below alpha (max / 64) too.
  for (int64_t i = 0; i < dy.numel(); ++i) dy.data<float>()[i] *= std::exp2(-static_cast<float>(i % 10));
  const Conv2dOptions options{.stride = 1, .padding = 1};
  const Gradients exact = run(make_ctx(nullptr, &exact_plan), x, false, w, dy, options);

  std::vector<double> sum_w(108), square_w(108), sum_x(96), square_x(96);
  const auto accumulate = [](const Tensor& sample, const Tensor& expected, std::vector<double>& sum,
                             std::vector<double>& square) {
    REQUIRE(sample.numel() == static_cast<int64_t>(sum.size()));
    for (size_t i = 0; i < sum.size(); ++i) {
      const double error = static_cast<double>(sample.data<float>()[i]) - expected.data<float>()[i];
      sum[i] += error;
      square[i] += error * error;
    }
  };
  for (int seed = 0; seed < seeds; ++seed) {
    Ctx ctx = make_ctx(nullptr, &plan);
    ctx.seed = static_cast<uint64_t>(seed);
    const Gradients sample = run(ctx, x, false, w, dy, options);
    REQUIRE(values(sample.y) == values(exact.y));
    accumulate(sample.dw, exact.dw, sum_w, square_w);
    accumulate(sample.dx, exact.dx, sum_x, square_x);
  }
  // 204 two-sided tests: one beyond 4.5 standard errors happens by chance once in 700 runs, and the seeds are fixed.
  double worst = 0;
  for (const auto& [sum, square] : {std::pair{sum_w, square_w}, std::pair{sum_x, square_x}}) {
    for (size_t i = 0; i < sum.size(); ++i) {
      const double deviation = std::sqrt(square[i] / seeds);
      REQUIRE(deviation > 0);
      worst = std::max(worst, std::abs(sum[i] / seeds) / (deviation / std::sqrt(seeds)));
    }
  }
  CHECK(worst < 4.5);
}

TEST_CASE("the random bits of a gradient depend on seed, step and layer", "[quantized]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  const Tensor x = random_tensor({2, 4, 4, 3}, "x"), w = random_tensor({4, 3, 3, 3}, "w");
  const Tensor dy = random_tensor({2, 2, 2, 4}, "dy");
  Ctx ctx = make_ctx(nullptr, &plan);
  const std::vector<float> first = values(run(ctx, x, false, w, dy, {}).dw);
  CHECK(values(run(ctx, x, false, w, dy, {}).dw) == first);
  ctx.step = 1;
  CHECK(values(run(ctx, x, false, w, dy, {}).dw) != first);
  ctx.step = 0;
  ctx.seed = 6;
  CHECK(values(run(ctx, x, false, w, dy, {}).dw) != first);
  ctx.seed = 5;
  ctx.micro_batch = 1;
  CHECK(values(run(ctx, x, false, w, dy, {}).dw) != first);
}

TEST_CASE("training moves the running activation scale, evaluation uses it", "[quantized]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  Ctx ctx = make_ctx(nullptr, &plan);
  Tensor running = Tensor::zeros({1});
  const Var w(random_tensor({4, 3, 3, 3}, "w"));
  const auto forward = [&](const Tensor& x) { return conv2d(ctx, Var(x), w, nullptr, {}, "conv", running).value(); };
  const Tensor a = random_tensor({4, 5, 5, 3}, "a"), b = random_tensor({4, 5, 5, 3}, "b", -3, 3);
  const float scale_a = quantization_scale(*ctx.kernels, a, kInt4, false, "a");
  const float scale_b = quantization_scale(*ctx.kernels, b, kInt4, false, "b");
  REQUIRE(scale_b > 2 * scale_a);

  ctx.training = false;  // nothing seen yet: the tensor's own scale, which is not remembered
  const std::vector<float> unseen = values(forward(a));
  CHECK(running.data<float>()[0] == 0);
  ctx.training = true;
  CHECK(values(forward(a)) == unseen);
  CHECK(running.data<float>()[0] == scale_a);
  forward(b);
  const float mean = 0.9f * scale_a + 0.1f * scale_b;
  CHECK(running.data<float>()[0] == Approx(mean).epsilon(1e-6));
  forward(Tensor::zeros({4, 5, 5, 3}));  // a batch of zeros has no scale and says nothing about the next one's
  CHECK(running.data<float>()[0] == Approx(mean).epsilon(1e-6));

  ctx.training = false;
  const float stored = running.data<float>()[0];
  const Tensor evaluated = forward(b);
  CHECK(running.data<float>()[0] == stored);
  const Tensor seen_b =
      dequantize(*ctx.kernels, quantize(*ctx.kernels, b, kInt4, false, {}, "b", std::optional<float>(stored)));
  const Tensor seen_w = dequantize(*ctx.kernels, quantize(*ctx.kernels, w.value(), kInt4, false, {}, "w"));
  ctx.quant = nullptr;
  CHECK(relative_error(evaluated, conv2d(ctx, Var(seen_b), Var(seen_w), nullptr, {}, "conv", running).value()) <
        kRounding);
}

TEST_CASE("in evaluation a result depends neither on the batch size nor on its neighbours", "[quantized]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  Ctx ctx = make_ctx(nullptr, &plan);
  ctx.training = false;
  Tensor running = Tensor::full({1}, 0.11f);
  const Var w(random_tensor({4, 3, 3, 3}, "w"));
  Tensor batch = random_tensor({3, 5, 5, 3}, "x");
  for (int64_t i = 0; i < 75; ++i) batch.data<float>()[75 + i] *= 100;  // a loud neighbour
  const std::vector<float> together =
      values(conv2d(ctx, Var(batch), w, nullptr, {.stride = 1, .padding = 1}, "conv", running).value());
  for (int64_t image = 0; image < 3; ++image) {
    const Tensor alone = Tensor::from({1, 5, 5, 3}, batch.data<float>() + image * 75);
    const std::vector<float> y =
        values(conv2d(ctx, Var(alone), w, nullptr, {.stride = 1, .padding = 1}, "conv", running).value());
    CHECK(y == std::vector<float>(together.begin() + image * 100, together.begin() + (image + 1) * 100));
  }
}

TEST_CASE("a tensor that two convolutions read is quantised once", "[quantized]") {
  const Kernels kernels = counting_kernels();
  LayerQuant spec{kInt4, kInt4, kFp4};
  const QuantPlan plan = plan_of(spec, {"a", "b"});
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  ctx.kernels = &kernels;
  Tensor running_a = Tensor::zeros({1}), running_b = Tensor::zeros({1});
  const Var x = relu(ctx, Var(random_tensor({2, 6, 6, 4}, "x"), true));
  const Var w_a(random_tensor({4, 3, 3, 4}, "a"), true), w_b(random_tensor({4, 1, 1, 4}, "b"), true);
  const Var a = conv2d(ctx, x, w_a, nullptr, {.stride = 2, .padding = 1}, "a", running_a);
  const Var b = conv2d(ctx, x, w_b, nullptr, {.stride = 2}, "b", running_b);
  CHECK(integer_encodings == 3);  // x once, two weights
  CHECK(x.quant_cache().entries.size() == 1);
  CHECK(x.quant_cache().entries[0].codes.format == Format::uint4);
  CHECK(running_a.data<float>()[0] == running_b.data<float>()[0]);
  tape.backward(weighted_sum(ctx, add(ctx, a, b), random_tensor({2, 3, 3, 4}, "dy")));
  CHECK(integer_encodings == 3);  // the backward products use the codes of the forward pass
  CHECK(power_encodings == 2);

  ctx.training = false;
  ctx.tape = nullptr;
  running_b.data<float>()[0] *= 2;  // another scale: not the same codes
  const Var y = relu(ctx, Var(random_tensor({2, 6, 6, 4}, "y")));
  conv2d(ctx, y, w_a, nullptr, {}, "a", running_a);
  conv2d(ctx, y, w_b, nullptr, {}, "b", running_b);
  CHECK(y.quant_cache().entries.size() == 2);
}

TEST_CASE("the closure of a quantised conv keeps packed codes only", "[quantized]") {
  const Var w(random_tensor({32, 1, 1, 32}, "w"), true);
  Tensor running = Tensor::zeros({1});
  const int64_t elements = 8 * 16 * 16 * 32, weights = 32 * 32;
  const auto kept = [&](const LayerQuant& spec) {
    const QuantPlan plan = plan_of(spec);
    Tape tape;
    Ctx ctx = make_ctx(&tape, &plan);
    const int64_t before = memory_stats().live_bytes;
    conv2d(ctx, Var(random_tensor({8, 16, 16, 32}, "x"), true), w, nullptr, {}, "conv", running);
    const int64_t bytes = memory_stats().live_bytes - before;
    CHECK(tape.size() == 1);
    return bytes;
  };
  CHECK(kept({kInt4, kInt4, kFp4}) == elements / 2 + weights / 2);
  CHECK(kept({kInt4, kInt4, kFloat}) == elements / 2 + weights / 2);  // dequantised again when backward_weight needs it
  CHECK(kept({kFloat, kInt4, kFp4}) == elements / 2);
  CHECK(kept({kInt4, kFloat, kFp4}) == elements * 4 + weights / 2);
  CHECK(kept({kFloat, kFloat, kFloat}) == elements * 4);
}

TEST_CASE("NaN and infinity stop with the layer and the operand", "[quantized]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  Tensor running = Tensor::zeros({1});
  Tensor bad = random_tensor({1, 4, 4, 3}, "x");
  bad.data<float>()[7] = GENERATE(std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity());
  const Var x(random_tensor({1, 4, 4, 3}, "x"), true), w(random_tensor({3, 1, 1, 3}, "w"), true);
  CHECK_THROWS_WITH(conv2d(ctx, Var(bad), w, nullptr, {}, "conv", running),
                    contains_text("[quantize]") && contains_text("input of layer conv"));
  CHECK_THROWS_WITH(
      conv2d(ctx, x, Var(bad.reshape({4, 1, 4, 3}), true), nullptr, {.stride = 1, .padding = 2}, "conv", running),
      contains_text("weight of layer conv"));
  const Var y = conv2d(ctx, x, w, nullptr, {}, "conv", running);
  CHECK_THROWS_WITH(tape.backward(weighted_sum(ctx, y, bad)), contains_text("gradient of layer conv"));
}

TEST_CASE("quantisers that a layer cannot have are refused with the layer and the operand", "[quantized]") {
  Ctx ctx = make_ctx();
  Tensor running = Tensor::zeros({1});
  const Var x(random_tensor({1, 4, 4, 3}, "x")), w(random_tensor({3, 1, 1, 3}, "w"));
  const QuantSpec uint4{Format::uint4, ScaleMethod::sawb, Rounding::nearest};
  const auto forward = [&](const LayerQuant& spec) {
    const QuantPlan plan = plan_of(spec);
    ctx.quant = &plan;
    conv2d(ctx, x, w, nullptr, {}, "conv", running);
  };
  const QuantSpec fp4_with_sawb{Format::fp4, ScaleMethod::sawb, Rounding::stochastic};
  static constexpr FormatRow unregistered{"mine", uniform_grid(-3, 3), 1, {{signed_integers()}}};
  const auto refused = [&](const LayerQuant& spec, const std::string& message) {
    CHECK_THROWS_AS(forward(spec), UserError);
    CHECK_THROWS_WITH(forward(spec), contains_text("[conv2d] conv: " + message));
  };
  refused({uint4, kInt4, kFp4}, "weights: expected float32 or a format with signs, got uint4");
  refused({kInt4, uint4, kFp4}, "activations: expected float32 or a format with signs, got uint4");
  refused({kInt4, kInt4, kFp4, uint4}, "gradient_for_weights: expected float32 or a format with signs, got uint4");
  refused({kInt4, kInt4, fp4_with_sawb}, "gradient_for_data: expected the scale method max for fp4");
  refused({kInt4, kInt4, {Format(&unregistered), ScaleMethod::max, Rounding::nearest}},
          "gradient_for_data: expected a registered format, got mine");
  CHECK_NOTHROW(forward({kInt4, kInt4, kInt4}));
  CHECK_NOTHROW(forward({kFp4, kFp4, kInt4, kFp4}));
}

TEST_CASE("the plan tells formats and kernels of the three matmuls", "[quantized][plan]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  std::vector<PlanEntry> entries;
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  ctx.plan = &entries;
  Tensor running = Tensor::zeros({1});
  const Var x(random_tensor({1, 4, 4, 3}, "x"), true), w(random_tensor({3, 1, 1, 3}, "w"), true);
  conv2d(ctx, relu(ctx, x), w, nullptr, {}, "conv", running);
  conv2d(ctx, x, w, nullptr, {}, "exempt", running);
  REQUIRE(entries.size() == 3);
  CHECK(entries[1].forward == "uint4 x int4");
  CHECK(entries[1].backward_data == "int4 x fp4");
  CHECK(entries[1].backward_weight == "fp4 x uint4");
  CHECK(entries[1].forward_kernel == ctx.kernels->qconv_forward.implementation);
  CHECK(entries[1].backward_data_kernel == ctx.kernels->qconv_backward_data.implementation);
  CHECK(entries[1].backward_weight_kernel == ctx.kernels->qconv_backward_weight.implementation);
  CHECK(entries[2].forward == "float32");
  CHECK(entries[2].backward_data_kernel == ctx.kernels->conv_backward_data.implementation);
}

TEST_CASE("Statistics taken on the way are those that quantisers would take", "[ops][batch_norm][quantize]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  Tape tape;
  Ctx ctx = make_ctx(&tape, &plan);
  REQUIRE(ctx.wants_statistics());
  const Var x(random_tensor({3, 5, 4, 9}, "x"), true), gamma(random_tensor({9}, "gamma"), true);
  const Var beta(random_tensor({9}, "beta"), true);
  Tensor mean = Tensor::zeros({9}), variance = Tensor::full({9}, 1.0f);
  const auto check = [&](const Tensor& tensor, const std::optional<Stats>& known) {
    REQUIRE(known.has_value());
    Stats expected;
    ctx.kernels->stats({.x = tensor.data<float>(), .count = tensor.numel(), .stats = &expected});
    CHECK(known->sum_abs == expected.sum_abs);
    CHECK(known->sum_sq == expected.sum_sq);
    CHECK(known->nonzero == expected.nonzero);
    CHECK(known->abs_bits_max == expected.abs_bits_max);
  };
  const Var y = batch_norm(ctx, x, gamma, beta, mean, variance, {}, "bn", {.relu = true});
  check(y.value(), y.statistics());
  tape.backward(weighted_sum(ctx, y, random_tensor(y.shape(), "dy")));
  check(x.grad(), x.slot()->statistics);
  // A second contribution changes the gradient: what was known of the first no longer holds.
  add_gradient(*ctx.kernels, *x.slot(), random_tensor(x.shape(), "more"));
  CHECK(!x.slot()->statistics.has_value());
}

TEST_CASE("batch_norm after a quantised convolution gives the same whether or not moments come with it",
          "[ops][batch_norm][quantize]") {
  const QuantPlan plan = plan_of({kInt4, kInt4, kFp4});
  const auto run = [&](bool fused) {
    Tape tape;
    Ctx ctx = make_ctx(&tape, &plan);
    ctx.training = true;
    Kernels kernels = *ctx.kernels;
    if (!fused) kernels.qconv_forward_moments = {};
    ctx.kernels = &kernels;
    const Var x(random_tensor({4, 6, 5, 8}, "x"), true), w(random_tensor({19, 3, 3, 8}, "w"), true);
    const Var gamma(random_tensor({19}, "gamma"), true), beta(random_tensor({19}, "beta"), true);
    Tensor scale = Tensor::zeros({1}), mean = Tensor::zeros({19}), variance = Tensor::full({19}, 1.0f);
    const Var z = conv2d(ctx, x, w, nullptr, {.padding = 1}, "conv", scale);
    CHECK(z.channel_moments().has_value() == (fused && ctx.kernels->qconv_forward_moments));
    const Var y = batch_norm(ctx, z, gamma, beta, mean, variance, {}, "bn");
    std::vector<float> all = values(y.value());
    for (const Tensor& tensor : {mean, variance}) {
      const std::vector<float> more = values(tensor);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  };
  const std::vector<float> fused = run(true), composed = run(false);
  for (size_t i = 0; i < fused.size(); ++i) CHECK(fused[i] == Approx(composed[i]).epsilon(1e-4).margin(1e-5));
}

TEST_CASE("equal quantisers of the gradient encode it once, others once each, with random bits of their own",
          "[quantized]") {
  const Kernels kernels = counting_kernels();
  const Tensor x = random_tensor({2, 5, 5, 4}, "x"), w = random_tensor({6, 3, 3, 4}, "w");
  const Tensor dy = random_tensor({2, 3, 3, 6}, "dy");
  const auto gradients = [&](const LayerQuant& spec) {
    const QuantPlan plan = plan_of(spec);
    Ctx ctx = make_ctx(nullptr, &plan);
    ctx.kernels = &kernels;
    integer_encodings = power_encodings = 0;
    const Gradients all = run(ctx, x, false, w, dy, {});
    int expected = 0;
    for (const QuantSpec* one :
         {&spec.weights, &spec.activations, &spec.gradient_for_data, &spec.gradient_for_weights}) {
      const bool again = one == &spec.gradient_for_weights && *one == spec.gradient_for_data;
      expected += one->format.quantized() && !again ? 1 : 0;
    }
    CHECK(integer_encodings + power_encodings == expected);
    return all;
  };
  const Gradients luq = gradients({kInt4, kInt4, kFp4}), same = gradients({kInt4, kInt4, kFp4, kFp4});
  CHECK(values(same.dx) == values(luq.dx));
  CHECK(values(same.dw) == values(luq.dw));

  QuantSpec nearest = kFp4;
  nearest.rounding = Rounding::nearest;
  const Gradients mixed = gradients({kInt4, kInt4, nearest, kInt4});
  CHECK(values(mixed.dx) == values(gradients({kInt4, kInt4, nearest}).dx));
  CHECK(values(mixed.dw) == values(gradients({kInt4, kInt4, kInt4}).dw));

  // The role of the stochastic one is its product, and no longer "gradient".
  const Gradients half = gradients({kInt4, kInt4, kFp4, nearest});
  CHECK(values(half.dw) == values(gradients({kInt4, kInt4, nearest}).dw));
  CHECK(values(half.dx) != values(luq.dx));
  const Ctx ctx = make_ctx();
  const Tensor seen_w = seen(ctx, w, kInt4, false, "weights"), seen_x = seen(ctx, x, kInt4, false, "activations");
  const Gradients expected = run(ctx, seen_x, false, seen_w, seen(ctx, dy, kFp4, false, "gradient_for_data"), {});
  CHECK(relative_error(half.dx, expected.dx) < kRounding);

  // One of them in floats.
  const Gradients one = gradients({kFloat, kFloat, kFp4, kFloat});
  CHECK(values(one.dw) == values(gradients({kFloat, kFloat, kFloat}).dw));
  CHECK(values(one.dx) != values(gradients({kFloat, kFloat, kFloat}).dx));
}

TEST_CASE("a layer trains with formats that are not built in, of one plane and of two", "[quantized]") {
  const QuantSpec thirds{powers_of_3(), ScaleMethod::max, Rounding::nearest},
      integers{int3(), ScaleMethod::max, Rounding::nearest}, wide{radix4(), ScaleMethod::max, Rounding::stochastic};
  const bool non_negative = GENERATE(false, true);
  const LayerQuant spec{thirds, integers, wide, thirds};
  const QuantPlan plan = plan_of(spec);
  const Ctx ctx = make_ctx(nullptr, &plan);
  const Tensor x = random_tensor({2, 5, 5, 4}, "x", non_negative ? 0.0f : -1.0f), w = random_tensor({6, 3, 3, 4}, "w");
  const Tensor dy = random_tensor({2, 3, 3, 6}, "dy");
  const Gradients actual = run(ctx, x, non_negative, w, dy, {});
  const Tensor seen_w = seen(ctx, w, thirds, false, "weights");
  const Tensor seen_x = seen(ctx, x, integers, non_negative, "activations");
  const auto expected = [&](const QuantSpec& gradient, const char* role) {
    return run(make_ctx(), seen_x, non_negative, seen_w, seen(ctx, dy, gradient, false, role), {});
  };
  CHECK(relative_error(actual.y, expected(wide, "gradient_for_data").y) < kRounding);
  CHECK(relative_error(actual.dx, expected(wide, "gradient_for_data").dx) < kRounding);
  CHECK(relative_error(actual.dw, expected(thirds, "gradient_for_weights").dw) < kRounding);
}
