#include "tools/luqbench/operands.h"

#include <algorithm>
#include <utility>

#include "kernels/conv_terms.h"
#include "kernels/numerics.h"
#include "luq/core/error.h"
#include "luq/core/format.h"
#include "luq/core/rng.h"

namespace luq::bench {
namespace {

constexpr Format kX = Format::uint4, kW = Format::int4, kDy = Format::fp4;

Tensor random_codes(int64_t rows, int64_t cols, Format format, uint64_t seed) {
  Tensor codes = Tensor::empty({rows * packed_row_bytes(cols)}, DType::uint8);
  RngStream random(make_rng_key(seed, to_string(format)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      uint32_t code = static_cast<uint32_t>(random.uniform() * 16) & 15;
      if (format.is_signed() && code == 8) code = 0;  // -8 and -0 are no codes
      uint8_t& byte = codes.data<uint8_t>()[row * packed_row_bytes(cols) + col / 2];
      byte = static_cast<uint8_t>(col % 2 == 0 ? code : byte | code << 4);
    }
  }
  return codes;
}

int64_t value_at(const Tensor& codes, int64_t row, int64_t col, int64_t cols, Format format) {
  return kernels::decode(format.table(), kernels::load_code(codes.data<uint8_t>() + row * packed_row_bytes(cols), col));
}

}  // namespace

LayerOperands::LayerOperands(const ConvShape& s, Device device)
    : shape_(s),
      x_(random_codes(s.n * s.h * s.w, s.c, kX, 1)),
      w_(random_codes(s.o * s.kh * s.kw, s.c_group(), kW, 2)),
      dy_(random_codes(s.n * s.oh() * s.ow(), s.o, kDy, 3)),
      x_there_(x_.to(device)),
      w_there_(w_.to(device)),
      dy_there_(dy_.to(device)),
      y_(Tensor::zeros({s.y_size()}, DType::float32, device)),
      dx_(Tensor::zeros({s.x_size()}, DType::float32, device)),
      dw_(Tensor::zeros({s.w_size()}, DType::float32, device)) {}

void LayerOperands::forward(const Kernels& k) {
  k.qconv_forward({.shape = shape_,
                   .x = std::as_const(x_there_).data<uint8_t>(),
                   .x_table = kX.table(),
                   .w = std::as_const(w_there_).data<uint8_t>(),
                   .w_table = kW.table(),
                   .scale = 1,
                   .bias = nullptr,
                   .y = y_.data<float>(),
                   .sums = nullptr});
}

void LayerOperands::backward_data(const Kernels& k) {
  k.qconv_backward_data({.shape = shape_,
                         .dy = std::as_const(dy_there_).data<uint8_t>(),
                         .dy_table = kDy.table(),
                         .w = std::as_const(w_there_).data<uint8_t>(),
                         .w_table = kW.table(),
                         .scale = 1,
                         .dx = dx_.data<float>(),
                         .sums = nullptr});
}

void LayerOperands::backward_weight(const Kernels& k) {
  k.qconv_backward_weight({.shape = shape_,
                           .dy = std::as_const(dy_there_).data<uint8_t>(),
                           .dy_table = kDy.table(),
                           .x = std::as_const(x_there_).data<uint8_t>(),
                           .x_table = kX.table(),
                           .scale = 1,
                           .dw = dw_.data<float>(),
                           .sums = nullptr});
}

void LayerOperands::check(const Kernels& k) {
  forward(k);
  backward_data(k);
  backward_weight(k);
  const ConvShape& s = shape_;
  RngStream random(make_rng_key(9, "samples"));
  const auto compare = [&](const char* product, const Tensor& results, auto for_terms, auto term) {
    const Tensor here = results.to({});
    for (int sample = 0; sample < 24; ++sample) {
      const int64_t index =
          std::min(static_cast<int64_t>(random.uniform() * static_cast<float>(here.numel())), here.numel() - 1);
      int64_t sum = 0;
      for_terms(s, index, [&](auto... place) { sum += term(place...); });
      const float got = here.data<float>()[index];
      if (got == static_cast<float>(sum)) continue;
      fail("[luqbench] {} of {}x{}x{}x{} to {}: got {}, expected {}: not timed", product, s.n, s.h, s.w, s.c, s.o, got,
           sum);
    }
  };
  const auto x = [&](int64_t row, int64_t c) { return value_at(x_, row, c, s.c, kX); };
  const auto w = [&](int64_t row, int64_t c) { return value_at(w_, row, c, s.c_group(), kW); };
  const auto dy = [&](int64_t row, int64_t o) { return value_at(dy_, row, o, s.o, kDy); };
  const auto product = [](auto a, auto b) {
    return
        [=](int64_t a_row, int64_t a_col, int64_t b_row, int64_t b_col) { return a(a_row, a_col) * b(b_row, b_col); };
  };
  compare(
      "forward", y_, [](auto... a) { kernels::for_forward_terms(a...); }, product(x, w));
  compare(
      "backward_data", dx_, [](auto... a) { kernels::for_backward_data_terms(a...); }, product(dy, w));
  compare(
      "backward_weight", dw_, [](auto... a) { kernels::for_backward_weight_terms(a...); }, product(dy, x));
}

}  // namespace luq::bench
