// The three 4-bit matmuls of every table against a 64-bit reference: sums and floats are equal, to the bit.

#include <array>
#include <memory>
#include <vector>

#include "luq/core/conv_shape.h"
#include "tests/kernels/harness.h"

namespace luq::test {
namespace {

using kernels::QConvBackwardDataArgs;
using kernels::QConvBackwardWeightArgs;
using kernels::QConvForwardArgs;
using Ints = std::vector<int64_t>;

// The value of a code, written down from the formats' definition.
int64_t value_of(Format format, int code) {
  if (format == Format::uint4) return code;
  if (format == Format::int4) return code < 8 ? code : code - 16;
  constexpr std::array<int64_t, 8> magnitudes = {0, 1, 2, 4, 8, 16, 32, 64};
  return code < 8 ? magnitudes[code] : -magnitudes[code - 8];
}

enum class Fill { random, largest, smallest };

// Codes of a (rows, cols) operand and what they stand for. Code 8 is -8 or -0, which no quantiser produces.
struct Operand {
  Format format;
  Guarded<uint8_t> codes;
  Ints values;

  Operand(Format format, int64_t rows, int64_t cols, Fill fill, std::mt19937& random)
      : format(format), codes(rows * packed_row_bytes(cols)), values(static_cast<size_t>(rows * cols)) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        int code = 0;
        do {
          code = static_cast<int>(random() % 16);
        } while (code == 8 && format != Format::uint4);
        if (fill == Fill::largest) code = format == Format::uint4 ? 15 : 7;
        if (fill == Fill::smallest) code = format == Format::uint4 ? 0 : format == Format::int4 ? 9 : 15;
        codes[row * packed_row_bytes(cols) + col / 2] |= static_cast<uint8_t>(code << (col % 2 * 4));
        values[static_cast<size_t>(row * cols + col)] = value_of(format, code);
      }
    }
  }
};

struct Sums {
  Ints y, dx, dw;
};

// All three matmuls from their common definition: every (output, tap, channel) triple contributes to each.
Sums reference(const ConvShape& s, const Ints& x, const Ints& w, const Ints& dy) {
  Sums sums{Ints(s.y_size()), Ints(s.x_size()), Ints(s.w_size())};
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t oy = 0; oy < s.oh(); ++oy) {
      for (int64_t ox = 0; ox < s.ow(); ++ox) {
        for (int64_t ky = 0; ky < s.kh; ++ky) {
          for (int64_t kx = 0; kx < s.kw; ++kx) {
            const int64_t iy = oy * s.stride_h + ky * s.dilation_h - s.pad_h;
            const int64_t ix = ox * s.stride_w + kx * s.dilation_w - s.pad_w;
            if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
            for (int64_t o = 0; o < s.o; ++o) {
              const int64_t y_at = ((n * s.oh() + oy) * s.ow() + ox) * s.o + o;
              const int64_t x_at = ((n * s.h + iy) * s.w + ix) * s.c + o / og * cg;
              const int64_t w_at = ((o * s.kh + ky) * s.kw + kx) * cg;
              for (int64_t c = 0; c < cg; ++c) {
                sums.y[y_at] += x[x_at + c] * w[w_at + c];
                sums.dx[x_at + c] += dy[y_at] * w[w_at + c];
                sums.dw[w_at + c] += dy[y_at] * x[x_at + c];
              }
            }
          }
        }
      }
    }
  }
  return sums;
}

std::string describe(const ConvShape& s) {
  const auto pair = [](int64_t a, int64_t b) { return std::to_string(a) + "x" + std::to_string(b); };
  return "n " + std::to_string(s.n) + ", x " + pair(s.h, s.w) + "x" + std::to_string(s.c) + ", w " +
         std::to_string(s.o) + "x" + pair(s.kh, s.kw) + ", stride " + pair(s.stride_h, s.stride_w) + ", pad " +
         pair(s.pad_h, s.pad_w) + ", dilation " + pair(s.dilation_h, s.dilation_w) + ", groups " +
         std::to_string(s.groups);
}

// Runs an entry once for sums and once for floats. `give`(y, sums) makes the arguments.
template <typename Args, typename Give>
void check(const char* entry, const Kernel<Args>& kernel, const Ints& expected, float scale, const float* bias,
           int64_t channels, Give give, bool accumulate = false) {
  const int64_t size = static_cast<int64_t>(expected.size());
  INFO(entry << " by " << kernel.implementation);
  Guarded<int64_t> sums(size, -1);
  kernel(give(nullptr, sums.data()));
  int64_t wrong = -1;
  for (int64_t i = size - 1; i >= 0; --i) {
    if (sums[i] != expected[i]) wrong = i;
  }
  if (wrong >= 0) {
    INFO("sum " << wrong << " of " << size << ": got " << sums[wrong] << ", expected " << expected[wrong]);
    CHECK(wrong == -1);
  }
  CHECK(sums.intact());

  Guarded<float> y(size, -1.0f), expected_y(size);
  for (int64_t i = 0; i < size; ++i) {
    const float product = static_cast<float>(expected[i]) * scale;
    expected_y[i] = bias != nullptr ? product + bias[i % channels] : accumulate ? product + y[i] : product;
  }
  kernel(give(y.data(), nullptr));
  wrong = y.first_difference(expected_y);
  if (wrong >= 0) {
    INFO("value " << wrong << " of " << size << ": got " << y[wrong] << ", expected " << expected_y[wrong]);
    CHECK(wrong == -1);
  }
  CHECK(y.intact());
}

struct Formats {
  Format x = Format::uint4, dy = Format::fp4;
};

void check_shape(const ConvShape& s, Formats formats, std::mt19937& random, Fill fill = Fill::random) {
  REQUIRE(s.oh() > 0);
  REQUIRE(s.ow() > 0);
  INFO(describe(s) << ", x " << to_string(formats.x) << ", dy " << to_string(formats.dy));
  const int64_t taps = s.kh * s.kw;
  const Operand x(formats.x, s.n * s.h * s.w, s.c, fill, random);
  const Operand w(Format::int4, s.o * taps, s.c_group(), fill == Fill::smallest ? Fill::largest : fill, random);
  const Operand dy(formats.dy, s.n * s.oh() * s.ow(), s.o, fill, random);
  const Sums expected = reference(s, x.values, w.values, dy.values);
  Guarded<float> bias(s.o);
  for (int64_t o = 0; o < s.o; ++o) bias[o] = static_cast<float>(random() % 1000) / 7.0f;
  const bool with_bias = random() % 2 != 0, accumulate = random() % 2 != 0;
  const float scale = 0.001234f;
  for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) {
    check("qconv_forward", table.qconv_forward, expected.y, scale, with_bias ? bias.data() : nullptr, s.o,
          [&](float* y, int64_t* sums) {
            return QConvForwardArgs{.shape = s,
                                    .x = x.codes.data(),
                                    .x_format = x.format,
                                    .w = w.codes.data(),
                                    .w_format = w.format,
                                    .scale = scale,
                                    .bias = with_bias ? bias.data() : nullptr,
                                    .y = y,
                                    .sums = sums};
          });
    check(
        "qconv_backward_data", table.qconv_backward_data, expected.dx, scale, nullptr, 1,
        [&](float* dx, int64_t* sums) {
          return QConvBackwardDataArgs{.shape = s,
                                       .dy = dy.codes.data(),
                                       .dy_format = dy.format,
                                       .w = w.codes.data(),
                                       .w_format = w.format,
                                       .scale = scale,
                                       .accumulate = accumulate,
                                       .dx = dx,
                                       .sums = sums};
        },
        accumulate);
    check("qconv_backward_weight", table.qconv_backward_weight, expected.dw, scale, nullptr, 1,
          [&](float* dw, int64_t* sums) {
            return QConvBackwardWeightArgs{.shape = s,
                                           .dy = dy.codes.data(),
                                           .dy_format = dy.format,
                                           .x = x.codes.data(),
                                           .x_format = x.format,
                                           .scale = scale,
                                           .dw = dw,
                                           .sums = sums};
          });
  });
}

void check_formats(const ConvShape& s, std::mt19937& random) {
  check_shape(s, {Format::uint4, Format::fp4}, random);
  check_shape(s, {Format::int4, Format::int4}, random);
}

ConvShape square(int64_t n, int64_t size, int64_t c, int64_t o, int64_t kernel, int64_t stride = 1, int64_t pad = 0,
                 int64_t dilation = 1, int64_t groups = 1) {
  return {.n = n,
          .h = size,
          .w = size,
          .c = c,
          .o = o,
          .kh = kernel,
          .kw = kernel,
          .stride_h = stride,
          .stride_w = stride,
          .pad_h = pad,
          .pad_w = pad,
          .dilation_h = dilation,
          .dilation_w = dilation,
          .groups = groups};
}

}  // namespace

TEST_CASE("qconv: channel counts around the vector widths", "[qconv]") {
  std::mt19937 random(1);
  for (const int64_t c : {1, 3, 4, 5, 15, 16, 17, 33, 64, 65}) {
    for (const int64_t o : {1, 15, 16, 17, 33, 64}) {
      check_formats(square(1, 4, c, o, 3, 1, 1), random);
      check_formats(square(2, 3, c, o, 1), random);
    }
  }
}

TEST_CASE("qconv: few channels in many images, where every thread has sums of its own", "[qconv]") {
  std::mt19937 random(12);
  for (const int64_t c : {3, 16}) {
    check_formats(square(70, 5, c, 17, 3, 1, 1), random);
    check_formats(square(70, 5, c, 17, 2, 2), random);
  }
  check_formats(square(70, 4, 24, 24, 3, 1, 1, 1, 24), random);
}

TEST_CASE("qconv: widths around the tile", "[qconv]") {
  std::mt19937 random(2);
  for (const int64_t width : {1, 2, 3, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 27, 28, 29, 31, 33}) {
    ConvShape s = square(2, 3, 5, 18, 3, 1, 1);
    s.w = width;
    check_formats(s, random);
    s.stride_w = s.stride_h = 2;
    check_formats(s, random);
    std::swap(s.h, s.w);
    check_formats(s, random);
  }
}

TEST_CASE("qconv: stride, padding and dilation", "[qconv]") {
  std::mt19937 random(3);
  for (int64_t kernel = 1; kernel <= 4; ++kernel) {
    for (int64_t stride = 1; stride <= 3; ++stride) {
      for (int64_t pad = 0; pad <= 3; ++pad) {
        for (int64_t dilation = 1; dilation <= 3; ++dilation) {
          const int64_t reach = dilation * (kernel - 1) + 1;
          for (const int64_t size : {int64_t{1}, int64_t{6}, int64_t{9}}) {
            if (size + 2 * pad < reach) continue;
            check_shape(square(2, size, 3, 5, kernel, stride, pad, dilation),
                        {random() % 2 != 0 ? Format::uint4 : Format::int4, Format::fp4}, random);
          }
        }
      }
    }
  }
}

TEST_CASE("qconv: rows and columns that differ in everything", "[qconv]") {
  std::mt19937 random(4);
  check_formats({.n = 3,
                 .h = 9,
                 .w = 20,
                 .c = 6,
                 .o = 19,
                 .kh = 3,
                 .kw = 1,
                 .stride_h = 2,
                 .stride_w = 1,
                 .pad_h = 0,
                 .pad_w = 2,
                 .dilation_h = 2,
                 .dilation_w = 1,
                 .groups = 1},
                random);
  check_formats({.n = 2,
                 .h = 5,
                 .w = 31,
                 .c = 17,
                 .o = 7,
                 .kh = 1,
                 .kw = 5,
                 .stride_h = 1,
                 .stride_w = 3,
                 .pad_h = 2,
                 .pad_w = 0,
                 .dilation_h = 1,
                 .dilation_w = 2,
                 .groups = 1},
                random);
  check_formats({.n = 1,
                 .h = 1,
                 .w = 70,
                 .c = 2,
                 .o = 3,
                 .kh = 1,
                 .kw = 7,
                 .stride_h = 1,
                 .stride_w = 5,
                 .pad_h = 0,
                 .pad_w = 3,
                 .dilation_h = 1,
                 .dilation_w = 3,
                 .groups = 1},
                random);
  check_formats({.n = 1,
                 .h = 40,
                 .w = 2,
                 .c = 4,
                 .o = 16,
                 .kh = 11,
                 .kw = 2,
                 .stride_h = 4,
                 .stride_w = 7,
                 .pad_h = 5,
                 .pad_w = 1,
                 .dilation_h = 1,
                 .dilation_w = 2,
                 .groups = 1},
                random);
}

TEST_CASE("qconv: the layers of ResNets", "[qconv]") {
  std::mt19937 random(5);
  check_formats(square(2, 28, 16, 16, 3, 1, 1), random);
  check_formats(square(2, 28, 16, 32, 3, 2, 1), random);
  check_formats(square(2, 28, 16, 32, 1, 2), random);
  check_formats(square(2, 14, 32, 32, 3, 1, 1), random);
  check_formats(square(3, 7, 64, 64, 3, 1, 1), random);
  check_formats(square(1, 32, 3, 16, 7, 2, 3), random);
  check_formats(square(20, 2, 24, 40, 3, 1, 1), random);
  check_formats(square(1, 7, 96, 200, 1), random);
}

TEST_CASE("qconv: groups and depthwise", "[qconv]") {
  std::mt19937 random(6);
  for (const int64_t groups : {2, 3, 5, 8, 16, 17, 33}) {
    for (const auto& [cg, og] : {std::pair<int64_t, int64_t>{1, 1}, {1, 3}, {3, 1}, {4, 4}, {5, 18}, {17, 2}}) {
      check_formats(square(1, 4, cg * groups, og * groups, 3, 1, 1, 1, groups), random);
      check_formats(square(2, 5, cg * groups, og * groups, 3, 2, 1, 1, groups), random);
      check_formats(square(2, 2, cg * groups, og * groups, 1, 1, 0, 1, groups), random);
    }
  }
}

TEST_CASE("qconv: linear layers", "[qconv]") {
  std::mt19937 random(7);
  for (const int64_t rows : {1, 2, 3, 4, 5, 13, 14, 15, 28, 64, 127, 128, 129, 300}) {
    for (const auto& [c, o] : {std::pair<int64_t, int64_t>{1, 1}, {1, 10}, {64, 10}, {63, 65}, {100, 33}}) {
      check_formats(square(rows, 1, c, o, 1), random);
    }
  }
}

TEST_CASE("qconv: sizes of zero", "[qconv]") {
  std::mt19937 random(8);
  check_formats(square(0, 4, 5, 6, 3, 1, 1), random);
  check_formats(square(0, 1, 5, 6, 1), random);
  check_formats(square(2, 4, 0, 6, 3, 1, 1), random);
  check_formats(square(2, 4, 5, 0, 3, 1, 1), random);
  check_formats(square(2, 1, 0, 6, 1), random);
  check_formats(square(2, 1, 5, 0, 1), random);
}

TEST_CASE("qconv: extreme codes", "[qconv]") {
  std::mt19937 random(9);
  for (const Fill fill : {Fill::largest, Fill::smallest}) {
    for (const Format x : {Format::uint4, Format::int4}) {
      check_shape(square(2, 14, 64, 32, 3, 1, 1), {x, Format::fp4}, random, fill);
      check_shape(square(1, 7, 33, 17, 3, 2, 1), {x, Format::int4}, random, fill);
      check_shape(square(130, 1, 515, 130, 1), {x, Format::fp4}, random, fill);
    }
  }
}

TEST_CASE("qconv: random shapes", "[qconv]") {
  std::mt19937 random(test_seed("qconv: random shapes"));
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  for (int made = 0; made < 100;) {
    ConvShape s;
    s.groups = below(3) == 0 ? 1 + below(20) : 1;
    s.n = 1 + below(below(4) == 0 ? 40 : 3);
    s.h = 1 + below(20);
    s.w = 1 + below(40);
    s.c = s.groups * (1 + below(s.groups > 1 ? 9 : 70));
    s.o = s.groups * (1 + below(s.groups > 1 ? 9 : 70));
    s.kh = 1 + below(5);
    s.kw = 1 + below(5);
    s.stride_h = 1 + below(3);
    s.stride_w = 1 + below(3);
    s.pad_h = below(4);
    s.pad_w = below(4);
    s.dilation_h = 1 + below(3);
    s.dilation_w = 1 + below(3);
    if (s.h + 2 * s.pad_h < s.dilation_h * (s.kh - 1) + 1 || s.w + 2 * s.pad_w < s.dilation_w * (s.kw - 1) + 1)
      continue;
    if (s.macs() > 500'000) continue;
    ++made;
    check_shape(s, {below(2) == 0 ? Format::uint4 : Format::int4, below(3) == 0 ? Format::int4 : Format::fp4}, random);
  }
}

// One product of two vectors of the largest values, as long as asked: its sum is known, and close to or past int32.
TEST_CASE("qconv: sums at and past the int32 bound", "[qconv]") {
  const auto codes = [](int64_t bytes, int code) {
    return std::make_unique<Guarded<uint8_t>>(bytes, static_cast<uint8_t>(code | code << 4));
  };
  const auto expect = [](int64_t sum, const int64_t* sums, const float* y, float scale) {
    CHECK(sums[0] == sum);
    CHECK(y[0] == static_cast<float>(sum) * scale);
  };
  const float scale = 0.5f;
  Guarded<int64_t> sums(1);
  Guarded<float> y(1);

  SECTION("forward: 15 times 7, channels") {
    const int64_t bound = kernels::max_int32_terms(Format::uint4, Format::int4);
    for (const int64_t terms : {bound, bound + 1, bound + 2048}) {
      const auto x = codes(packed_row_bytes(terms), 15), w = codes(packed_row_bytes(terms), 7);
      if (terms % 2 != 0) (*x)[x->size() - 1] &= 15, (*w)[w->size() - 1] &= 15;
      for_each_table({.multiply_adds = terms}, [&](const Kernels& table) {
        QConvForwardArgs args{.shape = square(1, 1, terms, 1, 1),
                              .x = x->data(),
                              .x_format = Format::uint4,
                              .w = w->data(),
                              .w_format = Format::int4,
                              .scale = scale,
                              .bias = nullptr,
                              .y = y.data(),
                              .sums = nullptr};
        table.qconv_forward(args);
        args.sums = sums.data();
        table.qconv_forward(args);
        expect(terms * 15 * 7, sums.data(), y.data(), scale);
      });
    }
  }
  SECTION("backward-data: -64 times 7, channels") {
    const int64_t bound = kernels::max_int32_terms(Format::fp4, Format::int4);
    for (const int64_t terms : {bound, bound + 1, bound + 2048}) {
      const auto dy = codes(packed_row_bytes(terms), 15), w = codes(terms, 7);
      if (terms % 2 != 0) (*dy)[dy->size() - 1] &= 15;
      for_each_table({.multiply_adds = terms}, [&](const Kernels& table) {
        QConvBackwardDataArgs args{.shape = square(1, 1, 1, terms, 1),
                                   .dy = dy->data(),
                                   .dy_format = Format::fp4,
                                   .w = w->data(),
                                   .w_format = Format::int4,
                                   .scale = scale,
                                   .dx = y.data(),
                                   .sums = nullptr};
        table.qconv_backward_data(args);
        args.sums = sums.data();
        table.qconv_backward_data(args);
        expect(-terms * 64 * 7, sums.data(), y.data(), scale);
      });
    }
  }
  SECTION("backward-weight: 15 times 64, pixels of a linear layer and of a convolution") {
    const int64_t bound = kernels::max_int32_terms(Format::uint4, Format::fp4);
    std::vector<ConvShape> shapes;
    for (const int64_t rows : {bound, bound + 1, bound + 70000}) shapes.push_back(square(rows, 1, 1, 1, 1));
    shapes.push_back(square(230, 100, 1, 1, 1, 1, 0));
    shapes.push_back({.n = 230, .h = 101, .w = 99, .c = 1, .o = 1, .kh = 2, .kw = 1});
    shapes.push_back({.n = 1, .h = 1500, .w = 1501, .c = 1, .o = 1, .kh = 1, .kw = 2});
    shapes.push_back({.n = 2, .h = 3, .w = 1200001, .c = 1, .o = 1, .kh = 3, .kw = 2});
    for (const ConvShape& s : shapes) {
      const int64_t terms = s.n * s.oh() * s.ow();
      INFO(describe(s));
      const auto x = codes(s.n * s.h * s.w, 15), dy = codes(terms, 7);
      Guarded<int64_t> all_sums(s.w_size());
      Guarded<float> dw(s.w_size());
      for_each_table({.multiply_adds = terms}, [&](const Kernels& table) {
        QConvBackwardWeightArgs args{.shape = s,
                                     .dy = dy->data(),
                                     .dy_format = Format::fp4,
                                     .x = x->data(),
                                     .x_format = Format::uint4,
                                     .scale = scale,
                                     .dw = dw.data(),
                                     .sums = nullptr};
        table.qconv_backward_weight(args);
        args.sums = all_sums.data();
        table.qconv_backward_weight(args);
        for (int64_t i = 0; i < s.w_size(); ++i) expect(terms * 15 * 64, &all_sums[i], &dw[i], scale);
      });
    }
  }
  SECTION("backward-weight: signed activations, several channels") {
    std::mt19937 random(10);
    const int64_t rows = kernels::max_int32_terms(Format::uint4, Format::fp4) + 1000;
    const Operand x(Format::int4, rows, 2, Fill::largest, random), dy(Format::fp4, rows, 3, Fill::random, random);
    Ints expected(6);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < 6; ++i) expected[i] += x.values[row * 2 + i % 2] * dy.values[row * 3 + i / 2];
    }
    for_each_table({.multiply_adds = 6 * rows}, [&](const Kernels& table) {
      check("qconv_backward_weight", table.qconv_backward_weight, expected, scale, nullptr, 1,
            [&](float* dw, int64_t* dw_sums) {
              return QConvBackwardWeightArgs{.shape = square(rows, 1, 2, 3, 1),
                                             .dy = dy.codes.data(),
                                             .dy_format = dy.format,
                                             .x = x.codes.data(),
                                             .x_format = x.format,
                                             .scale = scale,
                                             .dw = dw,
                                             .sums = dw_sums};
            });
    });
  }
}

TEST_CASE("qconv: any number of threads", "[qconv]") {
  for (const int threads : {1, 2, 3, 5}) {
    const Threads scope(threads);
    INFO(threads << " threads");
    std::mt19937 random(11);
    check_formats(square(9, 12, 16, 32, 3, 1, 1), random);
    check_formats(square(9, 12, 16, 32, 3, 2, 1), random);
    check_formats(square(1, 3, 40, 300, 3, 1, 1), random);
    check_formats(square(1, 3, 300, 40, 3, 1, 1), random);
    check_formats(square(2, 6, 34, 34, 3, 1, 1, 1, 17), random);
    check_formats(square(600, 1, 70, 80, 1), random);
    check_formats(square(1, 1, 70, 80, 1), random);
  }
}

// Scratch memory is kept between calls: a small problem after a large one must not see the large one's contents.
TEST_CASE("qconv: nothing remains from one call to the next", "[qconv]") {
  std::mt19937 random(12);
  check_shape(square(2, 14, 64, 32, 3, 1, 1), {Format::uint4, Format::fp4}, random, Fill::largest);
  check_formats(square(1, 5, 3, 7, 3, 1, 1), random);
  check_shape(square(200, 1, 515, 65, 1), {Format::int4, Format::fp4}, random, Fill::smallest);
  check_formats(square(3, 1, 9, 7, 1), random);
}

TEST_CASE("qconv: moments on the way are those of the results, for every table and number of threads", "[qconv]") {
  std::mt19937 random(test_seed("moments"));
  const float scale = 0.0117f;
  for (const ConvShape& s :
       {ConvShape{.n = 5, .h = 9, .w = 17, .c = 10, .o = 37, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
        ConvShape{.n = 33, .h = 3, .w = 3, .c = 64, .o = 48}, ConvShape{.n = 40, .h = 1, .w = 1, .c = 7, .o = 1},
        ConvShape{.n = 3, .h = 8, .w = 7, .c = 12, .o = 18, .kh = 3, .kw = 2, .stride_h = 2, .groups = 6},
        ConvShape{.n = 4, .h = 6, .w = 6, .c = 40, .o = 40, .kh = 3, .kw = 3, .pad_h = 1, .groups = 40},
        ConvShape{.n = 2, .h = 2, .w = 2, .c = 2304, .o = 16, .kh = 2, .kw = 1}}) {
    INFO(describe(s));
    for (const auto& [format, fill] :
         {std::pair{Format::uint4, Fill::random}, {Format::int4, Fill::random}, {Format::uint4, Fill::largest}}) {
      const Operand x(format, s.n * s.h * s.w, s.c, fill, random);
      const Operand w(Format::int4, s.o * s.kh * s.kw, s.c_group(), fill, random);
      const Ints sums = reference(s, x.values, w.values, Ints(static_cast<size_t>(s.y_size()))).y;
      const int64_t rows = s.n * s.oh() * s.ow();
      Guarded<float> first_mean(s.o), first_variance(s.o);
      bool first = true;
      for_each_table({.multiply_adds = s.macs()}, [&, x_format = format](const Kernels& table) {
        if (!table.qconv_forward_moments) return;
        for (const int threads : {1, 2, 3}) {
          const Threads scope(threads);
          Guarded<float> y(s.y_size(), -1.0f), plain(s.y_size(), -1.0f), mean(s.o), variance(s.o);
          Guarded<BFloat16> narrow(s.y_size());
          const auto args = [&](kernels::Floats to) {
            return QConvForwardArgs{s,     x.codes.data(), x_format, w.codes.data(), Format::int4,
                                    scale, nullptr,        to,       nullptr};
          };
          const kernels::QConvForwardMomentsArgs with{args(y.data()), mean.data(), variance.data()};
          REQUIRE(with.fit());
          table.qconv_forward_moments(with);
          table.qconv_forward(args(plain.data()));
          REQUIRE(y.first_difference(plain) == -1);
          REQUIRE((mean.intact() && variance.intact()));
          if (first) {
            std::memcpy(first_mean.data(), mean.data(), static_cast<size_t>(s.o) * sizeof(float));
            std::memcpy(first_variance.data(), variance.data(), static_cast<size_t>(s.o) * sizeof(float));
            first = false;
          }
          REQUIRE((mean.first_difference(first_mean) == -1 && variance.first_difference(first_variance) == -1));
          Guarded<float> narrow_mean(s.o), narrow_variance(s.o);
          table.qconv_forward_moments({args(narrow.data()), narrow_mean.data(), narrow_variance.data()});
          for (int64_t i = 0; i < s.y_size(); ++i) REQUIRE(narrow[i].bits == to_bfloat16(plain[i]).bits);
          REQUIRE(narrow_mean.first_difference(mean) == -1);
          REQUIRE(narrow_variance.first_difference(variance) == -1);
          for (int64_t o = 0; o < s.o; ++o) {
            double sum = 0, spread = 0;
            for (int64_t row = 0; row < rows; ++row) sum += static_cast<double>(sums[row * s.o + o]);
            const double average = sum / static_cast<double>(rows);
            for (int64_t row = 0; row < rows; ++row) {
              const double d = static_cast<double>(sums[row * s.o + o]) - average;
              spread += d * d / static_cast<double>(rows);
            }
            REQUIRE(mean[o] == Approx(scale * average).epsilon(1e-6).margin(1e-6));
            REQUIRE(variance[o] == Approx(double{scale} * scale * spread).epsilon(1e-6).margin(1e-12));
          }
        }
      });
    }
  }
}

// Sixteen groups of five channels in sets of three: the last set has one. AddressSanitizer sees a tile that reads past
// them, where no larger case went before.
TEST_CASE("qconv: a last set of groups that is a part of one", "[qconv]") {
  std::mt19937 random(test_seed("part of a set"));
  check_shape(square(1, 32, 80, 80, 1, 1, 0, 1, 16), {Format::uint4, Format::fp4}, random);
}

TEST_CASE("qconv: the spread of moments, of up to 127 bits, is rounded once", "[qconv]") {
  std::mt19937 random(test_seed("128 bits"));
  const auto check = [](unsigned __int128 whole) {
    CAPTURE(static_cast<uint64_t>(whole >> 64), static_cast<uint64_t>(whole));
    REQUIRE(kernels::nearest_double(whole) == static_cast<double>(whole));
  };
  for (int bits = 0; bits < 127; ++bits) {
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << bits;
    for (const unsigned __int128 whole : {power - 1, power, power + 1, power | power >> 53, (power | power >> 53) + 1,
                                          power | power >> 52 | power >> 53, power | power >> 53 | power >> 64}) {
      check(whole);
    }
    for (int i = 0; i < 100; ++i) {
      unsigned __int128 whole = 0;
      for (int word = 0; word < 4; ++word) whole = whole << 32 | static_cast<uint32_t>(random());
      check(power | (whole & (power - 1)));
    }
  }
}

TEST_CASE("qconv: moments that integers might not hold are refused", "[qconv]") {
  const auto fit = [](int64_t n, int64_t c) {
    return kernels::QConvForwardMomentsArgs{{ConvShape{.n = n, .c = c, .o = 4}, nullptr, Format::uint4, nullptr,
                                             Format::int4, 1, nullptr, nullptr, nullptr},
                                            nullptr,
                                            nullptr}
        .fit();
  };
  CHECK(fit(1 << 20, 4608));
  CHECK_FALSE(fit(1, 0x7fffffff / 32 / 105 + 1));  // sums of a tile in int32
  CHECK_FALSE(fit(int64_t{1} << 32, 4608));        // squares in int64
  CHECK_FALSE(fit(0, 64));
}

}  // namespace luq::test
