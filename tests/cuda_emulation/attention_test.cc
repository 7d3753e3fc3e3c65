// kernels/cuda/attention.cu against the CPU's reference, within what transformer_test.cc allows the CPU's tables, and
// the same to the bit for every order of threads.
#include <algorithm>

#include "kernels/cuda/tables.h"
#include "tests/cuda_emulation/float_results.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

struct Shape {
  int64_t n, tokens, heads, head_dim;
  int64_t size() const { return n * tokens * heads * head_dim; }
  int64_t rows() const { return n * tokens * heads; }
};

// Normally distributed values that bfloat16 holds.
std::vector<float> draw(int64_t count, float spread, std::mt19937& random) {
  std::normal_distribution<float> distribution(0, spread);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = to_float(to_bfloat16(distribution(random)));
  return x;
}

// skip: elements that arrays begin behind an aligned place.
template <typename T>
void test_attention(const Shape& s, float spread, size_t skip, std::mt19937& random) {
  const auto& [n, tokens, heads, dim] = s;
  INFO(n << " images, " << tokens << " tokens, " << heads << " heads of " << dim << ", spread " << spread << ", skip "
         << skip << (std::is_same_v<T, BFloat16> ? ", bfloat16" : ", float32"));
  Kernels table;
  cuda::add_attention(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  const std::vector<float> wide = draw(3 * s.size(), spread, random), wide_dy = draw(s.size(), 1, random);
  std::vector<float> y(wide_dy.size()), log_sum(static_cast<size_t>(s.rows())), dqkv(wide.size());
  ref.attention({n, tokens, heads, dim, wide.data(), y.data(), log_sum.data()});
  const std::vector<T> stored_y = values_of<T>(y);
  const std::vector<float> wide_y = widened(stored_y);
  ref.attention_backward(
      {n, tokens, heads, dim, wide.data(), wide_y.data(), log_sum.data(), wide_dy.data(), dqkv.data()});

  const OnDevice<T> on_qkv(values_of<T>(wide), skip), on_y(stored_y, skip), on_dy(values_of<T>(wide_dy), skip);
  const OnDevice<float> on_log_sum(log_sum);
  constexpr double kEpsilon = 0x1p-24;
  // A score is a sum of head_dim products of up to 16 spread^2, over the root of head_dim.
  // Its error is the relative one of a probability.
  const double square = static_cast<double>(spread) * static_cast<double>(spread), score = 16 * kEpsilon * square * 4;
  const double root = std::sqrt(static_cast<double>(dim)), width = static_cast<double>(spread);

  const auto got_log_sum = result_of<float>(s.rows(), 0, [&](float* to) {
    const OnDevice<T> unused(stored_y, skip);
    table.attention({n, tokens, heads, dim, on_qkv.data(), unused.data(), to});
    cuda::synchronize("test");
  });
  require_close(got_log_sum, log_sum, score + 100 * kEpsilon * square);
  const auto got_y = result_of<T>(s.size(), skip, [&](T* to) {
    table.attention({n, tokens, heads, dim, on_qkv.data(), to, nullptr});
  });
  require_close(got_y, y, 4 * width * (score + 8 * kEpsilon));
  const auto got_dqkv = result_of<T>(3 * s.size(), skip, [&](T* to) {
    table.attention_backward({n, tokens, heads, dim, on_qkv.data(), on_y.data(), on_log_sum.data(), on_dy.data(), to});
  });
  require_close(got_dqkv, dqkv, 16 * square * std::max(1.0, width * root) * (score + 8 * kEpsilon));
}

const std::vector<Shape> kShapes{{1, 1, 1, 1},   {2, 5, 3, 4},    {1, 17, 2, 24}, {2, 50, 2, 33},
                                 {1, 5, 2, 64},  {1, 50, 1, 8},   {3, 48, 1, 64}, {1, 65, 2, 7},
                                 {1, 66, 1, 70}, {1, 17, 1, 132}, {0, 5, 2, 8}};

}  // namespace

TEST_CASE("cuda: attention is close to ref", "[cuda][attention]") {
  std::mt19937 random(8);
  for (const Shape& shape : kShapes) {
    for (const float spread : {1.0f, 6.0f}) test_attention<float>(shape, spread, 0, random);
    test_attention<BFloat16>(shape, 1, 0, random);
  }
  test_attention<float>({1, 197, 1, 64}, 1, 0, random);
  test_attention<BFloat16>({1, 197, 1, 64}, 1, 0, random);
}

TEST_CASE("cuda: attention of arrays that are not aligned", "[cuda][attention]") {
  std::mt19937 random(9);
  test_attention<float>({2, 18, 2, 24}, 1, 1, random);
  test_attention<BFloat16>({2, 18, 2, 24}, 1, 1, random);
}

TEST_CASE("cuda: attention hands a NaN on to its image and head alone", "[cuda][attention]") {
  std::mt19937 random(10);
  Kernels table;
  cuda::add_attention(table);
  const int64_t n = 2, tokens = 70, heads = 2, dim = 5, row = heads * dim;
  std::vector<float> qkv = draw(n * tokens * 3 * row, 1, random);
  qkv[static_cast<size_t>((tokens + 7) * 3 * row + row + dim + 2)] = NAN;  // a key of the second image's second head
  const OnDevice<float> on_qkv(qkv), y(std::vector<float>(static_cast<size_t>(n * tokens * row)));
  table.attention({n, tokens, heads, dim, on_qkv.data(), y.data(), nullptr});
  const std::vector<float> got = y.host();
  for (int64_t i = 0; i < n * tokens * row; ++i) {
    REQUIRE(std::isnan(got[static_cast<size_t>(i)]) == (i >= tokens * row && i % row >= dim));
  }
}

TEST_CASE("cuda: attention gives keys with a score of -infinity no weight", "[cuda][attention]") {
  Kernels table;
  cuda::add_attention(table);
  const int64_t tokens = 70;  // queries 1, keys -infinity but for the last, values the number of the key
  std::vector<float> qkv;
  for (int64_t i = 0; i < tokens; ++i) {
    qkv.insert(qkv.end(), {1, i + 1 < tokens ? -INFINITY : 0.5f, static_cast<float>(i)});
  }
  const OnDevice<float> on_qkv(qkv), y(std::vector<float>(static_cast<size_t>(tokens)));
  table.attention({1, tokens, 1, 1, on_qkv.data(), y.data(), nullptr});
  CHECK(y.host() == std::vector<float>(static_cast<size_t>(tokens), static_cast<float>(tokens - 1)));
}
