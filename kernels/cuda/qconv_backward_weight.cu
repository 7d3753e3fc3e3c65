// The gradient of the weights: columns of dy times patches of x, along the pixels.
#include <algorithm>

#include "kernels/cuda/qconv_tile.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda::qconv {
namespace {

// A: channels of dy; B: taps and, in a tap, chunks of channels of x. Along K lie pixels, which the image has as rows: a
// tile of 64 pixels is copied as it is, 16 bytes of a pixel an item. ldmatrix transposes units of two bytes, four
// channels: lane l has channels 4 (l / 4) .. 4 (l / 4) + 3 of pixels 2 (l % 4) and 2 (l % 4) + 1 of each 8, and the
// rest is done in registers. So a fragment's rows are every fourth channel.
struct Pixels {
  static constexpr bool kMayBeWide = true;
  const uint8_t *a, *b;
  Values a_values, b_values;
  int64_t a_pixel, b_pixel;  // bytes
  int pixels, oh, ow, h, w;  // pixels of dy
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, kernel_w, taps;
  int images, rows, columns;  // what 64 pixels are, in pixels of x: image rows, rows, columns
  int row_end, image_end;     // columns and rows of x that a row and an image of dy span
  int m, a_chunks, b_chunks;  // of a wide group
  int c, o;                   // of a group
  int unused;
};

// Codes of four channels of two pixels (the first in the lower half), and of two more, as four words, one a channel, of
// four pixels each. uint4 is unsigned int8, of every second channel 16 times its value.
template <Decoder D>
__device__ inline void decode_channels(const Values& values, uint32_t two, uint32_t more, unsigned (&channels)[4]) {
  using luq::device::permute_bytes;
  // Two channels of four pixels each.
  const uint32_t pairs[2] = {permute_bytes(two, more, 0x6420), permute_bytes(two, more, 0x7531)};
  LUQ_UNROLL
  for (int i = 0; i < 2; ++i) {
    unsigned &even = channels[2 * i], &odd = channels[2 * i + 1];
    if constexpr (D == Decoder::table) {
      uint32_t first, second;
      decode_by_table(values, pairs[i], first, second);
      even = permute_bytes(first, second, 0x6420);
      odd = permute_bytes(first, second, 0x7531);
    } else if constexpr (D == Decoder::uint4) {
      even = pairs[i] & 0x0f0f0f0fu;
      odd = pairs[i] & 0xf0f0f0f0u;
    } else {
      decode<D>(values, pairs[i], even, odd);
    }
  }
}

// kSame: a pixel of dy is the same pixel of x, and there is one tap.
template <typename S, Decoder A, Decoder B, bool kSame>
class PixelGather {
 public:
  using Parameters = Pixels;
  using Tile = S;
  static constexpr int kBlocks = S::blocks(A, B);
  static constexpr bool kMoments = false;

  __device__ PixelGather(const Pixels& p, int group, int m_tile, int n_tile, int k_tile) : p_(p), group_(group) {
    const int t = static_cast<int>(threadIdx.x), chunk = t % 2 + t / 128 * 2;
    const int pixel = k_tile * kTileK + t / 2 % kTileK;
    if (!kSame) {
      x_ = pixel % p.ow * p.stride_w;
      y_ = pixel / p.ow % p.oh * p.stride_h;
      image_ = pixel / p.ow / p.oh * p.h;
    }
    const int a_chunk = m_tile * (S::kM / kChunk) + chunk;
    for (int i = 0; i < S::kItemsM; ++i) {
      const int here = a_chunk + i * kStep;
      a_left_[i] = chunk + i * kStep < S::kM / kChunk && here < p.a_chunks ? p.pixels - pixel : 0;
      a_from_[i] = p.a + pixel * p.a_pixel + (group * p.a_chunks + here) * 16;
    }
    for (int i = 0; i < S::kItemsN; ++i) {
      const int here = n_tile * (S::kN / kChunk) + chunk + i * kStep, tap = here / p.b_chunks;
      b_left_[i] = chunk + i * kStep < S::kN / kChunk && tap < p.taps ? p.pixels - pixel : 0;
      b_from_[i] = p.b + (kSame ? pixel * p.b_pixel : 0) + (group * p.b_chunks + here % p.b_chunks) * 16;
      down_[i] = tap / p.kernel_w * p.dilation_h - p.pad_h;
      right_[i] = tap % p.kernel_w * p.dilation_w - p.pad_w;
    }
  }

  __device__ void copy(uint4* raw) {
    const int t = static_cast<int>(threadIdx.x), chunk = t % 2 + t / 128 * 2, pixel = t / 2 % kTileK;
    for (int i = 0; i < S::kItemsM; ++i) {
      if (chunk + i * kStep >= S::kM / kChunk) continue;
      const bool inside = a_left_[i] > 0;
      luq::device::copy_async16(raw + (chunk + i * kStep) * kTileK + pixel, inside ? a_from_[i] : p_.a,
                                inside ? 16 : 0);
      a_from_[i] += kTileK * p_.a_pixel;
      a_left_[i] -= kTileK;
    }
    for (int i = 0; i < S::kItemsN; ++i) {
      if (chunk + i * kStep >= S::kN / kChunk) continue;
      bool inside = b_left_[i] > 0;
      b_left_[i] -= kTileK;
      const uint8_t* from = b_from_[i];
      if (kSame) {
        b_from_[i] += kTileK * p_.b_pixel;
      } else {
        const int y = y_ + down_[i], x = x_ + right_[i];
        inside = inside && static_cast<unsigned>(y) < static_cast<unsigned>(p_.h) &&
                 static_cast<unsigned>(x) < static_cast<unsigned>(p_.w);
        from += ((image_ + y) * p_.w + x) * p_.b_pixel;
      }
      luq::device::copy_async16(raw + S::kM * 2 + (chunk + i * kStep) * kTileK + pixel, inside ? from : p_.b,
                                inside ? 16 : 0);
    }
    if (kSame) return;
    x_ += p_.columns;
    y_ += p_.rows;
    image_ += p_.images;
    if (x_ >= p_.row_end) {
      x_ -= p_.row_end;
      y_ += p_.stride_h;
    }
    if (y_ >= p_.image_end) {
      y_ -= p_.image_end;
      image_ += p_.h;
    }
  }

  // Word i: of pixels 8 i + 2 (l % 4) and the next.
  __device__ void load_rows(const uint4* raw, int i, int step, Words& words) const {
    const int warp = static_cast<int>(threadIdx.x / 32), chunk = warp / S::kWarpsN * (S::kWarpM / kChunk) + i;
    luq::device::load_matrix_x4_transposed(words, raw + chunk * kTileK + step * 32 + threadIdx.x % 32);
  }
  __device__ void load_columns(const uint4* raw, int strip, int step, Words& words) const {
    const int warp = static_cast<int>(threadIdx.x / 32), chunk = warp % S::kWarpsN * (S::kWarpN / kChunk) + strip;
    luq::device::load_matrix_x4_transposed(words, raw + S::kM * 2 + chunk * kTileK + step * 32 + threadIdx.x % 32);
  }

  __device__ static void multiply(int (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if constexpr (B == Decoder::uint4) {
      luq::device::mma_s8_u8(sum, a, b, sum);
    } else {
      luq::device::mma_s8(sum, a, b, sum);
    }
  }

  __device__ void decode_rows(const Words& words, RowBlocks& blocks) const {
    unsigned first[4], second[4];
    decode_channels<A>(p_.a_values, words[0], words[1], first);
    decode_channels<A>(p_.a_values, words[2], words[3], second);
    LUQ_UNROLL
    for (int channel = 0; channel < 4; ++channel) {
      blocks[channel / 2][channel % 2] = first[channel];
      blocks[channel / 2][channel % 2 + 2] = second[channel];
    }
  }
  __device__ void decode_columns(const Words& words, ColumnBlocks& blocks) const {
    unsigned first[4], second[4];
    decode_channels<B>(p_.b_values, words[0], words[1], first);
    decode_channels<B>(p_.b_values, words[2], words[3], second);
    LUQ_UNROLL
    for (int channel = 0; channel < 4; ++channel) {
      blocks[channel][0] = first[channel];
      blocks[channel][1] = second[channel];
    }
  }

  // The warp's row of block i, half h, in lanes of which l / 4 is g.
  __device__ static int row_of(int i, int h, int g) { return i / 2 * 32 + g * 4 + i % 2 * 2 + h; }
  // Column k of the lane's 8 of a strip: block j has the channels j, j + 4, j + 8, ....
  template <int kBlocks>
  __device__ static int result(const int (&sum)[kBlocks][4], int strip, int h, int k) {
    return sum[strip * 4 + k % 4][h * 2 + k / 4] >> (B == Decoder::uint4 ? k % 2 * 4 : 0);
  }

  __device__ Place row(int m) const {
    if (m >= p_.m) return {-1, 0, 0};
    const int output = group_ * p_.m + m;
    return {int64_t{output} * p_.taps * p_.c, m / p_.o, output};
  }
  __device__ Place column(int n) const {
    const int width = p_.b_chunks * kChunk, tap = n / width, c = n % width;
    return {tap < p_.taps ? tap * p_.c + c % p_.c : -1, c / p_.c, 0};
  }

 private:
  static constexpr int kStep = S::kThreads / kTileK;  // chunks between a thread's items

  const Pixels& p_;
  int group_;
  int x_, y_, image_;  // of x, where tap 0 without padding is; image_: its first row among those of all images
  const uint8_t *a_from_[S::kItemsM], *b_from_[S::kItemsN];
  int a_left_[S::kItemsM], b_left_[S::kItemsN];  // pixels from the thread's next one on
  int down_[S::kItemsN], right_[S::kItemsN];
};

template <typename S, Decoder A, Decoder B>
using SamePixels = PixelGather<S, A, B, true>;
template <typename S, Decoder A, Decoder B>
using AnyPixels = PixelGather<S, A, B, false>;

template <template <typename, Decoder, Decoder> typename Gather>
auto run_for(Decoder x_decoder) {
  return x_decoder == Decoder::uint4  ? run_tile<Gather, Decoder::table, Decoder::uint4, Pixels>
         : x_decoder == Decoder::int4 ? run_tile<Gather, Decoder::table, Decoder::int4, Pixels>
                                      : run_tile<Gather, Decoder::table, Decoder::table, Pixels>;
}

void backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a);
  if (!fits(s)) return run_any(a, sink);
  const int64_t oh = s.oh(), ow = s.ow();
  const int64_t merged = merged_groups(s), groups = s.groups / merged, pixels = s.n * oh * ow;
  Layout layout;
  const Activations dy(a.dy, pixels, s.o, groups, layout), x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const int64_t m = merged * s.o_group(), n = s.kh * s.kw * x.chunks() * kChunk;
  const int64_t k_tiles = divide_up(pixels, kTileK);
  const Tile tile = choose_tile(groups * std::max<int64_t>(k_tiles / kMinTilesOfSplit, 1), m, n, Pixels::kMayBeWide);
  const Decoder x_decoder = decoder_of(a.x_table);
  const int shift = shift_of(x_decoder);
  const int most_shift = x_decoder == Decoder::table ? 0 : 4;  // of any column
  const Split split = choose_split(tile, groups * tiles_of(tile, m, n), k_tiles,
                                   max_int32_terms(a.dy_table, a.x_table) >> most_shift, sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  const Pixels p{.a = dy.ready(layout),
                 .b = x.ready(layout),
                 .a_values = values_of(a.dy_table),
                 .b_values = values_of(a.x_table),
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
                 .images = i(kTileK / (oh * ow) * s.h),
                 .rows = i(kTileK % (oh * ow) / ow * s.stride_h),
                 .columns = i(kTileK % ow * s.stride_w),
                 .row_end = i(ow * s.stride_w),
                 .image_end = i(oh * s.stride_h),
                 .m = i(m),
                 .a_chunks = i(dy.chunks()),
                 .b_chunks = i(x.chunks()),
                 .c = i(s.c_group()),
                 .o = i(s.o_group()),
                 .unused = 0};
  Sink parts = sink_of_product(sink, s.c_group(), split.splits > 1, partials, layout);
  const int left = scale_takes(parts, shift) ? 0 : shift;
  const bool same = s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0;
  const auto run = same ? run_for<SamePixels>(x_decoder) : run_for<AnyPixels>(x_decoder);
  run(tile, "qconv_backward_weight", p, tiling_of(tile, m, n, k_tiles, split.splits, left), groups, parts);
  finish("qconv_backward_weight, parts", sink, parts, split);
}

}  // namespace
}  // namespace luq::kernels::cuda::qconv

namespace luq::kernels::cuda {

void add_qconv_backward_weight(Kernels& table) { table.qconv_backward_weight = {qconv::backward_weight, "cuda"}; }

}  // namespace luq::kernels::cuda
