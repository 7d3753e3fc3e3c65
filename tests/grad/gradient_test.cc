// Gradients of every float operation by finite differences, in double, on the normative kernels.

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "kernels/ref/float_ops.h"
#include "tests/catch.h"

namespace luq {
namespace {

using namespace luq::kernels;
using Values = std::vector<double>;

Values random_values(int64_t count, std::mt19937& rng) {
  std::normal_distribution<double> distribution;
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = distribution(rng);
  return values;
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// `gradient` against central differences of loss(x), element by element, relative to the largest.
void check_gradient(Values x, const Values& gradient, const std::function<double(const Values&)>& loss) {
  REQUIRE(x.size() == gradient.size());
  double largest = 1e-3;
  for (const double g : gradient) largest = std::max(largest, std::fabs(g));
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < x.size(); ++i) {
    const double before = x[i];
    x[i] = before + kStep;
    const double above = loss(x);
    x[i] = before - kStep;
    const double below = loss(x);
    x[i] = before;
    INFO("element " << i << ": " << gradient[i] << " and " << (above - below) / (2 * kStep));
    REQUIRE(std::fabs((above - below) / (2 * kStep) - gradient[i]) <= 1e-6 * largest);
  }
}

size_t size(int64_t count) { return static_cast<size_t>(count); }

}  // namespace

TEST_CASE("Gradients of convolutions and linear layers", "[grad][conv]") {
  std::mt19937 rng(1);
  const ConvShape shapes[] = {
      {.n = 2, .h = 5, .w = 4, .c = 3, .o = 2, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 1, .h = 6, .w = 7, .c = 2, .o = 3, .kh = 3, .kw = 2, .stride_h = 2, .stride_w = 3, .pad_h = 1},
      {.n = 2,
       .h = 7,
       .w = 7,
       .c = 2,
       .o = 2,
       .kh = 3,
       .kw = 3,
       .pad_h = 2,
       .pad_w = 2,
       .dilation_h = 2,
       .dilation_w = 2},
      {.n = 2, .h = 4, .w = 4, .c = 4, .o = 6, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 2},
      {.n = 1,
       .h = 5,
       .w = 5,
       .c = 3,
       .o = 3,
       .kh = 3,
       .kw = 3,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 1,
       .pad_w = 1,
       .groups = 3},
      {.n = 2, .h = 3, .w = 3, .c = 3, .o = 2, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2},
      {.n = 4, .c = 5, .o = 3},
  };
  for (const ConvShape& s : shapes) {
    const Values x = random_values(s.x_size(), rng), w = random_values(s.w_size(), rng);
    const Values bias = random_values(s.o, rng), dy = random_values(s.y_size(), rng);
    const auto loss = [&](const Values& xs, const Values& ws, const Values& bs) {
      Values y(size(s.y_size()));
      ref::conv_forward(s, xs.data(), ws.data(), bs.data(), y.data());
      return dot(y, dy);
    };
    Values dx(x.size()), dw(w.size()), db(bias.size());
    ref::conv_backward_data(s, dy.data(), w.data(), dx.data());
    ref::conv_backward_weight(s, dy.data(), x.data(), dw.data());
    ref::column_sum(dy.data(), s.y_size() / s.o, s.o, db.data());
    check_gradient(x, dx, [&](const Values& v) { return loss(v, w, bias); });
    check_gradient(w, dw, [&](const Values& v) { return loss(x, v, bias); });
    check_gradient(bias, db, [&](const Values& v) { return loss(x, w, v); });
  }
}

TEST_CASE("Gradients of batch norm in training and in evaluation", "[grad][batch_norm]") {
  std::mt19937 rng(2);
  const int64_t rows = 7, c = 3;
  const Values x = random_values(rows * c, rng), dy = random_values(rows * c, rng);
  const Values gamma = random_values(c, rng), beta = random_values(c, rng);
  const Values fixed_mean = random_values(c, rng);
  const Values fixed_std{0.5, 1.5, 2.0};
  for (const bool training : {true, false}) {
    const auto statistics = [&](const Values& xs, Values& mean, Values& inverse_std) {
      mean = fixed_mean;
      inverse_std = fixed_std;
      if (!training) return;
      Values variance(size(c));
      ref::batch_norm_stats(xs.data(), rows, c, mean.data(), variance.data());
      for (size_t i = 0; i < variance.size(); ++i) inverse_std[i] = 1 / std::sqrt(variance[i] + 1e-5);
    };
    const auto loss = [&](const Values& xs, const Values& gs, const Values& bs) {
      Values mean, inverse_std, y(x.size());
      statistics(xs, mean, inverse_std);
      ref::batch_norm_apply(xs.data(), rows, c, mean.data(), inverse_std.data(), gs.data(), bs.data(), y.data());
      return dot(y, dy);
    };
    Values mean, inverse_std, dx(x.size()), dgamma(gamma.size()), dbeta(beta.size());
    statistics(x, mean, inverse_std);
    ref::batch_norm_backward(x.data(), dy.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(), training,
                             dx.data(), dgamma.data(), dbeta.data());
    check_gradient(x, dx, [&](const Values& v) { return loss(v, gamma, beta); });
    check_gradient(gamma, dgamma, [&](const Values& v) { return loss(x, v, beta); });
    check_gradient(beta, dbeta, [&](const Values& v) { return loss(x, gamma, v); });
  }
}

TEST_CASE("Gradients of layer norm", "[grad][layer_norm]") {
  std::mt19937 rng(8);
  const int64_t rows = 4, c = 5;
  constexpr double kEps = 1e-5;
  const Values x = random_values(rows * c, rng), dy = random_values(rows * c, rng);
  const Values gamma = random_values(c, rng), beta = random_values(c, rng);
  const auto loss = [&](const Values& xs, const Values& gs, const Values& bs) {
    Values y(x.size());
    ref::layer_norm<double>(xs.data(), rows, c, gs.data(), bs.data(), kEps, y.data(), nullptr, nullptr);
    return dot(y, dy);
  };
  Values y(x.size()), mean(size(rows)), inverse_std(size(rows)), dx(x.size()), dgamma(gamma.size()), dbeta(beta.size());
  ref::layer_norm(x.data(), rows, c, gamma.data(), beta.data(), kEps, y.data(), mean.data(), inverse_std.data());
  ref::layer_norm_backward(x.data(), dy.data(), rows, c, mean.data(), inverse_std.data(), gamma.data(), dx.data(),
                           dgamma.data(), dbeta.data());
  check_gradient(x, dx, [&](const Values& v) { return loss(v, gamma, beta); });
  check_gradient(gamma, dgamma, [&](const Values& v) { return loss(x, v, beta); });
  check_gradient(beta, dbeta, [&](const Values& v) { return loss(x, gamma, v); });
}

TEST_CASE("Gradients of GELU", "[grad][gelu]") {
  std::mt19937 rng(9);
  const int64_t count = 41;
  const Values x = random_values(count, rng), dy = random_values(count, rng);
  Values dx(x.size());
  ref::gelu_backward(x.data(), dy.data(), count, dx.data());
  check_gradient(x, dx, [&](const Values& v) {
    Values y(v.size());
    ref::gelu(v.data(), count, y.data());
    return dot(y, dy);
  });
}

TEST_CASE("Gradients of attention", "[grad][attention]") {
  std::mt19937 rng(10);
  for (const int64_t tokens : {1, 6}) {
    const int64_t n = 2, heads = 2, dim = 3, count = n * tokens * heads * dim;
    const Values qkv = random_values(3 * count, rng), dy = random_values(count, rng);
    Values y(dy.size()), log_sum(size(n * heads * tokens)), dqkv(qkv.size());
    ref::attention(n, tokens, heads, dim, qkv.data(), y.data(), log_sum.data());
    ref::attention_backward(n, tokens, heads, dim, qkv.data(), y.data(), log_sum.data(), dy.data(), dqkv.data());
    check_gradient(qkv, dqkv, [&](const Values& v) {
      Values out(y.size());
      ref::attention<double>(n, tokens, heads, dim, v.data(), out.data(), nullptr);
      return dot(out, dy);
    });
  }
}

TEST_CASE("Gradients of ReLU, add and dropout", "[grad][pointwise]") {
  std::mt19937 rng(3);
  const int64_t count = 37;
  const Values x = random_values(count, rng), other = random_values(count, rng), dy = random_values(count, rng);
  std::vector<uint8_t> mask(size((count + 7) / 8));
  Values y(x.size()), dx(x.size());
  ref::relu(x.data(), count, y.data(), mask.data());
  ref::relu_backward(dy.data(), mask.data(), count, dx.data());
  check_gradient(x, dx, [&](const Values& v) {
    Values out(v.size());
    ref::relu<double>(v.data(), count, out.data(), nullptr);
    return dot(out, dy);
  });
  // ReLU6's shape with a ceiling that some of the values pass.
  ref::relu(x.data(), count, y.data(), mask.data(), 0.75);
  ref::relu_backward(dy.data(), mask.data(), count, dx.data());
  CHECK(std::count(y.begin(), y.end(), 0.75) > 0);
  check_gradient(x, dx, [&](const Values& v) {
    Values out(v.size());
    ref::relu<double>(v.data(), count, out.data(), nullptr, 0.75);
    return dot(out, dy);
  });
  check_gradient(x, dy, [&](const Values& v) {
    Values out(v.size());
    ref::add(v.data(), other.data(), count, out.data());
    return dot(out, dy);
  });
  const RngKey key = make_rng_key(5, "dropout");
  ref::dropout(dy.data(), count, 0.4f, key, dx.data());
  check_gradient(x, dx, [&](const Values& v) {
    Values out(v.size());
    ref::dropout(v.data(), count, 0.4f, key, out.data());
    return dot(out, dy);
  });
}

TEST_CASE("Gradients of pooling", "[grad][pool]") {
  std::mt19937 rng(4);
  for (const PoolShape& s :
       {PoolShape{2, 6, 6, 2, 2, 2, 2, 2, 0, 0, false}, PoolShape{1, 7, 5, 3, 3, 3, 2, 2, 1, 1, false},
        PoolShape{1, 6, 7, 2, 3, 2, 2, 3, 1, 1, true}}) {
    const int64_t out = s.n * s.oh() * s.ow() * s.c;
    const Values x = random_values(s.n * s.h * s.w * s.c, rng), dy = random_values(out, rng);
    Values y(size(out)), dx(x.size());
    std::vector<int32_t> index(size(out));
    ref::max_pool(s, x.data(), y.data(), index.data());
    ref::max_pool_backward(s, dy.data(), index.data(), dx.data());
    check_gradient(x, dx, [&](const Values& v) {
      Values pooled(size(out));
      ref::max_pool<double>(s, v.data(), pooled.data(), nullptr);
      return dot(pooled, dy);
    });
    for (const bool include_pad : {false, true}) {
      ref::avg_pool_backward(s, dy.data(), dx.data(), include_pad);
      check_gradient(x, dx, [&](const Values& v) {
        Values pooled(size(out));
        ref::avg_pool(s, v.data(), pooled.data(), include_pad);
        return dot(pooled, dy);
      });
    }
  }
  for (const int64_t size_out : {1, 2, 3, 7}) {
    const Values x = random_values(2 * 5 * 4 * 3, rng), dy = random_values(2 * size_out * size_out * 3, rng);
    Values dx(x.size());
    ref::adaptive_avg_pool_backward(2, 5, 4, 3, size_out, size_out, dy.data(), dx.data());
    check_gradient(x, dx, [&](const Values& v) {
      Values pooled(dy.size());
      ref::adaptive_avg_pool(2, 5, 4, 3, size_out, size_out, v.data(), pooled.data());
      return dot(pooled, dy);
    });
  }
}

TEST_CASE("Gradients of cross-entropy with label smoothing", "[grad][loss]") {
  std::mt19937 rng(5);
  const int64_t rows = 4, classes = 5;
  const Values logits = random_values(rows * classes, rng);
  const int32_t labels[] = {0, 4, 2, 2};
  for (const float smoothing : {0.0f, 0.1f}) {
    Values gradient(logits.size());
    ref::cross_entropy<double>(logits.data(), labels, rows, classes, smoothing, nullptr, gradient.data(), 0.25,
                               nullptr);
    check_gradient(logits, gradient, [&](const Values& v) {
      Values losses(size(rows));
      ref::cross_entropy<double>(v.data(), labels, rows, classes, smoothing, losses.data(), nullptr, 0.25, nullptr);
      double sum = 0;
      for (const double loss : losses) sum += 0.25 * loss;
      return sum;
    });
  }
}

TEST_CASE("Gradients of cross-entropy of mixed images", "[grad][loss]") {
  std::mt19937 rng(6);
  const int64_t rows = 4, classes = 5;
  const Values logits = random_values(rows * classes, rng);
  const int32_t labels[] = {0, 4, 2, 2}, others[] = {2, 0, 4, 2};
  const float weights[] = {0.7f, 0.0f, 1.0f, 0.4f};
  const auto run = [&](const Values& v, float smoothing, double* losses, double* gradient) {
    ref::cross_entropy<double>(v.data(), labels, rows, classes, smoothing, losses, gradient, 0.25, nullptr, others,
                               weights);
  };
  for (const float smoothing : {0.0f, 0.1f}) {
    Values gradient(logits.size());
    run(logits, smoothing, nullptr, gradient.data());
    check_gradient(logits, gradient, [&](const Values& v) {
      Values losses(size(rows));
      run(v, smoothing, losses.data(), nullptr);
      double sum = 0;
      for (const double loss : losses) sum += 0.25 * loss;
      return sum;
    });
  }
}

TEST_CASE("SGD follows its definition in double", "[grad][sgd]") {
  // PyTorch: v = momentum v + (g + decay w); w -= lr (g + decay w + momentum v) with nesterov.
  double w = 1.0, v = 0.0;
  const double g = 0.5;
  ref::sgd<double>(&w, &g, &v, 1, 0.1, 0.9, 0.01, true, true, 1.0);
  CHECK(v == Approx(0.51));
  CHECK(w == Approx(1.0 - 0.1 * (0.51 + 0.9 * 0.51)));
  const double before = w;
  ref::sgd<double>(&w, &g, &v, 1, 0.1, 0.9, 0.0, false, false, 1.0);
  CHECK(v == Approx(0.9 * 0.51 + 0.5));
  CHECK(w == Approx(before - 0.1 * (0.9 * 0.51 + 0.5)));
}

}  // namespace luq
