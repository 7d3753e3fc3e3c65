// The float ops: shapes and their errors, values against definitions, gradients against adjoints, buffers and the plan.

#include <algorithm>
#include <cmath>
#include <limits>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/ops/batch_norm.h"
#include "luq/ops/loss.h"
#include "luq/ops/matmul.h"
#include "luq/ops/pointwise.h"
#include "luq/ops/pool.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

namespace {

double dot(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    sum += static_cast<double>(a.data<float>()[i]) * static_cast<double>(b.data<float>()[i]);
  }
  return sum;
}

// y[n, oy, ox, o] by the definition, in double.
double conv_at(const Tensor& x, const Tensor& w, const Conv2dOptions& options, int64_t n, int64_t oy, int64_t ox,
               int64_t o) {
  const int64_t inputs = w.size(3), first = o / (w.size(0) / options.groups) * inputs;
  double sum = 0;
  for (int64_t ky = 0; ky < w.size(1); ++ky) {
    for (int64_t kx = 0; kx < w.size(2); ++kx) {
      const int64_t iy = oy * options.stride - options.padding + ky * options.dilation;
      const int64_t ix = ox * options.stride - options.padding + kx * options.dilation;
      if (iy < 0 || iy >= x.size(1) || ix < 0 || ix >= x.size(2)) continue;
      for (int64_t c = 0; c < inputs; ++c) {
        sum += static_cast<double>(x.data<float>()[((n * x.size(1) + iy) * x.size(2) + ix) * x.size(3) + first + c]) *
               static_cast<double>(w.data<float>()[((o * w.size(1) + ky) * w.size(2) + kx) * inputs + c]);
      }
    }
  }
  return sum;
}

struct ConvCase {
  Shape x, w;
  Conv2dOptions options;
  Shape y;
};

const std::vector<ConvCase> conv_cases = {
    {{2, 5, 6, 3}, {4, 3, 3, 3}, {.stride = 1, .padding = 1}, {2, 5, 6, 4}},
    {{2, 7, 5, 4}, {6, 3, 3, 2}, {.stride = 2, .padding = 1, .dilation = 1, .groups = 2}, {2, 4, 3, 6}},
    {{1, 9, 8, 2}, {3, 3, 3, 2}, {.stride = 1, .padding = 2, .dilation = 2}, {1, 9, 8, 3}},
    {{3, 4, 4, 5}, {5, 1, 1, 1}, {.stride = 2, .padding = 0, .dilation = 1, .groups = 5}, {3, 2, 2, 5}},
    {{2, 6, 6, 3}, {2, 5, 2, 3}, {.stride = 3, .padding = 2, .dilation = 1}, {2, 2, 3, 2}},
};

}  // namespace

TEST_CASE("conv2d follows its definition, and its gradients are adjoint to it", "[ops][conv2d]") {
  for (const ConvCase& c : conv_cases) {
    CAPTURE(to_string(c.x), to_string(c.w));
    Tape tape;
    Ctx ctx = make_ctx(&tape);
    Tensor scale = Tensor::zeros({1});
    const Var x(random_tensor(c.x, "x"), true), w(random_tensor(c.w, "w"), true);
    const Var bias(random_tensor({c.w[0]}, "bias"), true);
    const Var y = conv2d(ctx, x, w, &bias, c.options, "conv", scale);
    REQUIRE(y.shape() == c.y);
    for (int64_t i = 0; i < y.value().numel(); ++i) {
      const int64_t o = i % c.y[3], ox = i / c.y[3] % c.y[2], oy = i / (c.y[3] * c.y[2]) % c.y[1];
      const int64_t n = i / (c.y[3] * c.y[2] * c.y[1]);
      const double expected =
          conv_at(x.value(), w.value(), c.options, n, oy, ox, o) + static_cast<double>(bias.value().data<float>()[o]);
      REQUIRE(y.value().data<float>()[i] == Approx(expected).margin(1e-5));
    }
    const Tensor dy = random_tensor(c.y, "dy");
    tape.backward(weighted_sum(ctx, y, dy));

    // <dx, other> = <dy, conv(other, w)> and <dw, other> = <dy, conv(x, other)> for any other.
    Ctx plain = make_ctx();
    const Var other_x(random_tensor(c.x, "other x")), other_w(random_tensor(c.w, "other w"));
    const Var y_x = conv2d(plain, other_x, w, nullptr, c.options, "conv", scale);
    const Var y_w = conv2d(plain, x, other_w, nullptr, c.options, "conv", scale);
    CHECK(dot(x.grad(), other_x.value()) == Approx(dot(dy, y_x.value())).epsilon(1e-5).margin(1e-4));
    CHECK(dot(w.grad(), other_w.value()) == Approx(dot(dy, y_w.value())).epsilon(1e-5).margin(1e-4));
    for (int64_t o = 0; o < c.w[0]; ++o) {
      double column = 0;
      for (int64_t row = 0; row < dy.numel() / c.w[0]; ++row) column += dy.data<float>()[row * c.w[0] + o];
      CHECK(bias.grad().data<float>()[o] == Approx(column).margin(1e-5));
    }
    CHECK(scale.data<float>()[0] == 0);
  }
}

TEST_CASE("linear is x w^T + b", "[ops][linear]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  Tensor scale = Tensor::zeros({1});
  const Var x(tensor_of({2, 3}, {1, 2, 3, 4, 5, 6}), true), w(tensor_of({2, 3}, {1, 0, -1, 2, 1, 0}), true);
  const Var bias(tensor_of({2}, {10, 20}), true);
  const Var y = linear(ctx, x, w, &bias, "fc", scale);
  CHECK(values(y.value()) == std::vector<float>{8, 24, 8, 33});
  tape.backward(weighted_sum(ctx, y, tensor_of({2, 2}, {1, 2, 3, 4})));
  CHECK(values(x.grad()) == std::vector<float>{5, 2, -1, 11, 4, -3});
  CHECK(values(w.grad()) == std::vector<float>{13, 17, 21, 18, 24, 30});
  CHECK(values(bias.grad()) == std::vector<float>{4, 6});
}

TEST_CASE("only wanted gradients are computed", "[ops][conv2d]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  Kernels kernels = *ctx.kernels;
  ctx.kernels = &kernels;
  Tensor scale = Tensor::zeros({1});
  const Tensor dy = random_tensor({1, 4, 4, 2}, "dy");
  const auto forbidden_data = [](const kernels::ConvBackwardDataArgs&) { FAIL("dx was not wanted"); };
  const auto forbidden_weight = [](const kernels::ConvBackwardWeightArgs&) { FAIL("dw was not wanted"); };
  SECTION("the images need none") {
    kernels.conv_backward_data.run = forbidden_data;
    const Var x(random_tensor({1, 4, 4, 3}, "x")), w(random_tensor({2, 1, 1, 3}, "w"), true);
    tape.backward(weighted_sum(ctx, conv2d(ctx, x, w, nullptr, {}, "conv", scale), dy));
    CHECK(w.grad().defined());
  }
  SECTION("frozen weights need none") {
    kernels.conv_backward_weight.run = forbidden_weight;
    const Var x(random_tensor({1, 4, 4, 3}, "x"), true), w(random_tensor({2, 1, 1, 3}, "w"));
    tape.backward(weighted_sum(ctx, conv2d(ctx, x, w, nullptr, {}, "conv", scale), dy));
    CHECK(x.grad().defined());
  }
  SECTION("without a tape nothing is recorded") {
    ctx.tape = nullptr;
    const Var x(random_tensor({1, 4, 4, 3}, "x"), true), w(random_tensor({2, 1, 1, 3}, "w"), true);
    CHECK_FALSE(relu(ctx, conv2d(ctx, x, w, nullptr, {}, "conv", scale)).needs_grad());
    CHECK(tape.size() == 0);
  }
}

TEST_CASE("errors of conv2d and linear name the layer and both shapes", "[ops][errors]") {
  Ctx ctx = make_ctx();
  Tensor scale = Tensor::zeros({1});
  const auto conv = [&](const Shape& x, const Shape& w, const Conv2dOptions& options = {}, const Var* bias = nullptr) {
    return conv2d(ctx, Var(Tensor::zeros(x)), Var(Tensor::zeros(w)), bias, options, "layer1.0.conv1", scale);
  };
  CHECK_THROWS_WITH(conv({8, 56, 56, 32}, {128, 3, 3, 64}),
                    contains_text("[conv2d] layer1.0.conv1: expected C_in=64 from w (128,3,3,64)") &&
                        contains_text("got 32 in x (8,56,56,32)"));
  CHECK_THROWS_WITH(conv({8, 56, 32}, {128, 3, 3, 32}), contains_text("expected x of shape (N,H,W,C), got (8,56,32)"));
  CHECK_THROWS_WITH(conv({1, 8, 8, 4}, {4, 4}), contains_text("expected w of shape (O,KH,KW,C/groups), got (4,4)"));
  CHECK_THROWS_WITH(conv({1, 2, 2, 4}, {4, 3, 3, 4}), contains_text("at least as large as the kernel 3x3"));
  CHECK_THROWS_WITH(conv({1, 8, 8, 4}, {3, 3, 3, 2}, {.groups = 2}), contains_text("divisible by groups=2"));
  CHECK_THROWS_WITH(conv({1, 8, 8, 4}, {4, 3, 3, 4}, {.stride = 0}), contains_text("expected stride"));
  const Var bias(Tensor::zeros({5}));
  CHECK_THROWS_WITH(conv({1, 8, 8, 4}, {4, 3, 3, 4}, {}, &bias),
                    contains_text("expected a bias of shape (4), got (5)"));
  CHECK_THROWS_WITH(linear(ctx, Var(Tensor::zeros({2, 7})), Var(Tensor::zeros({5, 6})), nullptr, "fc", scale),
                    contains_text("[linear] fc: expected C_in=6 from w (5,6), got 7 in x (2,7)"));
  CHECK_THROWS_WITH(
      linear(ctx, Var(Tensor::zeros({2, 6}, DType::uint8)), Var(Tensor::zeros({5, 6})), nullptr, "fc", scale),
      contains_text("[linear] fc: expected x of dtype float32 or bfloat16, got uint8"));
}

TEST_CASE("errors of the other ops say what was expected", "[ops][errors]") {
  Ctx ctx = make_ctx();
  const Var x(Tensor::zeros({2, 4, 4, 3}));
  CHECK_THROWS_WITH(add(ctx, x, Var(Tensor::zeros({2, 4, 4, 4}))), contains_text("(2,4,4,3) and (2,4,4,4)"));
  CHECK_THROWS_WITH(relu(ctx, Var(Tensor::zeros({2}, DType::int32))), contains_text("[relu] expected x of dtype"));
  CHECK_THROWS_WITH(max_pool2d(ctx, x, {.kernel = 5, .stride = 1}), contains_text("[max_pool2d] expected an image"));
  CHECK_THROWS_WITH(avg_pool2d(ctx, x, {.kernel = 2, .stride = 2, .padding = 2}), contains_text("[avg_pool2d]"));
  CHECK_THROWS_WITH(adaptive_avg_pool2d(ctx, x, 0), contains_text("[adaptive_avg_pool2d] expected"));
  CHECK_THROWS_WITH(dropout(ctx, x, 1.0f, "drop"), contains_text("[dropout] drop: expected a probability in [0, 1)"));
  Tensor mean = Tensor::zeros({3}), variance = Tensor::zeros({3});
  const Var gamma(Tensor::zeros({3})), wrong(Tensor::zeros({4}));
  CHECK_THROWS_WITH(batch_norm(ctx, x, wrong, gamma, mean, variance, {}, "bn1"),
                    contains_text("[batch_norm] bn1: expected C=3 from x (2,4,4,3), got parameters of shape (4)"));
  CHECK_THROWS_WITH(batch_norm(ctx, Var(Tensor::zeros({1, 1, 1, 3})), gamma, gamma, mean, variance, {}, "bn1"),
                    contains_text("bn1: expected more than one value per channel when training, got x (1,1,1,3)"));
  CHECK_THROWS_AS(batch_norm(ctx, Var(Tensor::zeros({1, 3})), gamma, gamma, mean, variance, {}, "bn1"), UserError);
  const Var logits(Tensor::zeros({2, 3}));
  const int32_t labels[] = {0, 3};
  CHECK_THROWS_WITH(softmax_cross_entropy(ctx, logits, Tensor::from({2}, labels)),
                    contains_text("expected labels in 0..2, got 3 in row 1"));
  CHECK_THROWS_WITH(softmax_cross_entropy(ctx, logits, Tensor::from({1}, labels)), contains_text("of shape (2)"));
  CHECK_THROWS_WITH(softmax_cross_entropy(ctx, logits, Tensor::zeros({2})), contains_text("of dtype int32"));
  CHECK_THROWS_WITH(softmax_cross_entropy(ctx, logits, Tensor::zeros({2}, DType::int32), 1.0f),
                    contains_text("label_smoothing in [0, 1), got 1"));
}

TEST_CASE("relu writes in place only what was moved in and is held by nobody else", "[ops][relu]") {
  Ctx ctx = make_ctx();
  Var x(tensor_of({3}, {-1, 0, 2}));
  const void* buffer = x.value().raw();
  const Var copy = relu(ctx, x);
  CHECK(values(x.value()) == std::vector<float>{-1, 0, 2});
  CHECK(values(copy.value()) == std::vector<float>{0, 0, 2});
  const Tensor holder = x.value();
  CHECK(relu(ctx, std::move(x)).value().raw() != buffer);
  CHECK(values(holder) == std::vector<float>{-1, 0, 2});
  Var again(holder.clone());
  buffer = again.value().raw();
  const Var moved = relu(ctx, std::move(again));
  CHECK(moved.value().raw() == buffer);
  CHECK(values(moved.value()) == std::vector<float>{0, 0, 2});
}

TEST_CASE("relu6 is cut at 6, non-negative, and passes the gradient strictly between and at NaN", "[ops][relu]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  std::vector<PlanEntry> plan;
  ctx.plan = &plan;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const Var x(tensor_of({8}, {-1, 0, 2, std::nextafter(6.0f, 0.0f), 6, 7, infinity, nan}), true);
  const Var y = relu6(ctx, x);
  CHECK(y.non_negative());
  const std::vector<float> ys = values(y.value());
  CHECK(std::vector<float>(ys.begin(), ys.end() - 1) ==
        std::vector<float>{0, 0, 2, std::nextafter(6.0f, 0.0f), 6, 6, 6});
  CHECK(std::isnan(ys.back()));
  CHECK(plan.at(0).op == "relu6");
  tape.backward(weighted_sum(ctx, y, tensor_of({8}, {1, 2, 3, 4, 5, 6, 7, 8})));
  CHECK(values(x.grad()) == std::vector<float>{0, 0, 3, 4, 0, 0, 0, 8});
}

TEST_CASE("the closure of relu keeps one bit an element", "[ops][relu]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const int64_t before = memory_stats().live_bytes;
  relu(ctx, Var(Tensor::zeros({1 << 16}), true));
  CHECK(memory_stats().live_bytes - before == (1 << 16) / 8);
  tape.clear();
  CHECK(memory_stats().live_bytes == before);
}

TEST_CASE("ops keep what the graph knows about signs", "[ops]") {
  Ctx ctx = make_ctx();
  const Var x(random_tensor({2, 4, 4, 3}, "x"));
  CHECK_FALSE(x.non_negative());
  const Var y = relu(ctx, x);
  CHECK(y.non_negative());
  CHECK(max_pool2d(ctx, y, {}).non_negative());
  CHECK(avg_pool2d(ctx, y, {}).non_negative());
  CHECK(adaptive_avg_pool2d(ctx, y, 2).non_negative());
  CHECK(global_avg_pool(ctx, y).non_negative());
  CHECK(flatten(ctx, y).non_negative());
  CHECK(dropout(ctx, y, 0.5f, "drop").non_negative());
  CHECK(add(ctx, y, y).non_negative());
  CHECK_FALSE(add(ctx, y, x).non_negative());
  CHECK_FALSE(max_pool2d(ctx, x, {}).non_negative());
  CHECK_FALSE(flatten(ctx, x).non_negative());
}

TEST_CASE("dropout keeps the expected share, scales it, and masks the gradient alike", "[ops][dropout]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const int64_t count = 40000;
  const Var x(Tensor::full({count}, 1.0f), true);
  const Var y = dropout(ctx, x, 0.25f, "drop");
  int64_t kept = 0;
  for (const float value : values(y.value())) {
    const bool valid = value == 0.0f || value == Approx(1.0f / 0.75f);
    REQUIRE(valid);
    kept += value != 0.0f;
  }
  CHECK(std::abs(static_cast<double>(kept) - 30000) < 4 * std::sqrt(40000 * 0.25 * 0.75));
  tape.backward(weighted_sum(ctx, y, Tensor::full({count}, 1.0f)));
  CHECK(values(x.grad()) == values(y.value()));
  CHECK(values(dropout(ctx, x, 0.25f, "drop").value()) == values(y.value()));
  CHECK(values(dropout(ctx, x, 0.25f, "other").value()) != values(y.value()));
  ctx.step = 1;
  CHECK(values(dropout(ctx, x, 0.25f, "drop").value()) != values(y.value()));
  ctx.training = false;
  CHECK(values(dropout(ctx, x, 0.25f, "drop").value()) == values(x.value()));
}

TEST_CASE("batch norm moves the running statistics as PyTorch does", "[ops][batch_norm]") {
  Ctx ctx = make_ctx();
  Tensor mean = Tensor::zeros({2}), variance = Tensor::full({2}, 1.0f);
  const Var gamma(tensor_of({2}, {1, 2})), beta(tensor_of({2}, {0, 1}));
  // Channel 0: 1, 3, 5, 7 (mean 4, biased variance 5, unbiased 20/3); channel 1: 0, 0, 2, 2 (1, 1, 4/3).
  const Var x(tensor_of({2, 2, 1, 2}, {1, 0, 3, 0, 5, 2, 7, 2}));
  const Var y = batch_norm(ctx, x, gamma, beta, mean, variance, {.momentum = 0.1f, .eps = 0.0f}, "bn");
  CHECK(mean.data<float>()[0] == Approx(0.4));
  CHECK(mean.data<float>()[1] == Approx(0.1));
  CHECK(variance.data<float>()[0] == Approx(0.9 + 0.1 * 20 / 3));
  CHECK(variance.data<float>()[1] == Approx(0.9 + 0.1 * 4 / 3));
  CHECK(y.value().data<float>()[0] == Approx(-3 / std::sqrt(5)));
  CHECK(y.value().data<float>()[1] == Approx(-1));
  CHECK(y.value().data<float>()[7] == Approx(3));

  ctx.training = false;
  const Tensor mean_before = mean.clone(), variance_before = variance.clone();
  const Var z = batch_norm(ctx, Var(tensor_of({1, 1, 1, 2}, {2, 3})), gamma, beta, mean, variance, {}, "bn");
  CHECK(z.value().data<float>()[0] == Approx((2 - 0.4) / std::sqrt(0.9 + 2.0 / 3 + 1e-5)));
  CHECK(values(mean) == values(mean_before));
  CHECK(values(variance) == values(variance_before));
}

TEST_CASE("softmax cross-entropy: loss, gradient, correct rows", "[ops][loss]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var logits(tensor_of({2, 3}, {0, 0, 0, 1, 3, 3}), true);
  const int32_t labels[] = {0, 2};
  const LossResult result = softmax_cross_entropy(ctx, logits, Tensor::from({2}, labels));
  const double first = std::log(3.0), second = std::log(std::exp(1.0) + 2 * std::exp(3.0)) - 3;
  CHECK(result.loss.value().data<float>()[0] == Approx((first + second) / 2));
  CHECK(result.correct == 1);  // row 0: the first of equals is the label; row 1: it is not
  tape.backward(result.loss);
  CHECK(logits.grad().data<float>()[0] == Approx((1.0 / 3 - 1) / 2));
  CHECK(logits.grad().data<float>()[1] == Approx(1.0 / 6));
  CHECK(logits.grad().data<float>()[5] == Approx((1 / (std::exp(-2.0) + 2) - 1) / 2));

  const LossResult smooth = softmax_cross_entropy(ctx, logits, Tensor::from({2}, labels), 0.3f);
  const double uniform = second + 2.0 / 3;  // mean over classes of -log p in row 1
  CHECK(smooth.loss.value().data<float>()[0] == Approx((first + 0.7 * second + 0.3 * uniform) / 2));
  logits.slot()->grad = Tensor();
  tape.clear();
  const LossResult seeded = softmax_cross_entropy(ctx, logits, Tensor::from({2}, labels));
  tape.backward(seeded.loss, 2.0f);
  CHECK(logits.grad().data<float>()[1] == Approx(1.0 / 3));
}

TEST_CASE("softmax cross-entropy of mixed images is the mixture of two losses", "[ops][loss]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const int32_t labels[] = {0, 2, 1}, others[] = {1, 2, 0};
  const float weights[] = {0.25f, 0.5f, 1.0f};
  const auto gradient_and_loss = [&](const Tensor& first, const Tensor& second, const Tensor& weight, double& loss) {
    const Var logits(tensor_of({3, 3}, {0, 0, 0, 1, 3, 3, -2, 5, 1}), true);
    const LossResult result = softmax_cross_entropy(ctx, logits, first, 0.1f, second, weight);
    loss = static_cast<double>(result.loss.value().data<float>()[0]);
    CHECK(result.correct == (first.data<int32_t>()[0] == 0 ? 2 : 0));
    tape.backward(result.loss);
    return values(logits.grad());
  };
  const Tensor first = Tensor::from({3}, labels), second = Tensor::from({3}, others);
  double mixed = 0, loss_first = 0, loss_second = 0;
  const auto gradient = gradient_and_loss(first, second, Tensor::from({3}, weights), mixed);
  const auto of_first = gradient_and_loss(first, {}, {}, loss_first);
  const auto of_second = gradient_and_loss(second, {}, {}, loss_second);
  for (size_t i = 0; i < 9; ++i) {
    const float weight = weights[i / 3];
    CHECK(gradient[i] == Approx(weight * of_first[i] + (1 - weight) * of_second[i]).margin(1e-7));
  }
  const float half[] = {0.5f, 0.5f, 0.5f};
  gradient_and_loss(first, second, Tensor::from({3}, half), mixed);
  CHECK(mixed == Approx((loss_first + loss_second) / 2));

  const Var logits(Tensor::zeros({3, 3}));
  const int32_t wrong[] = {0, 3, 0};
  const float heavy[] = {0, 2, 0};
  const auto refused = [&](const Tensor& other, const Tensor& weight, const std::string& message) {
    CHECK_THROWS_WITH(softmax_cross_entropy(ctx, logits, first, 0, other, weight), contains_text(message));
  };
  refused(second, {}, "expected both other_labels and label_weight or neither");
  refused(Tensor::from({3}, wrong), Tensor::from({3}, weights), "expected other_labels in 0..2, got 3 in row 1");
  refused(second, Tensor::from({3}, heavy), "expected label_weight in [0, 1], got 2 in row 1");
  refused(second, Tensor::zeros({2}), "expected label_weight of shape (3)");
}

TEST_CASE("pooling: values, first maximum, padding, odd windows", "[ops][pool]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({1, 3, 3, 1}, {1, 5, 2, 5, 5, 3, -1, -2, -3}), true);
  const Var y = max_pool2d(ctx, x, {.kernel = 2, .stride = 1});
  CHECK(values(y.value()) == std::vector<float>{5, 5, 5, 5});
  tape.backward(weighted_sum(ctx, y, tensor_of({1, 2, 2, 1}, {1, 2, 3, 4})));
  CHECK(values(x.grad()) == std::vector<float>{0, 3, 0, 3, 4, 0, 0, 0, 0});
  CHECK(values(max_pool2d(ctx, x, {.kernel = 3, .stride = 2, .padding = 1}).value()) == std::vector<float>{5, 5, 5, 5});
  CHECK(max_pool2d(ctx, x, {.kernel = 2, .stride = 2}).shape() == Shape{1, 1, 1, 1});
  CHECK(max_pool2d(ctx, x, {.kernel = 2, .stride = 2, .ceil_mode = true}).shape() == Shape{1, 2, 2, 1});
  CHECK(values(avg_pool2d(ctx, x, {.kernel = 2, .stride = 2, .padding = 1}).value())[0] == Approx(0.25));
  const Pool2dOptions data_only{.kernel = 2, .stride = 2, .padding = 1, .count_include_pad = false};
  CHECK(values(avg_pool2d(ctx, x, data_only).value())[0] == Approx(1));

  tape.clear();
  x.slot()->grad = Tensor();
  const Var mean = global_avg_pool(ctx, x);
  CHECK(mean.shape() == Shape{1, 1});
  CHECK(values(mean.value())[0] == Approx(15.0 / 9));
  tape.backward(weighted_sum(ctx, mean, tensor_of({1, 1}, {9})));
  CHECK(values(x.grad()) == std::vector<float>(9, 1.0f));
  // A 1x1 image spread over 2x2, as torchvision's VGG does with small images, and its gradient added up again.
  const Var pixel(tensor_of({1, 1, 1, 1}, {3}), true);
  const Var spread = adaptive_avg_pool2d(ctx, pixel, 2);
  CHECK(values(spread.value()) == std::vector<float>(4, 3.0f));
  tape.backward(weighted_sum(ctx, spread, tensor_of({1, 2, 2, 1}, {1, 2, 3, 4})));
  CHECK(values(pixel.grad()) == std::vector<float>{10});
}

TEST_CASE("every op reports itself to the plan with the kernel that runs it", "[ops][plan]") {
  std::vector<PlanEntry> plan;
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  ctx.plan = &plan;
  const Kernels& k = *ctx.kernels;
  Tensor scale = Tensor::zeros({1}), mean = Tensor::zeros({4}), variance = Tensor::full({4}, 1.0f);
  const Var x(random_tensor({2, 8, 8, 3}, "x")), w(random_tensor({4, 3, 3, 3}, "w"), true);
  const Var bias(Tensor::zeros({4}), true), gamma(Tensor::full({4}, 1.0f), true), beta(Tensor::zeros({4}), true);
  const Var y = conv2d(ctx, x, w, &bias, {.stride = 1, .padding = 1}, "conv1", scale);
  const Var pooled = max_pool2d(ctx, relu(ctx, batch_norm(ctx, y, gamma, beta, mean, variance, {}, "bn1")), {});
  CHECK(pooled.needs_grad());
  REQUIRE(plan.size() == 4);
  CHECK(plan[0].name == "conv1");
  CHECK(plan[0].op == "conv2d");
  CHECK(plan[0].input == Shape{2, 8, 8, 3});
  CHECK(plan[0].output == Shape{2, 8, 8, 4});
  CHECK(plan[0].parameters == 4 * 27 + 4);
  CHECK(plan[0].macs == 2 * 8 * 8 * 4 * 27);
  CHECK(plan[0].forward == "float32");
  CHECK(plan[0].backward_data == "-");  // nobody wants the gradient of the images
  CHECK(plan[0].forward_kernel == k.conv_forward.implementation);
  CHECK(plan[0].backward_data_kernel == "-");
  CHECK(plan[0].backward_weight_kernel == k.conv_backward_weight.implementation);
  CHECK(plan[1].op == "batch_norm");
  CHECK(plan[1].parameters == 8);
  CHECK(plan[1].backward_data_kernel == k.batch_norm_backward.implementation);
  CHECK(plan[2].forward_kernel == k.relu.implementation);
  CHECK(plan[3].op == "max_pool2d");
  CHECK(plan[3].output == Shape{2, 4, 4, 4});
}

TEST_CASE("batch_norm gives the same with and without fused kernels, and as the ops one after the other",
          "[ops][batch_norm]") {
  const auto act = GENERATE(std::pair{false, 0.0f}, std::pair{true, 0.0f}, std::pair{true, 6.0f});
  const bool relu_after = act.first;
  const float ceiling = act.second;
  const bool with_residual = GENERATE(false, true);
  CAPTURE(relu_after, ceiling, with_residual);
  enum class How { fused, composed, apart };
  const auto run = [&](How how) {
    Tape tape;
    Ctx ctx = make_ctx(&tape);
    Kernels kernels = *ctx.kernels;
    if (how != How::fused) kernels.batch_norm_act = {}, kernels.batch_norm_act_backward = {};
    ctx.kernels = &kernels;
    const Var x(random_tensor({3, 5, 4, 7}, "x"), true), residual(random_tensor({3, 5, 4, 7}, "residual"), true);
    // Wide enough that ReLU6's ceiling is met.
    const Var gamma(random_tensor({7}, "gamma", -8, 8), true), beta(random_tensor({7}, "beta"), true);
    Tensor mean = Tensor::zeros({7}), variance = Tensor::full({7}, 1.0f);
    Var y;
    if (how == How::apart) {
      y = batch_norm(ctx, x, gamma, beta, mean, variance, {}, "bn");
      if (with_residual) y = add(ctx, y, residual);
      if (relu_after) y = ceiling > 0 ? relu6(ctx, y) : relu(ctx, y);
    } else {
      y = batch_norm(ctx, x, gamma, beta, mean, variance, {}, "bn",
                     {.relu = relu_after, .ceiling = ceiling, .residual = with_residual ? residual : Var()});
    }
    CHECK(y.non_negative() == relu_after);
    const std::vector<float> ys = values(y.value());
    if (relu_after) CHECK((*std::max_element(ys.begin(), ys.end()) == 6.0f) == (ceiling > 0));
    tape.backward(weighted_sum(ctx, y, random_tensor(y.shape(), "dy")));
    std::vector<std::vector<float>> all{values(y.value()), values(mean),         values(variance),
                                        values(x.grad()),  values(gamma.grad()), values(beta.grad())};
    if (with_residual) all.push_back(values(residual.grad()));
    return all;
  };
  const auto fused = run(How::fused);
  CHECK(fused == run(How::composed));
  CHECK(fused == run(How::apart));
}
