// kernels/cuda/conv.cu against the CPU's reference, within what float_test.cc allows the CPU's tables, and the same to
// the bit for every order of threads.
#include "kernels/cuda/tables.h"
#include "tests/cuda_emulation/float_results.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

// skip: elements that arrays begin behind an aligned place.
template <typename T>
void test_conv(const ConvShape& s, size_t skip, std::mt19937& random) {
  INFO("n " << s.n << " h " << s.h << " w " << s.w << " c " << s.c << " o " << s.o << " k " << s.kh << "x" << s.kw
            << " stride " << s.stride_h << "x" << s.stride_w << " pad " << s.pad_h << "x" << s.pad_w << " dilation "
            << s.dilation_h << "x" << s.dilation_w << " groups " << s.groups << ", skip " << skip
            << (std::is_same_v<T, BFloat16> ? ", bfloat16" : ", float32"));
  Kernels table;
  cuda::add_conv(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  const std::vector<T> x = values_of<T>(gaussian(s.x_size(), random)), dy = values_of<T>(gaussian(s.y_size(), random));
  const std::vector<float> w = gaussian(s.w_size(), random), bias = gaussian(s.o, random);
  const std::vector<float> wide_x = widened(x), wide_dy = widened(dy), wide_w = widened(values_of<T>(w));
  const OnDevice<T> on_x(x, skip), on_dy(dy, skip);
  const OnDevice<float> on_w(w, skip), on_bias(bias);
  const auto tolerance = [](int64_t terms) { return 1e-5 * (std::sqrt(static_cast<double>(terms)) + 1); };

  for (const bool with_bias : {false, true}) {
    std::vector<float> expected(static_cast<size_t>(s.y_size()));
    ref.conv_forward({s, wide_x.data(), wide_w.data(), with_bias ? bias.data() : nullptr, expected.data()});
    const auto got = result_of<T>(s.y_size(), skip, [&](T* y) {
      table.conv_forward({s, on_x.data(), on_w.data(), with_bias ? on_bias.data() : nullptr, y});
    });
    require_close(got, expected, tolerance(s.kh * s.kw * s.c_group()));
  }
  std::vector<float> expected(static_cast<size_t>(s.x_size()));
  ref.conv_backward_data({s, wide_dy.data(), wide_w.data(), expected.data()});
  const auto dx = result_of<T>(s.x_size(), skip, [&](T* to) {
    table.conv_backward_data({s, on_dy.data(), on_w.data(), to});
  });
  require_close(dx, expected, tolerance(s.kh * s.kw * s.o_group()));

  expected.assign(static_cast<size_t>(s.w_size()), 0);
  ref.conv_backward_weight({s, wide_dy.data(), wide_x.data(), expected.data()});
  const auto dw = result_of<float>(s.w_size(), skip, [&](float* to) {
    table.conv_backward_weight({s, on_dy.data(), on_x.data(), to});
  });
  require_close(dw, expected, tolerance(s.n * s.oh() * s.ow()));
}

const std::vector<ConvShape> kShapes{
    {.n = 1, .c = 1, .o = 1},
    {.n = 70, .c = 64, .o = 10},                            // linear
    {.n = 3, .c = 5, .o = 67},                              // linear, odd
    {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8},               // nothing
    {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8, .groups = 8},  // nothing, narrow
    {.n = 2, .h = 9, .w = 8, .c = 3, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
    {.n = 4, .h = 12, .w = 13, .c = 16, .o = 20, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},  // ranges of pixels
    {.n = 17, .h = 7, .w = 7, .c = 8, .o = 24, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2},
    {.n = 2, .h = 16, .w = 15, .c = 3, .o = 8, .kh = 7, .kw = 7, .stride_h = 2, .stride_w = 2, .pad_h = 3, .pad_w = 3},
    {.n = 2,
     .h = 9,
     .w = 9,
     .c = 4,
     .o = 6,
     .kh = 3,
     .kw = 2,
     .pad_h = 2,
     .pad_w = 1,
     .dilation_h = 2,
     .dilation_w = 3},
    {.n = 1, .h = 8, .w = 11, .c = 5, .o = 9, .kh = 2, .kw = 3, .stride_h = 3, .stride_w = 2, .pad_h = 1, .pad_w = 4},
    {.n = 2, .h = 6, .w = 5, .c = 12, .o = 8, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 4},
    {.n = 3,
     .h = 12,
     .w = 12,
     .c = 24,
     .o = 24,
     .kh = 3,
     .kw = 3,
     .stride_h = 2,
     .stride_w = 2,
     .pad_h = 1,
     .pad_w = 1,
     .groups = 24},
    {.n = 7, .h = 9, .w = 9, .c = 10, .o = 10, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 10},
    {.n = 1, .h = 5, .w = 6, .c = 3, .o = 6, .kh = 3, .kw = 1, .dilation_h = 2, .groups = 3},  // 2 outputs of a channel
    {.n = 2, .h = 5, .w = 5, .c = 40, .o = 34, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 2},
    {.n = 1, .h = 4, .w = 4, .c = 2, .o = 48, .kh = 3, .kw = 3, .groups = 2},  // one channel, many outputs
};

}  // namespace

TEST_CASE("cuda: float convolutions are close to ref, float32", "[cuda][conv]") {
  std::mt19937 random(5);
  for (const ConvShape& shape : kShapes) test_conv<float>(shape, 0, random);
}

TEST_CASE("cuda: float convolutions are close to ref, bfloat16", "[cuda][conv]") {
  std::mt19937 random(6);
  for (const ConvShape& shape : kShapes) test_conv<BFloat16>(shape, 0, random);
}

TEST_CASE("cuda: float convolutions of arrays that are not aligned", "[cuda][conv]") {
  std::mt19937 random(7);
  for (const size_t i : {size_t{1}, size_t{7}, size_t{12}}) {
    test_conv<float>(kShapes[i], 1, random);
    test_conv<BFloat16>(kShapes[i], 1, random);
  }
}
