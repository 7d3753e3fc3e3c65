// The gradient of the weights: columns of dy times patches of x, along the pixels.
#include <algorithm>

#include "kernels/cuda/qconv_tile.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda::qconv {
namespace {

__global__ void __launch_bounds__(kThreads)
    backward_weight_any(ConvShape s, int64_t oh, int64_t ow, Operands in, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
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

// A: channels of dy; B: taps and, in a tap, chunks of channels of x. Along K lie pixels, which the image has as rows: a
// tile of 64 pixels is copied as it is and transposed on the way to int8. Byte i of word q of a row is pixel q + 16 i,
// for A and for B.
struct Pixels {
  const uint8_t *a, *b;
  Values a_values, b_values;
  int64_t a_pixel, b_pixel;  // bytes
  int pixels, oh, ow, h, w;  // pixels of dy
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, kernel_w, taps;
  int images, rows, columns;  // what 64 pixels are
  int m, a_chunks, b_chunks;  // of a wide group
  int c, o;                   // of a group
  int unused;
};

template <typename S>
class PixelGather {
 public:
  using Parameters = Pixels;

  __device__ PixelGather(const Pixels& p, int group, int m_tile, int n_tile, int k_tile) : p_(p), group_(group) {
    const int t = static_cast<int>(threadIdx.x), chunk = t % 2 + t / 128 * 2;
    pixel_ = k_tile * kTileK + t / 2 % kTileK;
    x_ = pixel_ % p.ow;
    y_ = pixel_ / p.ow % p.oh;
    image_ = pixel_ / p.ow / p.oh;
    const int a_chunk = m_tile * (S::kM / kChunk) + chunk;
    for (int i = 0; i < S::kItemsM; ++i) {
      const int here = a_chunk + i * kStep;
      a_[i] = chunk + i * kStep < S::kM / kChunk && here < p.a_chunks ? (group * p.a_chunks + here) * 16 : -1;
    }
    for (int i = 0; i < S::kItemsN; ++i) {
      const int here = n_tile * (S::kN / kChunk) + chunk + i * kStep, tap = here / p.b_chunks;
      const bool inside = chunk + i * kStep < S::kN / kChunk && tap < p.taps;
      b_[i] = inside ? (group * p.b_chunks + here % p.b_chunks) * 16 : -1;
      down_[i] = tap / p.kernel_w * p.dilation_h - p.pad_h;
      right_[i] = tap % p.kernel_w * p.dilation_w - p.pad_w;
    }
  }

  __device__ void copy(uint4* raw) {
    const int t = static_cast<int>(threadIdx.x), chunk = t % 2 + t / 128 * 2, pixel = t / 2 % kTileK;
    const bool any = pixel_ < p_.pixels;
    for (int i = 0; i < S::kItemsM; ++i) {
      if (chunk + i * kStep >= S::kM / kChunk) continue;
      const bool inside = any && a_[i] >= 0;
      const uint8_t* from = p_.a + (inside ? pixel_ * p_.a_pixel + a_[i] : 0);
      luq::device::copy_async16(raw + (chunk + i * kStep) * kTileK + pixel, from, inside ? 16 : 0);
    }
    for (int i = 0; i < S::kItemsN; ++i) {
      if (chunk + i * kStep >= S::kN / kChunk) continue;
      const int y = y_ * p_.stride_h + down_[i], x = x_ * p_.stride_w + right_[i];
      const bool inside = any && b_[i] >= 0 && static_cast<unsigned>(y) < static_cast<unsigned>(p_.h) &&
                          static_cast<unsigned>(x) < static_cast<unsigned>(p_.w);
      const uint8_t* from = p_.b + (inside ? ((image_ * p_.h + y) * p_.w + x) * p_.b_pixel + b_[i] : 0);
      luq::device::copy_async16(raw + S::kM * 2 + (chunk + i * kStep) * kTileK + pixel, from, inside ? 16 : 0);
    }
    pixel_ += kTileK;
    x_ += p_.columns;
    y_ += p_.rows;
    image_ += p_.images;
    if (x_ >= p_.ow) {
      x_ -= p_.ow;
      ++y_;
    }
    if (y_ >= p_.oh) {
      y_ -= p_.oh;
      ++image_;
    }
  }

  __device__ void decode(const uint4* raw, uint4* values) const {
    const int t = static_cast<int>(threadIdx.x);
    for (int i = 0; i < S::kItemsM; ++i) transpose_item(p_.a_values, raw, values, t + i * S::kThreads);
    for (int i = 0; i < S::kItemsN; ++i) {
      const int item = t + i * S::kThreads;
      if (item < S::kN * 2) transpose_item(p_.b_values, raw + S::kM * 2, values + S::kM * 4, item);
    }
  }

  __device__ Place row(int m) const {
    if (m >= p_.m) return {-1, 0, 0};
    return {(int64_t{group_} * p_.m + m) * p_.taps * p_.c, m / p_.o, 0};
  }
  __device__ Place column(int n) const {
    const int width = p_.b_chunks * kChunk, tap = n / width, c = n % width;
    return {tap < p_.taps ? tap * p_.c + c % p_.c : -1, c / p_.c, 0};
  }

 private:
  static constexpr int kStep = S::kThreads / kTileK;  // chunks between a thread's items

  // 8 channels of pixels q, q + 16, q + 32, q + 48.
  __device__ static void transpose_item(const Values& table, const uint4* raw, uint4* values, int item) {
    const int word = item % 4, q = item / 4 % 16, chunk = item / 64;
    const auto* codes = reinterpret_cast<const uint32_t*>(raw + chunk * kTileK) + q * 4 + word;
    const uint32_t v0 = codes[0], v1 = codes[64], v2 = codes[128], v3 = codes[192];
    constexpr uint32_t kEven = 0x0f0f0f0fu;
    // Byte j: channel 2 j (even) or 2 j + 1 (odd) of two pixels.
    const uint32_t even01 = (v0 & kEven) | ((v1 & kEven) << 4), odd01 = ((v0 >> 4) & kEven) | (v1 & ~kEven);
    const uint32_t even23 = (v2 & kEven) | ((v3 & kEven) << 4), odd23 = ((v2 >> 4) & kEven) | (v3 & ~kEven);
    auto* bytes = reinterpret_cast<uint32_t*>(values);
    const auto put = [&](uint32_t two_channels, int first, int second) {
      uint32_t low, high;
      decode8(table, two_channels, low, high);
      const int row = chunk * kChunk + word * 8;
      bytes[piece_at(row + first, q / 4) * 4 + q % 4] = low;
      bytes[piece_at(row + second, q / 4) * 4 + q % 4] = high;
    };
    put(luq::device::permute_bytes(even01, even23, 0x5140), 0, 2);
    put(luq::device::permute_bytes(even01, even23, 0x7362), 4, 6);
    put(luq::device::permute_bytes(odd01, odd23, 0x5140), 1, 3);
    put(luq::device::permute_bytes(odd01, odd23, 0x7362), 5, 7);
  }

  const Pixels& p_;
  int group_, pixel_, x_, y_, image_;
  int a_[S::kItemsM], b_[S::kItemsN], down_[S::kItemsN], right_[S::kItemsN];
};

void backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a.dw, a.sums, a.scale, nullptr, false, s.w_size());
  const Values dy_values = values_of(a.dy_format), x_values = values_of(a.x_format);
  const int64_t oh = s.oh(), ow = s.ow();
  if (!fits(s)) {
    const Operands in{a.dy, a.x, dy_values, x_values, packed_row_bytes(s.o), packed_row_bytes(s.c)};
    return run_any("qconv_backward_weight", backward_weight_any, s, in, sink);
  }
  const int64_t merged = merged_groups(s), groups = s.groups / merged, pixels = s.n * oh * ow;
  Layout layout;
  const Activations dy(a.dy, pixels, s.o, groups, layout), x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const int64_t m = merged * s.o_group(), n = s.kh * s.kw * x.chunks() * kChunk;
  const int64_t k_tiles = divide_up(pixels, kTileK);
  const Tile tile = choose_tile(groups * std::max<int64_t>(k_tiles / kMinTilesOfSplit, 1), m, n);
  const Split split =
      choose_split(groups * tiles_of(tile, m, n), k_tiles, max_int32_terms(a.dy_format, a.x_format), sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  const Pixels p{.a = dy.ready(layout),
                 .b = x.ready(layout),
                 .a_values = dy_values,
                 .b_values = x_values,
                 .a_pixel = dy.row_bytes(),
                 .b_pixel = x.row_bytes(),
                 .pixels = i(pixels),
                 .oh = i(oh),
                 .ow = i(ow),
                 .h = i(s.h),
                 .w = i(s.w),
                 .stride_h = i(s.stride_h),
                 .stride_w = i(s.stride_w),
                 .pad_h = i(s.pad_h),
                 .pad_w = i(s.pad_w),
                 .dilation_h = i(s.dilation_h),
                 .dilation_w = i(s.dilation_w),
                 .kernel_w = i(s.kw),
                 .taps = i(s.kh * s.kw),
                 .images = i(kTileK / (oh * ow)),
                 .rows = i(kTileK % (oh * ow) / ow),
                 .columns = i(kTileK % ow),
                 .m = i(m),
                 .a_chunks = i(dy.chunks()),
                 .b_chunks = i(x.chunks()),
                 .c = i(s.c_group()),
                 .o = i(s.o_group()),
                 .unused = 0};
  const Sink parts = sink_of_product(sink, s.c_group(), split, partials, layout);
  run_tile<PixelGather>(tile, "qconv_backward_weight", p, grid_of(tile, m, n, k_tiles, split.splits), groups, parts);
  finish("qconv_backward_weight, parts", sink, parts, split, s.o);
}

}  // namespace
}  // namespace luq::kernels::cuda::qconv

namespace luq::kernels::cuda {

void add_qconv_backward_weight(Kernels& table) { table.qconv_backward_weight = {qconv::backward_weight, "cuda"}; }

}  // namespace luq::kernels::cuda
