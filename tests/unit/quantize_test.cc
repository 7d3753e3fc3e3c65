// Quantising tensors: scales, at most 16 codes, LUQ without bias, errors, and the policy.

#include "luq/quant/quantize.h"

#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "kernels/kernels.h"
#include "luq/core/error.h"
#include "luq/quant/policy.h"
#include "tests/catch.h"
#include "tests/unit/formats.h"

namespace luq {
namespace {

const Kernels& table() { return kernels_for({}); }

Tensor make(int64_t count, const std::function<float(int64_t)>& value) {
  Tensor x = Tensor::empty({count});
  for (int64_t i = 0; i < count; ++i) x.data<float>()[i] = value(i);
  return x;
}

// Standard normal numbers by summing uniform ones (Irwin-Hall): good enough, and the same everywhere.
Tensor gaussian(int64_t count, uint64_t seed) {
  RngStream stream(make_rng_key(seed, "test"));
  return make(count, [&](int64_t) {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += stream.uniform();
    return sum;
  });
}

std::set<int> codes_of(const QTensor& q) {
  std::set<int> codes;
  for (int64_t row = 0; row < q.rows(); ++row) {
    const uint8_t* from = q.planes[0].codes.data<uint8_t>() + row * packed_row_bytes(q.cols());
    for (int64_t col = 0; col < q.cols(); ++col) codes.insert(static_cast<int>(kernels::load_code(from, col)));
  }
  return codes;
}

constexpr QuantSpec kInt4{Format::int4, ScaleMethod::sawb, Rounding::nearest};
constexpr QuantSpec kLuq{Format::fp4, ScaleMethod::max, Rounding::stochastic};

double mean_square_error(const Tensor& x, const Tensor& y) {
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double d = static_cast<double>(x.data<float>()[i]) - static_cast<double>(y.data<float>()[i]);
    sum += d * d;
  }
  return sum / static_cast<double>(x.numel());
}

// Mean of Q(x) over many independent draws, in units of standard errors away from x.
double bias_in_standard_errors(float x, float largest) {
  constexpr int64_t kCopies = 1 << 16;
  const Tensor values = make(kCopies, [&](int64_t i) { return i == 0 ? largest : x; });
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (uint64_t step = 0; step < 8; ++step) {
    const QTensor q = quantize(table(), values, kLuq, false, make_rng_key(7, "bias", step), "test");
    const Tensor back = dequantize(table(), q);
    for (int64_t i = 1; i < kCopies; ++i) {
      const double value = static_cast<double>(back.data<float>()[i]);
      sum += value;
      squares += value * value;
      ++count;
    }
  }
  const double mean = sum / static_cast<double>(count);
  const double variance = std::max(squares / static_cast<double>(count) - mean * mean, 0.0);
  const double difference = std::fabs(mean - static_cast<double>(x));
  // 16 random bits may be off by 2^-17 of the gap, which is at most |x| or alpha.
  const double resolution = std::max(std::fabs(static_cast<double>(x)), static_cast<double>(largest) / 64) / 100000;
  if (difference <= resolution) return 0;
  return variance == 0 ? INFINITY : difference / std::sqrt(variance / static_cast<double>(count));
}

}  // namespace

TEST_CASE("Adversarial tensors never have more than 16 codes, and zero is code 0", "[quantize]") {
  const std::vector<std::pair<std::string, Tensor>> tensors{
      {"all zero", make(1000, [](int64_t) { return 0.0f; })},
      {"negative zero", make(1000, [](int64_t) { return -0.0f; })},
      {"one outlier", make(1000, [](int64_t i) { return i == 500 ? 1e30f : 1e-3f * static_cast<float>(i); })},
      {"denormals", make(1000, [](int64_t i) { return std::ldexp(static_cast<float>(i - 500), -149); })},
      {"all negative", make(1000, [](int64_t i) { return -0.01f * static_cast<float>(i + 1); })},
      {"constant", make(1000, [](int64_t) { return -2.5f; })},
      {"huge", make(1000, [](int64_t i) { return (i % 2 == 0 ? 3e38f : -3e38f) / static_cast<float>(i + 1); })},
      {"tiny", make(1000, [](int64_t i) { return 1e-38f * static_cast<float>(i % 9 - 4); })},
      {"two octaves", make(1000, [](int64_t i) { return i % 2 == 0 ? 1.0f : 0.25f; })},
      {"gaussian", gaussian(100000, 1)},
  };
  for (const auto& [name, x] : tensors) {
    INFO(name);
    for (const Rounding rounding : {Rounding::nearest, Rounding::stochastic}) {
      for (const ScaleMethod method :
           {ScaleMethod::sawb, ScaleMethod::sawb_nonzero, ScaleMethod::reference, ScaleMethod::max}) {
        const QTensor q = quantize(table(), x, {Format::int4, method, rounding}, false, make_rng_key(1, name), name);
        REQUIRE(codes_of(q).size() <= 15);
        REQUIRE(codes_of(q).count(8) == 0);
        REQUIRE(std::isfinite(q.scale));
      }
      const QTensor q =
          quantize(table(), x, {Format::fp4, ScaleMethod::max, rounding}, false, make_rng_key(1, name), name);
      REQUIRE(codes_of(q).size() <= 15);
      REQUIRE(codes_of(q).count(8) == 0);
      const Tensor back = dequantize(table(), q);
      for (int64_t i = 0; i < x.numel(); ++i) {
        if (x.data<float>()[i] == 0) REQUIRE(back.data<float>()[i] == 0);
        REQUIRE(std::isfinite(back.data<float>()[i]));
      }
    }
  }
}

TEST_CASE("An all-zero tensor and one too small to invert get scale 0 and codes 0", "[quantize]") {
  for (const float value : {0.0f, 1e-40f}) {
    const Tensor x = make(37, [&](int64_t) { return value; });
    for (const QuantSpec& spec : {kInt4, kLuq}) {
      const QTensor q = quantize(table(), x, spec, false, {}, "test");
      CHECK(q.scale == 0.0f);
      CHECK(codes_of(q) == std::set<int>{0});
    }
  }
}

TEST_CASE("LUQ is unbiased below alpha, in each octave, at each boundary and at the maximum", "[quantize][luq]") {
  const float largest = 1.7f, alpha = largest / 64;
  for (const float sign : {1.0f, -1.0f}) {
    for (const float part : {0.001f, 0.1f, 0.37f, 0.5f, 0.9f, 0.999f}) {
      CHECK(bias_in_standard_errors(sign * part * alpha, largest) < 4);
    }
    for (int octave = 0; octave < 6; ++octave) {
      for (const float part : {1.0f, 1.0001f, 1.2f, 1.5f, 1.77f, 1.9999f}) {
        CHECK(bias_in_standard_errors(sign * std::ldexp(part * alpha, octave), largest) < 4);
      }
    }
    CHECK(bias_in_standard_errors(sign * largest, largest) == 0);
  }
}

TEST_CASE("LUQ keeps powers of two times alpha exactly", "[quantize][luq]") {
  const Tensor x = make(700, [](int64_t i) { return std::ldexp(i % 2 == 0 ? 3.0f : -3.0f, static_cast<int>(i % 7)); });
  for (uint64_t step = 0; step < 20; ++step) {
    const Tensor back = dequantize(table(), quantize(table(), x, kLuq, false, make_rng_key(0, "exact", step), "test"));
    for (int64_t i = 0; i < x.numel(); ++i) REQUIRE(back.data<float>()[i] == x.data<float>()[i]);
  }
}

TEST_CASE("Random bits depend on the seed, the name, the step and the sample", "[quantize][luq]") {
  const Tensor x = gaussian(4096, 3);
  const auto codes = [&](const RngKey& key) {
    const QTensor q = quantize(table(), x, kLuq, false, key, "test");
    return std::string(reinterpret_cast<const char*>(q.planes[0].codes.data<uint8_t>()),
                       static_cast<size_t>(q.planes[0].codes.numel()));
  };
  const std::string first = codes(make_rng_key(1, "a", 2, 3, 4));
  CHECK(first == codes(make_rng_key(1, "a", 2, 3, 4)));
  CHECK(first != codes(make_rng_key(2, "a", 2, 3, 4)));
  CHECK(first != codes(make_rng_key(1, "b", 2, 3, 4)));
  CHECK(first != codes(make_rng_key(1, "a", 3, 3, 4)));
  CHECK(first != codes(make_rng_key(1, "a", 2, 4, 4)));
  CHECK(first != codes(make_rng_key(1, "a", 2, 3, 5)));
}

TEST_CASE("SAWB's clip is near the best one on a Gaussian", "[quantize][sawb]") {
  const Tensor x = gaussian(1 << 18, 5);
  const auto error = [&](float scale) {
    return mean_square_error(x, dequantize(table(), quantize(table(), x, kInt4, false, {}, "test", scale)));
  };
  const float scale = quantization_scale(table(), x, kInt4, false, "test");
  double best = INFINITY;
  for (float clip = 1.0f; clip < 6.0f; clip += 0.05f) best = std::min(best, error(clip / 7));
  CHECK(error(scale) < 1.02 * best);
}

TEST_CASE("The scaling methods for unsigned activations are as far from the best as measured before",
          "[quantize][sawb]") {
  // Relative errors on ReLU(N(0, 1)): clip/15 0.0051, refitted 0.0039, 2 clip/15 0.0202, best 0.0037.
  Tensor x = gaussian(1 << 18, 6);
  double power = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    float& value = x.data<float>()[i];
    value = std::max(value, 0.0f);
    power += static_cast<double>(value) * static_cast<double>(value) / static_cast<double>(x.numel());
  }
  const auto error = [&](ScaleMethod method) {
    const QTensor q = quantize(table(), x, {Format::int4, method, Rounding::nearest}, true, {}, "test");
    REQUIRE(q.format == Format::uint4);
    return mean_square_error(x, dequantize(table(), q)) / power;
  };
  CHECK(error(ScaleMethod::sawb) == Approx(0.0051).epsilon(0.1));
  CHECK(error(ScaleMethod::sawb_nonzero) == Approx(0.0039).epsilon(0.1));
  CHECK(error(ScaleMethod::reference) == Approx(0.0202).epsilon(0.1));
}

TEST_CASE("SAWB falls back to the maximum outside the range of its fit", "[quantize][sawb]") {
  const Tensor constant = make(100, [](int64_t) { return 3.5f; });
  CHECK(quantization_scale(table(), constant, kInt4, false, "test") == 0.5f);
  const Tensor spike = make(10000, [](int64_t i) { return i == 0 ? 7.0f : 0.0f; });
  CHECK(quantization_scale(table(), spike, kInt4, false, "test") <= 1.0f);
}

TEST_CASE("A given scale is used and values beyond it are clipped", "[quantize]") {
  const Tensor x = make(4, [](int64_t i) { return static_cast<float>(i) * 10 - 10; });  // -10 0 10 20
  const Tensor back = dequantize(table(), quantize(table(), x, kInt4, false, {}, "test", 1.0f));
  CHECK(back.data<float>()[0] == -7);
  CHECK(back.data<float>()[1] == 0);
  CHECK(back.data<float>()[2] == 7);
  CHECK(back.data<float>()[3] == 7);
}

TEST_CASE("The worked examples of docs/numerics.md", "[quantize]") {
  const Tensor x = Tensor::from<float>({5}, std::vector<float>{1.0f, -0.5f, 3.5f, 0.1f, -3.5f}.data());
  const QTensor q = quantize(table(), x, kInt4, false, {}, "test", 0.5f);
  REQUIRE(q.planes[0].codes.numel() == 3);
  CHECK(q.planes[0].codes.data<uint8_t>()[0] == 0xf2);
  CHECK(q.planes[0].codes.data<uint8_t>()[1] == 0x07);
  CHECK(q.planes[0].codes.data<uint8_t>()[2] == 0x09);
  const Tensor y = Tensor::from<float>({3}, std::vector<float>{16.0f, -0.5f, 0.25f}.data());
  const QTensor p = quantize(table(), y, kLuq, false, make_rng_key(0, "x"), "test");
  CHECK(p.scale == 0.25f);
  CHECK(p.planes[0].codes.data<uint8_t>()[0] == 0xa7);
  CHECK(p.planes[0].codes.data<uint8_t>()[1] == 0x01);
}

TEST_CASE("NaN and infinity are errors that name the place", "[quantize]") {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const Tensor x = make(100, [&](int64_t i) { return i == 42 ? bad : 1.0f; });
    for (const QuantSpec& spec : {kInt4, kLuq}) {
      CHECK_THROWS_WITH(quantize(table(), x, spec, false, {}, "gradient of layer conv1"),
                        contains_text("gradient of layer conv1"));
    }
  }
}

TEST_CASE("The scale of a format without a name in the code follows from its grid", "[quantize]") {
  const Tensor x = make(100, [](int64_t i) { return i == 0 ? -6.0f : 0.01f * static_cast<float>(i); });
  const auto scale = [&](Format format, bool non_negative) {
    return quantize(table(), x, {format, ScaleMethod::max, Rounding::nearest}, non_negative, {}, "test").scale;
  };
  CHECK(scale(test::int3(), false) == 6.0f / 3);
  CHECK(scale(test::int3(), true) == 6.0f / 7);
  CHECK(scale(test::powers_of_3(), false) == 6.0f / 27);
  CHECK(scale(test::radix4(), false) == 6.0f / 4096);
}

TEST_CASE("A rule that the format does not have, and a scale that is not finite, are errors that name the place",
          "[quantize]") {
  const Tensor x = make(10, [](int64_t i) { return static_cast<float>(i); });
  const auto refused = [&](const QuantSpec& spec, std::optional<float> scale, const std::string& message) {
    CHECK_THROWS_WITH(quantize(table(), x, spec, true, {}, "gradient of layer conv1", scale),
                      contains_text("[quantize] gradient of layer conv1: expected " + message));
  };
  refused({Format::fp4, ScaleMethod::sawb, Rounding::stochastic}, {}, "the scale method max for fp4");
  refused({Format::fp4, ScaleMethod::sawb, Rounding::stochastic}, 1.0f, "the scale method max for fp4");
  refused({test::int3(), ScaleMethod::sawb, Rounding::nearest}, {}, "the scale method max for test_int3");
  refused(kInt4, NAN, "a finite scale of at least 0, got nan");
  refused(kInt4, INFINITY, "a finite scale of at least 0, got inf");
  refused(kInt4, -1.0f, "a finite scale of at least 0, got -1");
  const Tensor huge = make(10, [](int64_t) { return 3e38f; });
  CHECK_THROWS_WITH(quantization_scale(table(), huge, {Format::int4, ScaleMethod::reference, Rounding::nearest}, true,
                                       "input of layer conv2"),
                    contains_text("input of layer conv2: expected a finite scale of at least 0, got inf"));
}

TEST_CASE("The policy exempts the first convolution, the last linear layer and patterns", "[policy]") {
  const std::vector<MatmulLayer> layers{{"conv1", LayerKind::conv},
                                        {"layer2.0.conv1", LayerKind::conv},
                                        {"layer2.0.downsample.0", LayerKind::conv},
                                        {"hidden", LayerKind::linear},
                                        {"fc", LayerKind::linear}};
  QuantPolicy policy;
  policy.spec.weights = kInt4;
  const auto quantized = [&] {
    const QuantPlan plan(policy, layers);
    std::set<std::string> names;
    for (const MatmulLayer& layer : layers) {
      if (plan[layer.name].quantized()) names.insert(layer.name);
    }
    return names;
  };
  CHECK(quantized() == std::set<std::string>{"layer2.0.conv1", "layer2.0.downsample.0", "hidden"});
  policy.exempt = {"*.downsample.*"};
  CHECK(quantized() == std::set<std::string>{"layer2.0.conv1", "hidden"});
  policy.exempt = {"layer?.0.*"};
  policy.exempt_first_conv = policy.exempt_last_linear = false;
  CHECK(quantized() == std::set<std::string>{"conv1", "hidden", "fc"});
  policy.exempt = {"layer3.*"};
  CHECK_THROWS_AS(quantized(), UserError);
  CHECK_THROWS_WITH(quantized(), contains_text("layer3.*"));
  CHECK_FALSE(QuantPlan()["anything"].quantized());
}

}  // namespace luq
