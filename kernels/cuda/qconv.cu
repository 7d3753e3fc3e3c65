#include <luq_cuda/ptx.h>

#include <algorithm>

#include "kernels/cuda/qconv_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {
namespace {

using namespace qconv;

// ---- What all kernels share -----------------------------------------------------------------------------------------

// What the 16 codes of a format stand for: int8, codes 0..7 in `low`, 8..15 in `high`.
struct Values {
  uint32_t low[2], high[2];
};

Values values_of(Format format) {
  Values values{};
  for (uint32_t code = 0; code < 8; ++code) {
    const auto byte = [&](uint32_t c) {
      return (static_cast<uint32_t>(luq::kernels::decode(format, c)) & 255u) << (code % 4 * 8);
    };
    values.low[code / 4] |= byte(code);
    values.high[code / 4] |= byte(code + 8);
  }
  return values;
}

__device__ int value_of(const Values& values, uint32_t code) {
  const uint32_t word =
      code < 8 ? (code < 4 ? values.low[0] : values.low[1]) : (code < 12 ? values.high[0] : values.high[1]);
  return static_cast<int8_t>(word >> (code % 4 * 8));
}

// Where the results go.
struct Sink {
  void* y;
  int64_t* sums;      // or null
  int* partial;       // (splits, size) or null
  const float* bias;  // (channels) or null
  int64_t size;       // results
  float scale;
  int bfloat16, accumulate;
  int pairs;  // two neighbours from an even index on may be written at once
};

__device__ float finished(const Sink& sink, int64_t channel, float sum, float old) {
  float value = __fmul_rn(sum, sink.scale);
  if (sink.bias != nullptr) value = __fadd_rn(value, sink.bias[channel]);
  return sink.accumulate != 0 ? __fadd_rn(value, old) : value;
}

template <typename Sum>
__device__ void store(const Sink& sink, int64_t index, int64_t channel, Sum sum) {
  if (sink.sums != nullptr) {
    sink.sums[index] = sum;
  } else if (sink.bfloat16 != 0) {
    auto* y = static_cast<BFloat16*>(sink.y) + index;
    *y = to_bfloat16(finished(sink, channel, static_cast<float>(sum), sink.accumulate != 0 ? to_float(*y) : 0.0f));
  } else {
    auto* y = static_cast<float*>(sink.y) + index;
    *y = finished(sink, channel, static_cast<float>(sum), sink.accumulate != 0 ? *y : 0.0f);
  }
}

// ---- Any shape: a thread for each result ----------------------------------------------------------------------------

constexpr int kThreads = 256;

struct Operands {
  const uint8_t *a, *b;
  Values a_values, b_values;
  int64_t a_row, b_row;  // bytes
};

__device__ int64_t dot(const Operands& in, const uint8_t* a, int64_t a_first, const uint8_t* b, int64_t count) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += value_of(in.a_values, load_code(a, a_first + i)) * value_of(in.b_values, load_code(b, i));
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) forward_any(ConvShape s, int64_t oh, int64_t ow, Operands in, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  const int64_t cg = s.c_group(), og = s.o_group();
  const int64_t o = index % s.o, ox = index / s.o % ow, oy = index / (s.o * ow) % oh, n = index / (s.o * ow * oh);
  int64_t sum = 0;
  for (int64_t ky = 0; ky < s.kh; ++ky) {
    const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
    if (iy < 0 || iy >= s.h) continue;
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
      if (ix < 0 || ix >= s.w) continue;
      sum += dot(in, in.a + ((n * s.h + iy) * s.w + ix) * in.a_row, o / og * cg,
                 in.b + ((o * s.kh + ky) * s.kw + kx) * in.b_row, cg);
    }
  }
  store(sink, index, o, sum);
}

__global__ void __launch_bounds__(kThreads)
    backward_data_any(ConvShape s, int64_t oh, int64_t ow, Operands in, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  const int64_t cg = s.c_group(), og = s.o_group();
  const int64_t c = index % s.c, ix = index / s.c % s.w, iy = index / (s.c * s.w) % s.h, n = index / (s.c * s.w * s.h);
  const int64_t first_o = c / cg * og;
  int64_t sum = 0;
  for (int64_t ky = 0; ky < s.kh; ++ky) {
    const int64_t y = iy + s.pad_h - ky * s.dilation_h;
    if (y < 0 || y % s.stride_h != 0 || y / s.stride_h >= oh) continue;
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t x = ix + s.pad_w - kx * s.dilation_w;
      if (x < 0 || x % s.stride_w != 0 || x / s.stride_w >= ow) continue;
      const uint8_t* dy = in.a + ((n * oh + y / s.stride_h) * ow + x / s.stride_w) * in.a_row;
      for (int64_t o = first_o; o < first_o + og; ++o) {
        const uint8_t* w = in.b + ((o * s.kh + ky) * s.kw + kx) * in.b_row;
        sum += value_of(in.a_values, load_code(dy, o)) * value_of(in.b_values, load_code(w, c % cg));
      }
    }
  }
  store(sink, index, c, sum);
}

__global__ void __launch_bounds__(kThreads)
    backward_weight_any(ConvShape s, int64_t oh, int64_t ow, Operands in, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  const int64_t cg = s.c_group(), og = s.o_group();
  const int64_t c = index % cg, kx = index / cg % s.kw, ky = index / (cg * s.kw) % s.kh;
  const int64_t o = index / (cg * s.kw * s.kh), input_c = o / og * cg + c;
  int64_t sum = 0;
  for (int64_t row = 0; row < s.n * oh; ++row) {
    const int64_t n = row / oh, oy = row % oh;
    const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
    if (iy < 0 || iy >= s.h) continue;
    for (int64_t ox = 0; ox < ow; ++ox) {
      const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
      if (ix < 0 || ix >= s.w) continue;
      const uint8_t* dy = in.a + (row * ow + ox) * in.a_row;
      const uint8_t* x = in.b + ((n * s.h + iy) * s.w + ix) * in.b_row;
      sum += value_of(in.a_values, load_code(dy, o)) * value_of(in.b_values, load_code(x, input_c));
    }
  }
  store(sink, index, o, sum);
}

Sink sink_of(Floats y, int64_t* sums, float scale, const float* bias, bool accumulate, int64_t size) {
  return {.y = y.data,
          .sums = sums,
          .partial = nullptr,
          .bias = bias,
          .size = size,
          .scale = scale,
          .bfloat16 = y.bfloat16,
          .accumulate = accumulate,
          .pairs = 0};
}

void run_any(const char* name, void (*kernel)(ConvShape, int64_t, int64_t, Operands, Sink), const ConvShape& s,
             const Operands& in, const Sink& sink) {
  launch(name, kernel, {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, s, s.oh(), s.ow(), in, sink);
}

void forward(const QConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const Operands in{
      a.x, a.w, values_of(a.x_format), values_of(a.w_format), packed_row_bytes(s.c), packed_row_bytes(s.c_group())};
  run_any("qconv_forward", forward_any, s, in, sink_of(a.y, a.sums, a.scale, a.bias, false, s.y_size()));
}

void backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const Operands in{
      a.dy, a.w, values_of(a.dy_format), values_of(a.w_format), packed_row_bytes(s.o), packed_row_bytes(s.c_group())};
  run_any("qconv_backward_data", backward_data_any, s, in,
          sink_of(a.dx, a.sums, a.scale, nullptr, a.accumulate, s.x_size()));
}

void backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const Operands in{
      a.dy, a.x, values_of(a.dy_format), values_of(a.x_format), packed_row_bytes(s.o), packed_row_bytes(s.c)};
  run_any("qconv_backward_weight", backward_weight_any, s, in,
          sink_of(a.dw, a.sums, a.scale, nullptr, false, s.w_size()));
}

}  // namespace

void add_qconv(Kernels& table) {
  table.qconv_forward = {forward, "cuda"};
  table.qconv_backward_data = {backward_data, "cuda"};
  table.qconv_backward_weight = {backward_weight, "cuda"};
}

}  // namespace luq::kernels::cuda
