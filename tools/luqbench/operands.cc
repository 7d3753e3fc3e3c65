#include "tools/luqbench/operands.h"

#include <algorithm>
#include <utility>

#include "kernels/numerics.h"
#include "luq/core/error.h"
#include "luq/core/format.h"
#include "luq/core/rng.h"

namespace luq::bench {
namespace {

Tensor random_codes(int64_t rows, int64_t cols, Format format, uint64_t seed) {
  Tensor codes = Tensor::empty({rows * packed_row_bytes(cols)}, DType::uint8);
  RngStream random(make_rng_key(seed, to_string(format)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      uint32_t code = static_cast<uint32_t>(random.uniform() * 16) & 15;
      if ((format == Format::int4 || format == Format::fp4) && code == 8) code = 0;  // -8 and -0 are no codes
      uint8_t& byte = codes.data<uint8_t>()[row * packed_row_bytes(cols) + col / 2];
      byte = static_cast<uint8_t>(col % 2 == 0 ? code : byte | code << 4);
    }
  }
  return codes;
}

int64_t value_at(const Tensor& codes, int64_t row, int64_t col, int64_t cols, Format format) {
  return kernels::decode(format, kernels::load_code(codes.data<uint8_t>() + row * packed_row_bytes(cols), col));
}

}  // namespace

Operands::Operands(const ConvShape& s, Device device)
    : shape_(s),
      x_(random_codes(s.n * s.h * s.w, s.c, Format::uint4, 1)),
      w_(random_codes(s.o * s.kh * s.kw, s.c_group(), Format::int4, 2)),
      dy_(random_codes(s.n * s.oh() * s.ow(), s.o, Format::fp4, 3)),
      x_there_(x_.to(device)),
      w_there_(w_.to(device)),
      dy_there_(dy_.to(device)),
      y_(Tensor::zeros({s.y_size()}, DType::float32, device)),
      dx_(Tensor::zeros({s.x_size()}, DType::float32, device)),
      dw_(Tensor::zeros({s.w_size()}, DType::float32, device)) {}

void Operands::forward(const Kernels& k) {
  k.qconv_forward({.shape = shape_,
                   .x = std::as_const(x_there_).data<uint8_t>(),
                   .x_format = Format::uint4,
                   .w = std::as_const(w_there_).data<uint8_t>(),
                   .w_format = Format::int4,
                   .scale = 1,
                   .bias = nullptr,
                   .y = y_.data<float>(),
                   .sums = nullptr});
}

void Operands::backward_data(const Kernels& k) {
  k.qconv_backward_data({.shape = shape_,
                         .dy = std::as_const(dy_there_).data<uint8_t>(),
                         .dy_format = Format::fp4,
                         .w = std::as_const(w_there_).data<uint8_t>(),
                         .w_format = Format::int4,
                         .scale = 1,
                         .dx = dx_.data<float>(),
                         .sums = nullptr});
}

void Operands::update(const Kernels& k) {
  k.qconv_backward_weight({.shape = shape_,
                           .dy = std::as_const(dy_there_).data<uint8_t>(),
                           .dy_format = Format::fp4,
                           .x = std::as_const(x_there_).data<uint8_t>(),
                           .x_format = Format::uint4,
                           .scale = 1,
                           .dw = dw_.data<float>(),
                           .sums = nullptr});
}

bool Operands::meets(int64_t oy, int64_t ox, int64_t ky, int64_t kx, int64_t& iy, int64_t& ix) const {
  iy = oy * shape_.stride_h - shape_.pad_h + ky * shape_.dilation_h;
  ix = ox * shape_.stride_w - shape_.pad_w + kx * shape_.dilation_w;
  return iy >= 0 && iy < shape_.h && ix >= 0 && ix < shape_.w;
}

int64_t Operands::x_at(int64_t n, int64_t iy, int64_t ix, int64_t c) const {
  return value_at(x_, (n * shape_.h + iy) * shape_.w + ix, c, shape_.c, Format::uint4);
}

int64_t Operands::w_at(int64_t o, int64_t ky, int64_t kx, int64_t c) const {
  return value_at(w_, (o * shape_.kh + ky) * shape_.kw + kx, c, shape_.c_group(), Format::int4);
}

int64_t Operands::dy_at(int64_t n, int64_t oy, int64_t ox, int64_t o) const {
  return value_at(dy_, (n * shape_.oh() + oy) * shape_.ow() + ox, o, shape_.o, Format::fp4);
}

void Operands::check(const Kernels& k) {
  forward(k);
  backward_data(k);
  update(k);
  const Tensor y = y_.to({}), dx = dx_.to({}), dw = dw_.to({});
  const ConvShape& s = shape_;
  RngStream random(make_rng_key(9, "samples"));
  const auto draw = [&](int64_t size) {
    return std::min(static_cast<int64_t>(random.uniform() * static_cast<float>(size)), size - 1);
  };
  for (int sample = 0; sample < 24; ++sample) {
    const int64_t n = draw(s.n), o = draw(s.o), ci = draw(s.c_group()), group = o / s.o_group();
    const int64_t c = group * s.c_group() + ci, y0 = draw(s.oh()), x0 = draw(s.ow()), ky0 = draw(s.kh),
                  kx0 = draw(s.kw);
    int64_t sum_y = 0, sum_w = 0, sum_x = 0, iy = 0, ix = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        if (!meets(y0, x0, ky, kx, iy, ix)) continue;
        for (int64_t i = 0; i < s.c_group(); ++i)
          sum_y += x_at(n, iy, ix, group * s.c_group() + i) * w_at(o, ky, kx, i);
      }
    }
    for (int64_t image = 0; image < s.n; ++image) {
      for (int64_t oy = 0; oy < s.oh(); ++oy) {
        for (int64_t ox = 0; ox < s.ow(); ++ox) {
          if (meets(oy, ox, ky0, kx0, iy, ix)) sum_w += x_at(image, iy, ix, c) * dy_at(image, oy, ox, o);
        }
      }
    }
    const int64_t row = draw(s.h), column = draw(s.w);
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        const int64_t at_y = row + s.pad_h - ky * s.dilation_h, at_x = column + s.pad_w - kx * s.dilation_w;
        if (at_y % s.stride_h != 0 || at_x % s.stride_w != 0) continue;
        const int64_t oy = at_y / s.stride_h, ox = at_x / s.stride_w;
        if (at_y < 0 || at_x < 0 || oy >= s.oh() || ox >= s.ow()) continue;
        for (int64_t i = 0; i < s.o_group(); ++i)
          sum_x += dy_at(n, oy, ox, group * s.o_group() + i) * w_at(group * s.o_group() + i, ky, kx, ci);
      }
    }
    const auto expect = [&](const char* phase, float got, int64_t sum) {
      if (got != static_cast<float>(sum)) {
        fail("[luqbench] {} of {}x{}x{}x{} to {}: got {}, expected {}: not timed", phase, s.n, s.h, s.w, s.c, s.o, got,
             sum);
      }
    };
    expect("forward", y.data<float>()[((n * s.oh() + y0) * s.ow() + x0) * s.o + o], sum_y);
    expect("update", dw.data<float>()[((o * s.kh + ky0) * s.kw + kx0) * s.c_group() + ci], sum_w);
    expect("backward", dx.data<float>()[((n * s.h + row) * s.w + column) * s.c + c], sum_x);
  }
}

}  // namespace luq::bench
