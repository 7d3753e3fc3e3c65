// Cases of the three 4-bit matmuls: operands of random codes, the exact sums by the definition, and the comparison of a
// table's entries with them, to the bit.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "luq/core/conv_shape.h"
#include "tests/kernels/harness.h"
#include "tests/kernels/test_formats.h"

namespace luq::test {

using Ints = std::vector<int64_t>;

inline std::string describe(const ConvShape& s) {
  const auto pair = [](int64_t a, int64_t b) { return std::to_string(a) + "x" + std::to_string(b); };
  return "n " + std::to_string(s.n) + ", x " + pair(s.h, s.w) + "x" + std::to_string(s.c) + ", w " +
         std::to_string(s.o) + "x" + pair(s.kh, s.kw) + ", stride " + pair(s.stride_h, s.stride_w) + ", pad " +
         pair(s.pad_h, s.pad_w) + ", dilation " + pair(s.dilation_h, s.dilation_w) + ", groups " +
         std::to_string(s.groups);
}

inline std::string describe(const CodeTable& table) {
  std::string text = "{";
  for (const int8_t value : table.value) text += std::to_string(value) + (&value == &table.value[15] ? "}" : " ");
  return text;
}

inline ConvShape square(int64_t n, int64_t size, int64_t c, int64_t o, int64_t kernel, int64_t stride = 1,
                        int64_t pad = 0, int64_t dilation = 1, int64_t groups = 1) {
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

// The code of the table's highest value, or of its lowest.
inline int highest_code(const CodeTable& table, int sign = 1) {
  int best = 0;
  for (int code = 0; code < 16; ++code) {
    if (sign * table.value[code] > sign * table.value[best]) best = code;
  }
  return best;
}

enum class Fill { random, largest, smallest };

// Codes of a (rows, cols) operand and what they stand for. Any of the 16 occurs, also those that no quantiser produces.
struct Operand {
  Guarded<uint8_t> codes;
  Ints values;

  Operand(const CodeTable& table, int64_t rows, int64_t cols, Fill fill, std::mt19937& random)
      : codes(rows * packed_row_bytes(cols)), values(static_cast<size_t>(rows * cols)) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < cols; ++col) {
        const int code = fill == Fill::random    ? static_cast<int>(random() % 16)
                         : fill == Fill::largest ? highest_code(table)
                                                 : highest_code(table, -1);
        codes[row * packed_row_bytes(cols) + col / 2] |= static_cast<uint8_t>(code << (col % 2 * 4));
        values[static_cast<size_t>(row * cols + col)] = table.value[code];
      }
    }
  }
};

struct QConvSums {
  Ints y, dx, dw;
};

// Computes all three matmuls from their common definition: every (output, tap, channel) triple contributes to each.
inline QConvSums sums_by_definition(const ConvShape& s, const Ints& x, const Ints& w, const Ints& dy) {
  QConvSums sums{Ints(s.y_size()), Ints(s.x_size()), Ints(s.w_size())};
  const int64_t cg = s.c_group(), og = s.o_group();
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

struct QConvTables {
  CodeTable x = kUint4Table, dy = kFp4Table, w = kInt4Table;
};

// Says what entries do with their sums.
struct QConvFinish {
  bool bias = false;  // forward
  bool scales = false, accumulate = false;
  bool bfloat16 = false;  // beside float32
  float scale = 0.001234f;
};

// A shape with operands, what the matmuls of these must give, and the check that they do.
class QConvCase {
 public:
  QConvCase(const ConvShape& shape, const QConvTables& tables, std::mt19937& random, Fill fill = Fill::random)
      : shape_(shape),
        tables_(tables),
        text_(describe(shape) + ", x " + describe(tables.x) + ", w " + describe(tables.w) + ", dy " +
              describe(tables.dy)),
        x_(tables.x, shape.n * shape.h * shape.w, shape.c, fill, random),
        w_(tables.w, shape.o * shape.kh * shape.kw, shape.c_group(), fill == Fill::smallest ? Fill::largest : fill,
           random),
        dy_(tables.dy, shape.n * shape.oh() * shape.ow(), shape.o, fill, random),
        sums_(sums_by_definition(shape, x_.values, w_.values, dy_.values)),
        bias_(shape.o),
        scales_(std::max(shape.o, shape.n)) {
    REQUIRE(shape.oh() > 0);
    REQUIRE(shape.ow() > 0);
    for (int64_t i = 0; i < bias_.size(); ++i) bias_[i] = static_cast<float>(random() % 1000) / 7.0f;
    for (int64_t i = 0; i < scales_.size(); ++i) scales_[i] = static_cast<float>(random() % 1000) / 300.0f;
  }

  const QConvSums& sums() const { return sums_; }

  // The args of each entry, without results.
  kernels::QConvForwardArgs forward(const QConvFinish& finish) const {
    return {.shape = shape_,
            .x = x_.codes.data(),
            .x_table = tables_.x,
            .w = w_.codes.data(),
            .w_table = tables_.w,
            .scale = finish.scale,
            .scales = finish.scales ? scales_.data() + scales_.size() - shape_.o : nullptr,
            .bias = finish.bias ? bias_.data() : nullptr,
            .accumulate = finish.accumulate,
            .y = nullptr,
            .sums = nullptr};
  }
  kernels::QConvBackwardDataArgs backward_data(const QConvFinish& finish) const {
    return {.shape = shape_,
            .dy = dy_.codes.data(),
            .dy_table = tables_.dy,
            .w = w_.codes.data(),
            .w_table = tables_.w,
            .scale = finish.scale,
            .scales = finish.scales ? scales_.data() + scales_.size() - shape_.n : nullptr,
            .accumulate = finish.accumulate,
            .dx = nullptr,
            .sums = nullptr};
  }
  kernels::QConvBackwardWeightArgs backward_weight(const QConvFinish& finish) const {
    return {.shape = shape_,
            .dy = dy_.codes.data(),
            .dy_table = tables_.dy,
            .x = x_.codes.data(),
            .x_table = tables_.x,
            .scale = finish.scale,
            .scales = finish.scales ? scales_.data() + scales_.size() - shape_.o : nullptr,
            .accumulate = finish.accumulate,
            .dw = nullptr,
            .sums = nullptr};
  }

  void check(const Kernels& table, const QConvFinish& finish) const {
    const ConvShape& s = shape_;
    INFO(text_ << (finish.bias ? ", bias" : "") << (finish.scales ? ", scales" : "")
               << (finish.accumulate ? ", accumulate" : ""));
    const int64_t image = s.h * s.w * s.c, row = s.kh * s.kw * s.c_group();
    const auto channel_of = [&](int64_t i) { return i % s.o; };
    const auto image_of = [&](int64_t i) { return i / image; };
    const auto row_of = [&](int64_t i) { return i / row; };
    const auto set_y = [](auto& args, kernels::Floats y) { args.y = y; };
    const auto set_dx = [](auto& args, kernels::Floats dx) { args.dx = dx; };
    const auto set_dw = [](auto& args, kernels::Floats dw) { args.dw = dw.as<float>(); };
    QConvFinish without_bias = finish, wide = finish;
    without_bias.bias = wide.bias = wide.bfloat16 = false;
    check("qconv_forward", table.qconv_forward, forward(finish), sums_.y, finish, channel_of, set_y);
    check("qconv_backward_data", table.qconv_backward_data, backward_data(finish), sums_.dx, without_bias, image_of,
          set_dx);
    check("qconv_backward_weight", table.qconv_backward_weight, backward_weight(finish), sums_.dw, wide, row_of,
          set_dw);
  }

 private:
  // Runs an entry for sums and for floats. `place`(i) is that of result i among the scales.
  template <typename Args, typename Place, typename SetResult>
  void check(const char* entry, const Kernel<Args>& kernel, Args args, const Ints& expected, const QConvFinish& finish,
             Place place, SetResult set_result) const {
    const int64_t size = static_cast<int64_t>(expected.size());
    INFO(entry << " by " << kernel.implementation);
    Guarded<int64_t> sums(size, -1);
    args.sums = sums.data();
    kernel(args);
    int64_t wrong = -1;
    for (int64_t i = size - 1; i >= 0; --i) {
      if (sums[i] != expected[i]) wrong = i;
    }
    if (wrong >= 0) {
      INFO("sum " << wrong << " of " << size << ": got " << sums[wrong] << ", expected " << expected[wrong]);
      CHECK(wrong == -1);
    }
    CHECK(sums.intact());
    args.sums = nullptr;

    const auto value = [&](int64_t i, float before) {
      const float scale = finish.scales ? args.scale * args.scales[place(i)] : args.scale;
      float y = static_cast<float>(expected[i]) * scale;
      if (finish.bias) y += bias_[place(i)];
      if (finish.accumulate) y += before;
      return y;
    };
    const auto before = [](int64_t i) { return static_cast<float>(i % 37 - 18) / 16.0f; };  // bfloat16 has it exactly
    const auto check_floats = [&](auto rounded) {
      using T = decltype(rounded(0.0f));
      Guarded<T> y(size), wanted(size);
      for (int64_t i = 0; i < size; ++i) {
        y[i] = rounded(before(i));
        wanted[i] = rounded(value(i, before(i)));
      }
      set_result(args, y.data());
      kernel(args);
      const int64_t difference = y.first_difference(wanted);
      if (difference >= 0) {
        INFO(sizeof(T) << " bytes, value " << difference << " of " << size << ": expected "
                       << value(difference, before(difference)) << " for the sum " << expected[difference]);
        CHECK(difference == -1);
      }
      CHECK(y.intact());
    };
    check_floats([](float x) { return x; });
    if (finish.bfloat16) check_floats([](float x) { return to_bfloat16(x); });
  }

  ConvShape shape_;
  QConvTables tables_;
  std::string text_;
  Operand x_, w_, dy_;
  QConvSums sums_;
  Guarded<float> bias_, scales_;  // the last values of `scales` are those of a call
};

// Sums of so many equal products, of the highest value of table a, or its lowest, with the highest of table b.
struct Extremes {
  CodeTable a, b;  // of the activation or the gradient; of the weight, or of the gradient beside the activation
  int sign = 1;
  bool floats = true;  // results too, not sums alone

  // Channels of one pixel.
  void check_forward(const Kernels& table, int64_t terms) const {
    const Row x(code_a(), terms), w(code_b(), terms);
    kernels::QConvForwardArgs args{.shape = square(1, 1, terms, 1, 1),
                                   .x = x.data(),
                                   .x_table = a,
                                   .w = w.data(),
                                   .w_table = b,
                                   .scale = kScale,
                                   .bias = nullptr,
                                   .y = nullptr,
                                   .sums = nullptr};
    check(
        table.qconv_forward, args, [&](float* y) { args.y = y; }, 1, terms);
  }
  void check_backward_data(const Kernels& table, int64_t terms) const {
    const Row dy(code_a(), terms);
    const Guarded<uint8_t> w(terms, code_b());
    kernels::QConvBackwardDataArgs args{.shape = square(1, 1, 1, terms, 1),
                                        .dy = dy.data(),
                                        .dy_table = a,
                                        .w = w.data(),
                                        .w_table = b,
                                        .scale = kScale,
                                        .dx = nullptr,
                                        .sums = nullptr};
    check(
        table.qconv_backward_data, args, [&](float* dx) { args.dx = dx; }, 1, terms);
  }
  // Pixels of one channel to one, without padding.
  void check_backward_weight(const Kernels& table, const ConvShape& s) const {
    INFO(describe(s));
    const int64_t terms = s.n * s.oh() * s.ow();
    const Guarded<uint8_t> x(s.n * s.h * s.w, code_a()), dy(terms, code_b());
    kernels::QConvBackwardWeightArgs args{.shape = s,
                                          .dy = dy.data(),
                                          .dy_table = b,
                                          .x = x.data(),
                                          .x_table = a,
                                          .scale = kScale,
                                          .dw = nullptr,
                                          .sums = nullptr};
    check(
        table.qconv_backward_weight, args, [&](float* dw) { args.dw = dw; }, s.w_size(), terms);
  }

 private:
  static constexpr float kScale = 0.5f;

  uint8_t code_a() const { return static_cast<uint8_t>(highest_code(a, sign)); }
  uint8_t code_b() const { return static_cast<uint8_t>(highest_code(b)); }
  struct Row : Guarded<uint8_t> {
    Row(uint8_t code, int64_t cols) : Guarded(packed_row_bytes(cols), static_cast<uint8_t>(code | code << 4)) {
      if (cols % 2 != 0) (*this)[size() - 1] &= 15;
    }
  };
  template <typename Args, typename SetResult>
  void check(const Kernel<Args>& kernel, Args& args, SetResult set_result, int64_t results, int64_t terms) const {
    INFO("by " << kernel.implementation << ", " << terms << " terms");
    const int64_t sum = terms * a.value[code_a()] * b.value[code_b()];
    Guarded<float> y(results);
    Guarded<int64_t> sums(results);
    if (floats) {
      set_result(y.data());
      kernel(args);
      for (int64_t i = 0; i < results; ++i) CHECK(y[i] == static_cast<float>(sum) * kScale);
    }
    args.sums = sums.data();
    kernel(args);
    for (int64_t i = 0; i < results; ++i) CHECK(sums[i] == sum);
  }
};

}  // namespace luq::test
