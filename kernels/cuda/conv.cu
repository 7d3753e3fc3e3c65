// Float convolutions on the device, of any shape, in one fixed order of float32 sums: the oracle of libraries that are
// faster, and what runs float layers where there is none.
//
// Groups that are not narrow are implicit matrix products by the tiles of tile.h, one product a group:
//                     rows (64 a tile)     columns (64 a tile)          depth
//   forward           output pixels        output channels of a group   (kh, kw, input channel of the group)
//   backward data     input pixels         input channels of a group    (kh, kw, output channel of the group)
//   backward weight   output channels      (kh, kw, input channel)      output pixels
// Nothing is laid out anew: a thread finds its pixel once, and then counts through the depth 16 steps at a time, in
// mixed radix, without dividing. Blocks of neighbouring columns are neighbours, so that they find their rows in L2.
// Bytes of global memory for each step of depth of a tile: 512 (384 beside bfloat16, as weights are float32; 256 for
// backward weight), for 4096 multiply-adds. With a stride, backward data multiplies zeros: all but 1 of stride_h *
// stride_w of its taps.
//
// The sums over pixels of backward weight are cut into ranges, so that there are blocks for the whole device and no
// chain is longer than 16384; how many depends on the shape alone. A second kernel adds the ranges in order.
//
// Groups narrower than 16 channels would leave most of a tile empty: there a thread has one result (of one range of
// pixels), neighbours in memory for neighbouring threads, and adds in the same order. Depthwise layers read every
// operand in whole lines that way.
//
// Taps outside of the image multiply a zero by the weight in the tiles, and are left out for narrow groups. A row of
// weights and a row of channels have fewer than 2^31 elements, as has an image's extent.
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/tile.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kNarrow = 16;                               // channels of a group from which on tiles pay
constexpr int64_t kBlocks = 1024;                         // as many blocks as fill a device
constexpr int64_t kLeastRange = 256, kMostRange = 16384;  // output pixels

struct Geometry {
  int64_t n;
  int h, w, c, o, kh, kw, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, oh, ow, c_group, o_group;
  int taps;
};

Geometry geometry_of(const ConvShape& s) {
  const auto narrow = [](int64_t x) { return static_cast<int>(x); };
  return {s.n,
          narrow(s.h),
          narrow(s.w),
          narrow(s.c),
          narrow(s.o),
          narrow(s.kh),
          narrow(s.kw),
          narrow(s.stride_h),
          narrow(s.stride_w),
          narrow(s.pad_h),
          narrow(s.pad_w),
          narrow(s.dilation_h),
          narrow(s.dilation_w),
          narrow(s.groups),
          narrow(s.oh()),
          narrow(s.ow()),
          narrow(s.c_group()),
          narrow(s.o_group()),
          narrow(s.kh * s.kw)};
}

// ---- Counting in mixed radix ----------------------------------------------------------------------------------------

// A place among (outer, middle, inner), the last one fastest: pixels (n, y, x), or the depth (ky, kx, channel).
struct Place {
  int64_t outer;
  int middle, inner;
};
struct Radix {
  int middle, inner;
};

__device__ __forceinline__ Place place_of(int64_t index, const Radix& radix) {
  const int64_t inner = radix.inner > 0 ? radix.inner : 1, middle = radix.middle > 0 ? radix.middle : 1;
  const int64_t rest = index / inner;
  return {rest / middle, static_cast<int>(rest % middle), static_cast<int>(index % inner)};
}

__device__ __forceinline__ void move(Place& place, const Place& by, const Radix& radix) {
  place.inner += by.inner;
  place.middle += by.middle;
  place.outer += by.outer;
  if (place.inner >= radix.inner) {
    place.inner -= radix.inner;
    ++place.middle;
  }
  if (place.middle >= radix.middle) {
    place.middle -= radix.middle;
    ++place.outer;
  }
}

__device__ __forceinline__ void move_by_one(Place& place, const Radix& radix) { move(place, {0, 0, 1}, radix); }

// ---- What the sums run over -----------------------------------------------------------------------------------------

enum class Pass { forward, backward_data, backward_weight };

// The pixels of x that an output pixel sees, or (Back) the pixels of dy that an input pixel was seen by.
template <bool Back>
class Seen {
 public:
  // (n, y, x) is the pixel that sees or was seen; first_channel is that of a group of the other's.
  __device__ __forceinline__ Seen(const Geometry& g, const Place& pixel, int first_channel) : g_(g) {
    y_ = Back ? pixel.middle + g.pad_h : pixel.middle * g.stride_h - g.pad_h;
    x_ = Back ? pixel.inner + g.pad_w : pixel.inner * g.stride_w - g.pad_w;
    begin_ = pixel.outer * height() * width() * channels() + first_channel;
  }
  // The element that tap (ky, kx) meets of a channel, or -1.
  __device__ __forceinline__ int64_t find(int ky, int kx, int channel) const {
    int y = Back ? y_ - ky * g_.dilation_h : y_ + ky * g_.dilation_h;
    int x = Back ? x_ - kx * g_.dilation_w : x_ + kx * g_.dilation_w;
    if (y < 0 || x < 0) return -1;
    if (Back) {
      if (y % g_.stride_h != 0 || x % g_.stride_w != 0) return -1;
      y /= g_.stride_h;
      x /= g_.stride_w;
    }
    if (y >= height() || x >= width()) return -1;
    return begin_ + (int64_t{y} * width() + x) * channels() + channel;
  }

 private:
  __device__ __forceinline__ int height() const { return Back ? g_.oh : g_.h; }
  __device__ __forceinline__ int width() const { return Back ? g_.ow : g_.w; }
  __device__ __forceinline__ int channels() const { return Back ? g_.o : g_.c; }

  const Geometry& g_;
  int y_, x_;
  int64_t begin_;
};

// Rows are pixels, the depth is (ky, kx, channel of the group) of what they see: read across.
template <Read R, bool Back>
class PixelRows {
 public:
  __device__ __forceinline__ PixelRows(const Geometry& g, const void* image, int64_t pixel, int64_t pixels, int group,
                                       bool vectors)
      : image_(image),
        seen_(g, place_of(pixel, Back ? Radix{g.h, g.w} : Radix{g.oh, g.ow}), group * (Back ? g.o_group : g.c_group)),
        radix_{g.kw, Back ? g.o_group : g.c_group},
        at_(place_of(across_step(), radix_)),
        step_(place_of(kDepth, radix_)),
        end_(pixel < pixels ? g.kh : 0),
        vectors_(vectors) {}
  __device__ __forceinline__ void load(float (&value)[4]) {
    if (vectors_) {  // the 4 are channels of one tap
      const int64_t i = find(at_);
      load4<R>(image_, i, i < 0 ? 0 : 4, true, value);
    } else {
      Place at = at_;
      for (int k = 0; k < 4; ++k) {
        const int64_t i = find(at);
        value[k] = i < 0 ? 0.0f : load1<R>(image_, i);
        move_by_one(at, radix_);
      }
    }
    move(at_, step_, radix_);
  }
  __device__ __forceinline__ void put(Panel& panel, const float (&value)[4]) const { put_across(panel, value); }

 private:
  __device__ __forceinline__ int64_t find(const Place& at) const {
    return at.outer < end_ ? seen_.find(static_cast<int>(at.outer), at.middle, at.inner) : -1;
  }

  const void* image_;
  Seen<Back> seen_;
  Radix radix_;
  Place at_, step_;
  int end_;
  bool vectors_;
};

// Columns are input channels of a group, the depth is (ky, kx, output channel of the group): weights read along.
template <Read R>
class WeightRows {
 public:
  __device__ __forceinline__ WeightRows(const Geometry& g, const float* w, int column, int group, bool vectors)
      : w_(w + int64_t{group} * g.o_group * g.taps * g.c_group + column),
        g_(g),
        radix_{g.kw, g.o_group},
        at_(place_of(along_step(), radix_)),
        step_(place_of(kDepth, radix_)),
        columns_(g.c_group - column),
        vectors_(vectors) {}
  __device__ __forceinline__ void load(float (&value)[4]) {
    const int64_t tap = at_.outer * g_.kw + at_.middle;
    load4<R>(w_, (at_.inner * int64_t{g_.taps} + tap) * g_.c_group, at_.outer < g_.kh ? columns_ : 0, vectors_, value);
    move(at_, step_, radix_);
  }
  __device__ __forceinline__ void put(Panel& panel, const float (&value)[4]) const { put_along(panel, value); }

 private:
  const float* w_;
  const Geometry& g_;
  Radix radix_;
  Place at_, step_;
  int columns_;
  bool vectors_;
};

// Columns are (ky, kx, input channel of the group), the depth is the output pixels from first on: x read along.
template <Read R>
class PixelDepth {
 public:
  __device__ __forceinline__ PixelDepth(const Geometry& g, const void* x, int64_t first, int pixels, int column,
                                        int group, bool vectors)
      : x_(x),
        g_(g),
        pixels_{g.oh, g.ow},
        columns_{g.kw, g.c_group},
        at_(place_of(first + along_step(), pixels_)),
        step_(place_of(kDepth, pixels_)),
        column_(place_of(column, columns_)),
        left_(pixels - along_step()),
        first_channel_(group * g.c_group),
        vectors_(vectors) {}
  __device__ __forceinline__ void load(float (&value)[4]) {
    const Seen<false> seen(g_, at_, first_channel_);
    if (vectors_) {
      const int64_t i = find(seen, column_);
      load4<R>(x_, i, i < 0 ? 0 : 4, true, value);
    } else {
      Place column = column_;
      for (int k = 0; k < 4; ++k) {
        const int64_t i = find(seen, column);
        value[k] = i < 0 ? 0.0f : load1<R>(x_, i);
        move_by_one(column, columns_);
      }
    }
    move(at_, step_, pixels_);
    left_ -= kDepth;
  }
  __device__ __forceinline__ void put(Panel& panel, const float (&value)[4]) const { put_along(panel, value); }

 private:
  __device__ __forceinline__ int64_t find(const Seen<false>& seen, const Place& column) const {
    if (left_ <= 0 || column.outer >= g_.kh) return -1;
    return seen.find(static_cast<int>(column.outer), column.middle, column.inner);
  }

  const void* x_;
  const Geometry& g_;
  Radix pixels_, columns_;
  Place at_, step_, column_;
  int left_;
  int first_channel_;
  bool vectors_;
};

// ---- Tiles ----------------------------------------------------------------------------------------------------------

struct Task {
  Geometry g;
  const void* a;          // x or dy
  const void* b;          // w, or x for backward weight
  const float* bias;      // or null
  void* out;              // for backward weight float32, a result for each range
  int64_t rows, columns;  // of one group; only pixels are more than an int holds
  int64_t pixels, range;  // backward weight: output pixels, and how many of them a block adds
  int64_t vectors_a, vectors_b, vectors_out;
};

__host__ __device__ constexpr int64_t tiles_of(int64_t extent) { return (extent + kTile - 1) / kTile; }

template <Pass P, bool Bfloat16>
__global__ void __launch_bounds__(kTileThreads, 2) multiply_tiles(Task t) {
  auto& shared = luq::device::shared_memory<Panels>();
  constexpr Read kX = kActivations<Bfloat16>, kW = kWeights<Bfloat16>;
  const Geometry& g = t.g;
  int64_t block = int64_t{blockIdx.x};
  const int columns = static_cast<int>(t.columns), column = static_cast<int>(block % tiles_of(columns)) * kTile;
  block /= tiles_of(columns);
  const int64_t row = block % tiles_of(t.rows) * kTile;
  block /= tiles_of(t.rows);
  const int group = static_cast<int>(block % g.groups);
  const int64_t range = block / g.groups, first = range * t.range;
  float sums[4][4] = {};
  if (P == Pass::forward) {
    const int depth = g.taps * g.c_group;
    const Matrix<int64_t> w{t.b, group * t.columns * depth, depth, columns, depth, t.vectors_b != 0};
    add_product(shared, depth, PixelRows<kX, false>(g, t.a, row + across_row(), t.rows, group, t.vectors_a != 0),
                RowsAcross<kW, int64_t>(w, column), sums);
    if (t.bias != nullptr) {
      for (int j = 0; j < 4; ++j) {
        const int o = column + sums_column() + j;
        const float bias = o < columns ? t.bias[group * t.columns + o] : 0.0f;
        for (int i = 0; i < 4; ++i) sums[i][j] += bias;
      }
    }
  } else if (P == Pass::backward_data) {
    add_product(
        shared, g.taps * g.o_group, PixelRows<kX, true>(g, t.a, row + across_row(), t.rows, group, t.vectors_a != 0),
        WeightRows<kW>(g, static_cast<const float*>(t.b), column + along_column(), group, t.vectors_b != 0), sums);
  } else {
    const int pixels = static_cast<int>(t.pixels - first < t.range ? t.pixels - first : t.range);
    const Matrix<int64_t> dy{t.a, first * g.o + group * t.rows, g.o, pixels, g.o_group, t.vectors_a != 0};
    add_product(shared, pixels, RowsAlong<kX, int64_t>(dy, 0, static_cast<int>(row)),
                PixelDepth<kX>(g, t.b, first, pixels, column + along_column(), group, t.vectors_b != 0), sums);
  }
  if (P == Pass::backward_weight) {
    const int64_t begin = ((range * g.groups + group) * t.rows + row) * columns + column;
    store_sums<false>(t.out, begin, columns, t.rows - row, columns - column, t.vectors_out != 0, sums);
  } else {
    const int64_t stride = g.groups * t.columns, begin = row * stride + group * t.columns + column;
    store_sums<Bfloat16>(t.out, begin, stride, t.rows - row, columns - column, t.vectors_out != 0, sums);
  }
}

// ---- Narrow groups --------------------------------------------------------------------------------------------------

template <bool Bfloat16>
__global__ void __launch_bounds__(kThreads) forward_narrow(Task t) {
  const Geometry& g = t.g;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, pixel = index / g.o;
  if (pixel >= t.rows) return;
  const int o = static_cast<int>(index % g.o);
  const Seen<false> seen(g, place_of(pixel, {g.oh, g.ow}), o / g.o_group * g.c_group);
  int64_t tap = int64_t{o} * g.taps;
  float sum = 0;
  for (int ky = 0; ky < g.kh; ++ky) {
    for (int kx = 0; kx < g.kw; ++kx, ++tap) {
      const int64_t i = seen.find(ky, kx, 0);
      if (i < 0) continue;
      for (int c = 0; c < g.c_group; ++c) {
        sum = fmaf(load1<kActivations<Bfloat16>>(t.a, i + c), load1<kWeights<Bfloat16>>(t.b, tap * g.c_group + c), sum);
      }
    }
  }
  store1<Bfloat16>(t.out, index, t.bias != nullptr ? sum + t.bias[o] : sum);
}

template <bool Bfloat16>
__global__ void __launch_bounds__(kThreads) backward_data_narrow(Task t) {
  const Geometry& g = t.g;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x, pixel = index / g.c;
  if (pixel >= t.rows) return;
  const int c = static_cast<int>(index % g.c), first_o = c / g.c_group * g.o_group;
  const Seen<true> seen(g, place_of(pixel, {g.h, g.w}), first_o);
  float sum = 0;
  for (int ky = 0; ky < g.kh; ++ky) {
    for (int kx = 0; kx < g.kw; ++kx) {
      const int64_t i = seen.find(ky, kx, 0);
      if (i < 0) continue;
      for (int o = 0; o < g.o_group; ++o) {
        const int64_t at = ((first_o + o) * int64_t{g.taps} + ky * g.kw + kx) * g.c_group + c % g.c_group;
        sum = fmaf(load1<kActivations<Bfloat16>>(t.a, i + o), load1<kWeights<Bfloat16>>(t.b, at), sum);
      }
    }
  }
  store1<Bfloat16>(t.out, index, sum);
}

// Thread (tap, o, c) of a range of pixels: neighbours read neighbouring channels of dy and of x.
template <bool Bfloat16>
__global__ void __launch_bounds__(kThreads) backward_weight_narrow(Task t) {
  const Geometry& g = t.g;
  const int64_t weights = int64_t{g.o} * g.taps * g.c_group, blocks = (weights + kThreads - 1) / kThreads;
  const int64_t index = int64_t{blockIdx.x} % blocks * kThreads + threadIdx.x, range = int64_t{blockIdx.x} / blocks;
  if (index >= weights) return;
  const Place at = place_of(index, {g.o, g.c_group});
  const int ky = static_cast<int>(at.outer) / g.kw, kx = static_cast<int>(at.outer) % g.kw;
  const int first_channel = at.middle / g.o_group * g.c_group;
  const int64_t first = range * t.range, end = first + t.range < t.pixels ? first + t.range : t.pixels;
  Place pixel = place_of(first, {g.oh, g.ow});
  float sum = 0;
  for (int64_t p = first; p < end; ++p) {
    const int64_t i = Seen<false>(g, pixel, first_channel).find(ky, kx, at.inner);
    if (i >= 0) {
      sum = fmaf(load1<kActivations<Bfloat16>>(t.a, p * g.o + at.middle), load1<kActivations<Bfloat16>>(t.b, i), sum);
    }
    move_by_one(pixel, {g.oh, g.ow});
  }
  static_cast<float*>(t.out)[range * weights + (at.middle * int64_t{g.taps} + at.outer) * g.c_group + at.inner] = sum;
}

// dw = the ranges' sums, one after the other.
__global__ void __launch_bounds__(kThreads) add_ranges(const float* sums, int64_t ranges, int64_t count, float* dw) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= count) return;
  float sum = sums[index];
  for (int64_t range = 1; range < ranges; ++range) sum += sums[range * count + index];
  dw[index] = sum;
}

// ---- Entries --------------------------------------------------------------------------------------------------------

bool narrow_groups(const ConvShape& s) { return s.groups > 1 && s.c_group() < kNarrow && s.o_group() < kNarrow; }

int64_t tile_blocks(const ConvShape& s, const Task& t) { return tiles_of(t.rows) * tiles_of(t.columns) * s.groups; }

LaunchShape tile_launch(int64_t blocks) {
  return {.blocks = blocks, .threads = kTileThreads, .shared_bytes = sizeof(Panels)};
}
LaunchShape narrow_launch(int64_t results) { return {.blocks = blocks_for(results, kThreads), .threads = kThreads}; }

void conv_forward(const ConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const bool four_c = s.c_group() % 4 == 0, four_o = s.o_group() % 4 == 0;
  const Task t{.g = geometry_of(s),
               .a = a.x.data,
               .b = a.w,
               .bias = a.bias,
               .out = a.y.data,
               .rows = s.n * s.oh() * s.ow(),
               .columns = s.o_group(),
               .pixels = 0,
               .range = 0,
               .vectors_a = four_c && aligned_to_4(a.x.data, a.x.bfloat16),
               .vectors_b = s.kh * s.kw * s.c_group() % 4 == 0 && aligned_to_4(a.w, false),
               .vectors_out = four_o && aligned_to_4(a.y.data, a.y.bfloat16)};
  if (narrow_groups(s)) {
    launch("conv_forward, narrow", a.x.bfloat16 ? forward_narrow<true> : forward_narrow<false>,
           narrow_launch(s.y_size()), t);
  } else {
    launch("conv_forward", a.x.bfloat16 ? multiply_tiles<Pass::forward, true> : multiply_tiles<Pass::forward, false>,
           tile_launch(tile_blocks(s, t)), t);
  }
}

void conv_backward_data(const ConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const bool four_c = s.c_group() % 4 == 0, four_o = s.o_group() % 4 == 0;
  const Task t{.g = geometry_of(s),
               .a = a.dy.data,
               .b = a.w,
               .bias = nullptr,
               .out = a.dx.data,
               .rows = s.n * s.h * s.w,
               .columns = s.c_group(),
               .pixels = 0,
               .range = 0,
               .vectors_a = four_o && aligned_to_4(a.dy.data, a.dy.bfloat16),
               .vectors_b = four_c && aligned_to_4(a.w, false),
               .vectors_out = four_c && aligned_to_4(a.dx.data, a.dx.bfloat16)};
  if (narrow_groups(s)) {
    launch("conv_backward_data, narrow", a.dy.bfloat16 ? backward_data_narrow<true> : backward_data_narrow<false>,
           narrow_launch(s.x_size()), t);
  } else {
    launch("conv_backward_data",
           a.dy.bfloat16 ? multiply_tiles<Pass::backward_data, true> : multiply_tiles<Pass::backward_data, false>,
           tile_launch(tile_blocks(s, t)), t);
  }
}

// Output pixels that one block adds, when so many blocks add a range of them.
int64_t range_of(int64_t pixels, int64_t blocks) {
  if (blocks == 0 || pixels == 0) return kMostRange;
  int64_t ranges = blocks_for(kBlocks, blocks);
  const int64_t most = blocks_for(pixels, kLeastRange), least = blocks_for(pixels, kMostRange);
  if (ranges > most) ranges = most;
  if (ranges < least) ranges = least;
  return blocks_for(blocks_for(pixels, ranges), kDepth) * kDepth;
}

void conv_backward_weight(const ConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const bool four_c = s.c_group() % 4 == 0, four_o = s.o_group() % 4 == 0, narrow = narrow_groups(s);
  Task t{.g = geometry_of(s),
         .a = a.dy.data,
         .b = a.x.data,
         .bias = nullptr,
         .out = a.dw,
         .rows = s.o_group(),
         .columns = s.kh * s.kw * s.c_group(),
         .pixels = s.n * s.oh() * s.ow(),
         .range = 0,
         .vectors_a = four_o && aligned_to_4(a.dy.data, a.dy.bfloat16),
         .vectors_b = four_c && aligned_to_4(a.x.data, a.x.bfloat16),
         .vectors_out = 0};
  const int64_t blocks = narrow ? blocks_for(s.w_size(), kThreads) : tile_blocks(s, t);
  t.range = range_of(t.pixels, blocks);
  const int64_t ranges = t.pixels == 0 ? 1 : blocks_for(t.pixels, t.range);
  if (ranges > 1) t.out = scratch_of<float>(ranges * s.w_size());
  t.vectors_out = t.columns % 4 == 0 && aligned_to_4(t.out, false);
  if (narrow) {
    launch("conv_backward_weight, narrow", a.x.bfloat16 ? backward_weight_narrow<true> : backward_weight_narrow<false>,
           {.blocks = blocks * ranges, .threads = kThreads}, t);
  } else {
    launch("conv_backward_weight",
           a.x.bfloat16 ? multiply_tiles<Pass::backward_weight, true> : multiply_tiles<Pass::backward_weight, false>,
           tile_launch(blocks * ranges), t);
  }
  if (ranges > 1) {
    launch("conv_backward_weight, ranges", add_ranges, narrow_launch(s.w_size()), static_cast<const float*>(t.out),
           ranges, s.w_size(), a.dw);
  }
}

}  // namespace

void add_conv(Kernels& table) {
  table.conv_forward = {conv_forward, "cuda"};
  table.conv_backward_data = {conv_backward_data, "cuda"};
  table.conv_backward_weight = {conv_backward_weight, "cuda"};
}

}  // namespace luq::kernels::cuda
