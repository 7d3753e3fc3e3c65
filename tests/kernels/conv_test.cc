// Float convolutions: every table against ref, within a bound that follows from float32.

#include <cmath>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/floats.h"

namespace luq::test {
namespace {

std::vector<ConvShape> conv_shapes(std::mt19937& rng) {
  std::vector<ConvShape> shapes{
      {.n = 5, .h = 9, .w = 8, .c = 3, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 20, .h = 14, .w = 14, .c = 16, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 17, .h = 7, .w = 7, .c = 8, .o = 24, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2},
      {.n = 3,
       .h = 16,
       .w = 15,
       .c = 3,
       .o = 8,
       .kh = 7,
       .kw = 7,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 3,
       .pad_w = 3},
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
      {.n = 18, .h = 6, .w = 5, .c = 12, .o = 8, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 4},
      {.n = 2, .h = 8, .w = 8, .c = 16, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 16},
      {.n = 4, .h = 5, .w = 5, .c = 20, .o = 9, .kh = 1, .kw = 1},
      {.n = 129, .c = 64, .o = 10},
      {.n = 3, .c = 5, .o = 67},
      {.n = 1, .c = 1, .o = 1},
      {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8},
      {.n = 0, .h = 4, .w = 4, .c = 8, .o = 8, .groups = 8},
      {.n = 4, .h = 12, .w = 13, .c = 16, .o = 20, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 1, .h = 8, .w = 11, .c = 5, .o = 9, .kh = 2, .kw = 3, .stride_h = 3, .stride_w = 2, .pad_h = 1, .pad_w = 4},
      {.n = 3, .h = 12, .w = 12, .c = 24, .o = 24, .kh = 3, .kw = 3, .stride_h = 2, .stride_w = 2, .groups = 24},
      {.n = 1, .h = 5, .w = 6, .c = 3, .o = 6, .kh = 3, .kw = 1, .dilation_h = 2, .groups = 3},
      {.n = 2, .h = 5, .w = 5, .c = 40, .o = 34, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 2},
      {.n = 1, .h = 4, .w = 4, .c = 2, .o = 48, .kh = 3, .kw = 3, .groups = 2},
  };
  for (int i = 0; i < 8; ++i) {
    const auto draw = [&](int64_t most) { return 1 + static_cast<int64_t>(rng() % static_cast<uint64_t>(most)); };
    shapes.push_back({.n = draw(20),
                      .h = 5 + draw(6),
                      .w = 5 + draw(6),
                      .c = draw(20),
                      .o = draw(20),
                      .kh = draw(3),
                      .kw = draw(3),
                      .stride_h = draw(2),
                      .stride_w = draw(2),
                      .pad_h = draw(2) - 1,
                      .pad_w = draw(2) - 1});
  }
  return shapes;
}

}  // namespace

TEST_CASE("Float convolutions equal ref in every table", "[kernels][conv]") {
  std::mt19937 rng(test_seed("float conv"));
  for (const ConvShape& s : conv_shapes(rng)) {
    INFO("n " << s.n << " h " << s.h << " w " << s.w << " c " << s.c << " o " << s.o << " k " << s.kh << "x" << s.kw
              << " stride " << s.stride_h << " pad " << s.pad_h << " groups " << s.groups);
    const Work macs{.multiply_adds = s.macs()};
    const Random x(s.x_size(), rng), w(s.w_size(), rng);
    const Random dy(s.y_size(), rng), bias(s.o, rng);
    const double terms = static_cast<double>(s.kh * s.kw * s.c_group()),
                 outputs = static_cast<double>(s.kh * s.kw * s.o_group());
    const double pixels = static_cast<double>(s.n * s.oh() * s.ow());
    // Random signs: sums grow like the square root, rounding errors like a few of its ulps.
    constexpr double kTolerance = 1e-5;
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      compare(macs, s.y_size(), kTolerance, std::sqrt(terms) + 1, [&](const Kernels& table, Guarded<float>& y) {
        table.conv_forward({s, x.data(), w.data(), b, y.data()});
      });
    }
    compare(macs, s.x_size(), kTolerance, std::sqrt(outputs) + 1, [&](const Kernels& table, Guarded<float>& dx) {
      table.conv_backward_data({s, dy.data(), w.data(), dx.data()});
    });
    compare(macs, s.w_size(), kTolerance, std::sqrt(pixels) + 1, [&](const Kernels& table, Guarded<float>& dw) {
      table.conv_backward_weight({s, dy.data(), x.data(), dw.data()});
    });
  }
}

}  // namespace luq::test
