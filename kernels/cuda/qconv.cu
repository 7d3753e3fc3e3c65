// The three 4-bit matmuls on the device: products of int8 on tensor cores (mma.sync m16n8k32), added in int32.
//
// Each is an implicit matrix product, cut into tiles of results that a block owns. Forward: patches of x times rows of
// w. Backward-data: patches of dy times w transposed, a product for each phase of the stride (qconv_plan.h).
// Backward-weight: columns of dy times patches of x, along the pixels. K may be cut into parts whose sums go to scratch
// memory as int32; a second kernel adds them in int64, in order. Parts are also what keeps a sum in int32 when K is
// longer than max_int32_terms.
//
// Operands lie in chunks of 32 codes, 16 bytes, of which every one has a pixel (or a row of w) and a tap. cp.async
// brings chunks to shared memory as they are, or zeros where the tap is outside of the image; kStages tiles of 64 codes
// along K are on their way. A tile is decoded to int8 while the one before is multiplied, so an element is decoded once
// in a block. Backward-weight transposes four pixels by eight channels in registers before it decodes. Instructions for
// 8 codes: 3 for uint4, 7 for int4, 13 for fp4, and in backward-weight 14 for each; two or four stores of shared
// memory.
//
// Results go through shared memory, so that a lane stores four neighbours: 16 bytes of float32, 8 of bfloat16.
//
// Operands whose groups are not whole chunks, or that are not aligned to 16 bytes, are packed again into scratch memory
// first, with zeros behind each group; narrow groups are merged into a wide one whose weights are 0 between groups;
// backward-data packs w transposed. Bytes: half of what an operand has, read and written once more; for w that is
// little.
//
// Bytes of one block of 128 x 128 and one tile along K: 8 KiB from global memory for 2^20 multiplications.
//
// Shapes with nothing to add, or with indexes beyond int32, take kernels with a thread for each result.
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
  Format format;
  uint8_t unused[7];
};

Values values_of(Format format) {
  Values values{.low = {}, .high = {}, .format = format, .unused = {}};
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
  int quads;  // four neighbours may be written at once
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

__device__ void store_one(const Sink& sink, int64_t index, int64_t channel, int sum) {
  if (sink.partial != nullptr) {
    sink.partial[index] = sum;
  } else {
    store(sink, index, channel, sum);
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
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
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
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
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
      const uint8_t* w = in.b + ((first_o * s.kh + ky) * s.kw + kx) * in.b_row;
      for (int64_t o = first_o; o < first_o + og; ++o, w += s.kh * s.kw * in.b_row) {
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

// ---- Operands made ready --------------------------------------------------------------------------------------------

// Rows of `channels` codes become, for each group of `width`, whole chunks, filled with 0: a thread has 8 codes.
struct Rows {
  const uint8_t* from;
  uint32_t* to;
  int64_t rows, row_bytes;
  int groups, width, words, unused;
};

__global__ void __launch_bounds__(kThreads) pack_rows(Rows r) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int words = r.groups * r.words;
  if (index >= r.rows * words) return;
  const uint8_t* row = r.from + index / words * r.row_bytes;
  const int word = static_cast<int>(index % words), group = word / r.words, first = word % r.words * 8;
  uint32_t packed = 0;
  for (int i = 0; i < 8; ++i) {
    if (first + i >= r.width) continue;
    packed |= static_cast<uint32_t>(load_code(row, int64_t{group} * r.width + first + i)) << (4 * i);
  }
  r.to[index] = packed;
}

// Weights (o, taps, c/groups) become (wide group, row, tap, word), where the rows are outputs and a row's codes inputs,
// or, transposed, the other way round; 0 between groups that are merged. A thread has 8 codes.
struct Weights {
  const uint8_t* from;
  uint32_t* to;
  int64_t row_bytes;   // of c/groups codes
  int groups, merged;  // wide groups, and groups in each
  int c, o;            // of a group
  int taps, words, transposed, unused;
};

__global__ void __launch_bounds__(kThreads) pack_weights(Weights w) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int rows = w.merged * (w.transposed != 0 ? w.c : w.o), width = w.merged * (w.transposed != 0 ? w.o : w.c);
  if (index >= int64_t{w.groups} * rows * w.taps * w.words) return;
  // Neighbouring threads read neighbouring bytes.
  int64_t rest = index;
  const auto next = [&](int extent) {
    const auto digit = static_cast<int>(rest % extent);
    rest /= extent;
    return digit;
  };
  int row = w.transposed != 0 ? next(rows) : 0;
  const int word = next(w.words), tap = next(w.taps);
  if (w.transposed == 0) row = next(rows);
  const auto group = static_cast<int>(rest);
  uint32_t packed = 0;
  for (int i = 0; i < 8; ++i) {
    const int column = word * 8 + i;
    const int c = w.transposed != 0 ? row : column, o = w.transposed != 0 ? column : row;
    if (column >= width || c / w.c != o / w.o) continue;
    const uint8_t* codes = w.from + ((int64_t{group} * w.merged * w.o + o) * w.taps + tap) * w.row_bytes;
    packed |= load_code(codes, c % w.c) << (4 * i);
  }
  w.to[((int64_t{group} * rows + row) * w.taps + tap) * w.words + word] = packed;
}

// ---- Products on tensor cores ---------------------------------------------------------------------------------------

// A tile of int8 has 64 bytes a row, in four pieces of 16. Where piece `piece` of a row lies: rows 2 i and 2 i + 1 fill
// the banks, and neither the 8 rows that ldmatrix reads nor those that one store writes lie in the same ones.
__device__ int piece_at(int row, int piece) { return row * 4 + (piece ^ (((row >> 1) ^ (row >> 3)) & 3)); }

// 8 codes, the first in the lowest bits, as int8. The permutation takes selectors of three bits for a byte, and a
// fourth that makes it all of the byte's sign: the sign of a nibble chooses the half of the table.
__device__ void decode8(const Values& values, uint32_t codes, uint32_t& first, uint32_t& second) {
  const uint32_t index = codes & 0x77777777u, signs = codes << 4;
  const uint32_t high0 = luq::device::permute_bytes(codes, signs, 0x9d8c),
                 high1 = luq::device::permute_bytes(codes, signs, 0xbfae);
  first = (luq::device::permute_bytes(values.low[0], values.low[1], index) & ~high0) |
          (luq::device::permute_bytes(values.high[0], values.high[1], index) & high0);
  second = (luq::device::permute_bytes(values.low[0], values.low[1], index >> 16) & ~high1) |
           (luq::device::permute_bytes(values.high[0], values.high[1], index >> 16) & high1);
}

// 8 codes as int8, those at even places in one word and those at odd places in another: the order along K is free where
// both operands have the same. Integers need no table; with 0x88 instead of 0 above each byte's code no byte borrows.
__device__ void decode8_apart(const Values& values, uint32_t codes, uint32_t& even, uint32_t& odd) {
  constexpr uint32_t kCode = 0x0f0f0f0fu;
  if (values.format == Format::fp4) {
    uint32_t first, second;
    decode8(values, codes, first, second);
    even = luq::device::permute_bytes(first, second, 0x6420);
    odd = luq::device::permute_bytes(first, second, 0x7531);
    return;
  }
  even = codes & kCode;
  odd = codes >> 4 & kCode;
  if (values.format == Format::uint4) return;
  even = ((even ^ 0x88888888u) - 0x08080808u) ^ 0x80808080u;
  odd = ((odd ^ 0x88888888u) - 0x08080808u) ^ 0x80808080u;
}

// A block's tile and its warps'.
template <int BM, int BN, int WM, int WN>
struct Shape {
  static constexpr int kM = BM, kN = BN, kWarpM = WM, kWarpN = WN, kWarpsN = BN / WN;
  static constexpr int kThreads = BM / WM * kWarpsN * 32;
  static constexpr int kItemsM = (BM * 2 + kThreads - 1) / kThreads, kItemsN = (BN * 2 + kThreads - 1) / kThreads;
};

// Of a warp's results, 16 rows of 32 on their way out; rows apart such that neither their stores nor loads meet in a
// bank.
struct Strip {
  int values[16][40];
};

// Where a row or a column of the product belongs: offset -1 is nowhere; `part` of both must be the same.
struct Place {
  int64_t offset;
  int part, channel;
};

template <typename S>
union Shared {
  struct {
    uint4 raw[kStages][(S::kM + S::kN) * 2];  // packed codes, 16 bytes an item: first those of A
    uint4 values[2][(S::kM + S::kN) * 4];     // int8, rows of A, then of B
  } in;
  struct {
    Place rows[S::kM], columns[S::kN];
    Strip strips[S::kThreads / 32];
  } out;
};

// A: patches of an image; B: rows of weights. Along K lie taps, and in a tap chunks of channels, so a row of a tile is
// two chunks, and thread t has the chunks t % 2 of its rows: it copies them and it decodes them.
struct Patches {
  const uint8_t *a, *b;
  Values a_values, b_values;
  Axis y, x;
  int64_t a_pixel, b_row, b_group;  // bytes
  int m, n;                         // of one group
  int chunks, kernel_w;             // chunks of a tap
  int channels, unused;             // of the output
};

template <typename S>
class PatchGather {
 public:
  using Parameters = Patches;

  __device__ PatchGather(const Patches& p, int group, int m_tile, int n_tile, int k_tile) : p_(p), group_(group) {
    const int t = static_cast<int>(threadIdx.x);
    for (int i = 0; i < S::kItemsM; ++i) {
      const int m = m_tile * S::kM + (t + i * S::kThreads) / 2;
      const int column = m % p.x.rows, row = m / p.x.rows % p.y.rows, image = m / p.x.rows / p.y.rows;
      y_[i] = m < p.m ? row * p.y.step + p.y.offset : kNowhere;
      x_[i] = column * p.x.step + p.x.offset;
      pixel_[i] = m < p.m ? (image * p.y.source + y_[i]) * p.x.source + x_[i] : 0;
    }
    first_n_ = n_tile * S::kN;
    int chunk = k_tile * (kTileK / kChunk) + t % 2;
    chunk_ = chunk % p.chunks;
    chunk /= p.chunks;
    tap_x_ = p.x.taps > 0 ? chunk % p.x.taps : 0;
    tap_y_ = p.x.taps > 0 ? chunk / p.x.taps : 0;
  }

  // The next tile.
  __device__ void copy(uint4* raw) {
    const int t = static_cast<int>(threadIdx.x);
    const bool any = tap_y_ < p_.y.taps;
    const int down = tap_y_ * p_.y.offset_step, right = tap_x_ * p_.x.offset_step;
    const uint8_t* a = p_.a + (int64_t{group_} * p_.chunks + chunk_) * 16;
    for (int i = 0; i < S::kItemsM; ++i) {
      const bool inside = any && static_cast<unsigned>(y_[i] + down) < static_cast<unsigned>(p_.y.source) &&
                          static_cast<unsigned>(x_[i] + right) < static_cast<unsigned>(p_.x.source);
      const int64_t pixel = inside ? pixel_[i] + down * p_.x.source + right : 0;
      luq::device::copy_async16(raw + t + i * S::kThreads, a + pixel * p_.a_pixel, inside ? 16 : 0);
    }
    const int tap = (p_.y.tap_first + tap_y_ * p_.y.tap_step) * p_.kernel_w + p_.x.tap_first + tap_x_ * p_.x.tap_step;
    const uint8_t* b = p_.b + group_ * p_.b_group + (int64_t{tap} * p_.chunks + chunk_) * 16;
    for (int i = 0; i < S::kItemsN; ++i) {
      const int item = t + i * S::kThreads, n = first_n_ + item / 2;
      if (item >= S::kN * 2) continue;
      const bool inside = any && n < p_.n;
      luq::device::copy_async16(raw + S::kM * 2 + item, inside ? b + n * p_.b_row : p_.b, inside ? 16 : 0);
    }
    chunk_ += kTileK / kChunk;
    while (chunk_ >= p_.chunks) {
      chunk_ -= p_.chunks;
      if (++tap_x_ < p_.x.taps) continue;
      tap_x_ = 0;
      ++tap_y_;
    }
  }

  __device__ void decode(const uint4* raw, uint4* values) const {
    const int t = static_cast<int>(threadIdx.x);
    for (int i = 0; i < S::kItemsM; ++i) decode_item(p_.a_values, raw, values, t + i * S::kThreads);
    for (int i = 0; i < S::kItemsN; ++i) {
      const int item = t + i * S::kThreads;
      if (item < S::kN * 2) decode_item(p_.b_values, raw + S::kM * 2, values + S::kM * 4, item);
    }
  }

  __device__ Place row(int m) const {
    if (m >= p_.m) return {-1, 0, 0};
    const int column = m % p_.x.rows, row = m / p_.x.rows % p_.y.rows, image = m / p_.x.rows / p_.y.rows;
    const int64_t pixel = (int64_t{image} * p_.y.out + p_.y.out_first + row * p_.y.out_step) * p_.x.out +
                          p_.x.out_first + column * p_.x.out_step;
    return {pixel * p_.channels + group_ * p_.n, 0, 0};
  }
  __device__ Place column(int n) const { return {n < p_.n ? n : -1, 0, group_ * p_.n + n}; }

 private:
  static constexpr int kNowhere = -(1 << 30);

  __device__ static void decode_item(const Values& table, const uint4* raw, uint4* values, int item) {
    const uint4 codes = raw[item];
    uint4 first, second;
    decode8_apart(table, codes.x, first.x, first.y);
    decode8_apart(table, codes.y, first.z, first.w);
    decode8_apart(table, codes.z, second.x, second.y);
    decode8_apart(table, codes.w, second.z, second.w);
    const int row = item / 2, piece = item % 2 * 2;
    values[piece_at(row, piece)] = first;
    values[piece_at(row, piece + 1)] = second;
  }

  const Patches& p_;
  int group_, first_n_;
  int y_[S::kItemsM], x_[S::kItemsM], pixel_[S::kItemsM];
  int chunk_, tap_x_, tap_y_;
};

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

template <typename S>
__device__ void multiply(const uint4* values, int (&sum)[S::kWarpM / 16][S::kWarpN / 8][4]) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int first_m = warp / S::kWarpsN * S::kWarpM, first_n = warp % S::kWarpsN * S::kWarpN;
  LUQ_UNROLL
  for (int step = 0; step < kTileK / 32; ++step) {
    unsigned a[S::kWarpM / 16][4], b[S::kWarpN / 16][4];
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      luq::device::load_matrix_x4(a[i], values + piece_at(first_m + i * 16 + lane % 16, step * 2 + lane / 16));
    }
    for (int j = 0; j < S::kWarpN / 16; ++j) {
      const int row = first_n + j * 16 + lane % 8 + lane / 16 * 8;
      luq::device::load_matrix_x4(b[j], values + S::kM * 4 + piece_at(row, step * 2 + lane / 8 % 2));
    }
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      for (int j = 0; j < S::kWarpN / 8; ++j) {
        const unsigned column[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
        luq::device::mma_s8(sum[i][j], a[i], column, sum[i][j]);
      }
    }
  }
}

// Four neighbours, where the sink allows that.
__device__ void store_quad(const Sink& sink, int64_t index, int channel, const int (&sum)[4]) {
  if (sink.partial != nullptr) {
    *reinterpret_cast<uint4*>(sink.partial + index) =
        make_uint4(static_cast<unsigned>(sum[0]), static_cast<unsigned>(sum[1]), static_cast<unsigned>(sum[2]),
                   static_cast<unsigned>(sum[3]));
    return;
  }
  float value[4] = {};
  if (sink.bfloat16 != 0) {
    auto* y = reinterpret_cast<uint2*>(static_cast<BFloat16*>(sink.y) + index);
    if (sink.accumulate != 0) {
      const uint2 old = *y;
      value[0] = bits_float(old.x << 16);
      value[1] = bits_float(old.x & 0xffff0000u);
      value[2] = bits_float(old.y << 16);
      value[3] = bits_float(old.y & 0xffff0000u);
    }
    uint32_t bits[4];
    for (int k = 0; k < 4; ++k) {
      bits[k] = to_bfloat16(finished(sink, channel + k, static_cast<float>(sum[k]), value[k])).bits;
    }
    *y = make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16);
    return;
  }
  auto* y = reinterpret_cast<float4*>(static_cast<float*>(sink.y) + index);
  if (sink.accumulate != 0) {
    const float4 old = *y;
    value[0] = old.x;
    value[1] = old.y;
    value[2] = old.z;
    value[3] = old.w;
  }
  for (int k = 0; k < 4; ++k) value[k] = finished(sink, channel + k, static_cast<float>(sum[k]), value[k]);
  *y = make_float4(value[0], value[1], value[2], value[3]);
}

// A strip of 16 rows of 32, whose places are given: a lane has four neighbours of every fourth row.
__device__ void store_strip(const Sink& sink, const Strip& strip, const Place* rows, const Place* columns) {
  const int lane = static_cast<int>(threadIdx.x % 32), first = lane % 8 * 4;
  for (int i = lane / 8; i < 16; i += 4) {
    const Place row = rows[i];
    if (row.offset < 0) continue;
    const uint4 words = *reinterpret_cast<const uint4*>(&strip.values[i][first]);
    const int sum[4] = {static_cast<int>(words.x), static_cast<int>(words.y), static_cast<int>(words.z),
                        static_cast<int>(words.w)};
    if (sink.quads != 0) {
      const Place column = columns[first];
      if (column.offset >= 0 && column.part == row.part) {
        store_quad(sink, row.offset + column.offset, column.channel, sum);
      }
      continue;
    }
    for (int k = 0; k < 4; ++k) {
      const Place column = columns[first + k];
      if (column.offset >= 0 && column.part == row.part) {
        store_one(sink, row.offset + column.offset, column.channel, sum[k]);
      }
    }
  }
}

struct Grid {
  int m_tiles, n_tiles, splits, split_tiles, k_tiles, unused;
};

// One block: a tile of the results of one group, of one part of K.
template <typename S, template <typename> typename Gather>
__global__ void __launch_bounds__(S::kThreads, 512 / S::kThreads)
    product(typename Gather<S>::Parameters parameters, Grid grid, Sink sink) {
  auto& shared = luq::device::shared_memory<Shared<S>>();
  int block = static_cast<int>(blockIdx.x);
  const int n_tile = block % grid.n_tiles;
  block /= grid.n_tiles;
  const int m_tile = block % grid.m_tiles;
  block /= grid.m_tiles;
  const int split = block % grid.splits, group = block / grid.splits;
  const int first = split * grid.split_tiles;
  const int end = first + grid.split_tiles < grid.k_tiles ? first + grid.split_tiles : grid.k_tiles;
  Gather<S> gather(parameters, group, m_tile, n_tile, first);
  int sum[S::kWarpM / 16][S::kWarpN / 8][4] = {};

  // Tile k + kStages is copied and tile k + 1 decoded while tile k is multiplied.
  for (int stage = 0; stage < kStages; ++stage) {
    if (first + stage < end) gather.copy(shared.in.raw[stage]);
    luq::device::commit_copies();
  }
  luq::device::wait_for_copies<kStages - 1>();
  __syncthreads();
  if (first < end) gather.decode(shared.in.raw[0], shared.in.values[0]);
  int stage = 0, half = 0;
  for (int k = first; k < end; ++k) {
    luq::device::wait_for_copies<kStages - 2>();
    __syncthreads();
    if (k + kStages < end) gather.copy(shared.in.raw[stage]);
    luq::device::commit_copies();
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (k + 1 < end) gather.decode(shared.in.raw[stage], shared.in.values[half ^ 1]);
    multiply<S>(shared.in.values[half], sum);
    half ^= 1;
  }

  // Results leave by way of shared memory, so that neighbours are stored together.
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  if (t < S::kM) shared.out.rows[t] = gather.row(m_tile * S::kM + t);
  if (t < S::kN) shared.out.columns[t] = gather.column(n_tile * S::kN + t);
  __syncthreads();
  if (sink.partial != nullptr) sink.partial += split * sink.size;
  static_assert(S::kWarpN == 32 && S::kM <= S::kThreads && S::kN <= S::kThreads);
  const int first_m = warp / S::kWarpsN * S::kWarpM, first_n = warp % S::kWarpsN * S::kWarpN;
  Strip& strip = shared.out.strips[warp];
  LUQ_UNROLL
  for (int i = 0; i < S::kWarpM / 16; ++i) {
    LUQ_UNROLL
    for (int j = 0; j < S::kWarpN / 8; ++j) {
      for (int lower = 0; lower < 2; ++lower) {
        *reinterpret_cast<uint2*>(&strip.values[lane / 4 + lower * 8][j * 8 + lane % 4 * 2]) =
            make_uint2(static_cast<unsigned>(sum[i][j][lower * 2]), static_cast<unsigned>(sum[i][j][lower * 2 + 1]));
      }
    }
    __syncwarp();
    store_strip(sink, strip, shared.out.rows + first_m + i * 16, shared.out.columns + first_n);
    __syncwarp();
  }
}

// Adds the parts, in their order.
__global__ void __launch_bounds__(kThreads) add_parts(Sink sink, const int* partial, int64_t splits, int64_t channels) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  int64_t sum = 0;
  for (int64_t split = 0; split < splits; ++split) sum += partial[split * sink.size + index];
  store(sink, index, index % channels, sum);
}

// ---- The host's side ------------------------------------------------------------------------------------------------

template <typename S, template <typename> typename Gather>
void run_product(const char* name, const typename Gather<S>::Parameters& parameters, const Grid& grid, int64_t groups,
                 const Sink& sink) {
  constexpr auto kernel = product<S, Gather>;
  constexpr auto kBytes = static_cast<int>(sizeof(Shared<S>));
  if (kBytes > 48 << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), name);
  }
  const int64_t blocks = groups * grid.splits * grid.m_tiles * grid.n_tiles;
  launch(name, kernel, {.blocks = blocks, .threads = S::kThreads, .shared_bytes = kBytes}, parameters, grid, sink);
}

template <template <typename> typename Gather, typename Parameters>
void run_tile(Tile tile, const char* name, const Parameters& parameters, const Grid& grid, int64_t groups,
              const Sink& sink) {
  switch (tile) {
    case Tile::m128n128:
      return run_product<Shape<128, 128, 64, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m128n64:
      return run_product<Shape<128, 64, 32, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m128n32:
      return run_product<Shape<128, 32, 32, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m64n64:
      return run_product<Shape<64, 64, 32, 32>, Gather>(name, parameters, grid, groups, sink);
  }
}

Grid grid_of(Tile tile, int64_t m, int64_t n, int64_t k_tiles, int64_t splits) {
  return {.m_tiles = static_cast<int>(divide_up(m, tile_m(tile))),
          .n_tiles = static_cast<int>(divide_up(n, tile_n(tile))),
          .splits = static_cast<int>(splits),
          .split_tiles = static_cast<int>(divide_up(k_tiles, splits)),
          .k_tiles = static_cast<int>(k_tiles),
          .unused = 0};
}

bool aligned(const void* pointer, uintptr_t bytes = 16) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// Parts of the scratch memory, which is asked for once.
class Layout {
 public:
  // Where `bytes` begin.
  int64_t add(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  void allocate() { memory_ = bytes_ > 0 ? static_cast<uint8_t*>(scratch(bytes_)) : nullptr; }
  uint8_t* at(int64_t offset) const { return memory_ + offset; }

 private:
  int64_t bytes_ = 0;
  uint8_t* memory_ = nullptr;
};

// Activations whose groups are whole chunks: as they lie, or packed again into scratch memory.
class Activations {
 public:
  Activations(const uint8_t* codes, int64_t rows, int64_t channels, int64_t groups, Layout& layout)
      : codes_(codes), rows_(rows), channels_(channels), groups_(groups), chunks_(chunks_of(channels / groups)) {
    packs_ = channels / groups % kChunk != 0 || !aligned(codes);
    if (packs_) at_ = layout.add(rows * row_bytes());
  }
  int64_t chunks() const { return chunks_; }
  int64_t row_bytes() const { return groups_ * chunks_ * 16; }
  const uint8_t* ready(const Layout& layout) const {
    if (!packs_) return codes_;
    const Rows r{.from = codes_,
                 .to = reinterpret_cast<uint32_t*>(layout.at(at_)),
                 .rows = rows_,
                 .row_bytes = packed_row_bytes(channels_),
                 .groups = static_cast<int>(groups_),
                 .width = static_cast<int>(channels_ / groups_),
                 .words = static_cast<int>(chunks_ * 4),
                 .unused = 0};
    const int64_t words = rows_ * groups_ * chunks_ * 4;
    launch("qconv, packing rows", pack_rows, {.blocks = blocks_for(words, kThreads), .threads = kThreads}, r);
    return layout.at(at_);
  }

 private:
  const uint8_t* codes_;
  int64_t rows_, channels_, groups_, chunks_, at_ = 0;
  bool packs_ = false;
};

// Rows of weights likewise.
class WeightRows {
 public:
  WeightRows(const uint8_t* codes, const ConvShape& s, int64_t merged, bool transposed, Layout& layout)
      : codes_(codes), s_(s), merged_(merged), transposed_(transposed) {
    rows_ = merged * (transposed ? s.c_group() : s.o_group());
    chunks_ = chunks_of(merged * (transposed ? s.o_group() : s.c_group()));
    packs_ = transposed || merged > 1 || s.c_group() % kChunk != 0 || !aligned(codes);
    if (packs_) at_ = layout.add(s.groups / merged * group_bytes());
  }
  int64_t row_bytes() const { return s_.kh * s_.kw * chunks_ * 16; }
  int64_t group_bytes() const { return rows_ * row_bytes(); }
  const uint8_t* ready(const Layout& layout) const {
    if (!packs_) return codes_;
    const Weights w{.from = codes_,
                    .to = reinterpret_cast<uint32_t*>(layout.at(at_)),
                    .row_bytes = packed_row_bytes(s_.c_group()),
                    .groups = static_cast<int>(s_.groups / merged_),
                    .merged = static_cast<int>(merged_),
                    .c = static_cast<int>(s_.c_group()),
                    .o = static_cast<int>(s_.o_group()),
                    .taps = static_cast<int>(s_.kh * s_.kw),
                    .words = static_cast<int>(chunks_ * 4),
                    .transposed = transposed_,
                    .unused = 0};
    const int64_t words = s_.groups / merged_ * group_bytes() / 4;
    launch("qconv, packing weights", pack_weights, {.blocks = blocks_for(words, kThreads), .threads = kThreads}, w);
    return layout.at(at_);
  }

 private:
  const uint8_t* codes_;
  ConvShape s_;
  int64_t merged_, rows_ = 0, chunks_ = 0, at_ = 0;
  bool transposed_, packs_ = false;
};

Sink sink_of(Floats y, int64_t* sums, float scale, const float* bias, bool accumulate, int64_t size) {
  return {.y = y.data,
          .sums = sums,
          .partial = nullptr,
          .bias = bias,
          .size = size,
          .scale = scale,
          .bfloat16 = y.bfloat16,
          .accumulate = accumulate,
          .quads = 0};
}

// The sink of a product; `neighbours`: groups of so many results lie side by side, from multiples of it on.
Sink sink_of_product(const Sink& sink, int64_t neighbours, const Split& split, int64_t partials, const Layout& layout) {
  Sink result = sink;
  const bool quads = neighbours % 4 == 0;
  if (split.splits == 1) {
    result.quads = quads && sink.sums == nullptr && aligned(sink.y, sink.bfloat16 != 0 ? 8 : 16);
  } else {
    result.partial = reinterpret_cast<int*>(layout.at(partials));
    result.quads = quads;
  }
  return result;
}

void finish(const char* name, const Sink& sink, const Sink& with_parts, const Split& split, int64_t channels) {
  if (split.splits == 1) return;
  launch(name, add_parts, {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, sink, with_parts.partial,
         split.splits, channels);
}

void run_any(const char* name, void (*kernel)(ConvShape, int64_t, int64_t, Operands, Sink), const ConvShape& s,
             const Operands& in, const Sink& sink) {
  launch(name, kernel, {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, s, s.oh(), s.ow(), in, sink);
}

void forward(const QConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a.y, a.sums, a.scale, a.bias, false, s.y_size());
  const Values x_values = values_of(a.x_format), w_values = values_of(a.w_format);
  if (!fits(s)) {
    const Operands in{a.x, a.w, x_values, w_values, packed_row_bytes(s.c), packed_row_bytes(s.c_group())};
    return run_any("qconv_forward", forward_any, s, in, sink);
  }
  const int64_t merged = merged_groups(s), groups = s.groups / merged;
  const int64_t m = s.n * s.oh() * s.ow(), n = merged * s.o_group();
  Layout layout;
  const Activations x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const WeightRows w(a.w, s, merged, false, layout);
  const int64_t k_tiles = divide_up(s.kh * s.kw * x.chunks() * kChunk, kTileK);
  const Tile tile = choose_tile(groups, m, n);
  const Split split =
      choose_split(groups * tiles_of(tile, m, n), k_tiles, max_int32_terms(a.x_format, a.w_format), sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
  const Patches p{.a = x.ready(layout),
                  .b = w.ready(layout),
                  .a_values = x_values,
                  .b_values = w_values,
                  .y = forward_axis(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h),
                  .x = forward_axis(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w),
                  .a_pixel = x.row_bytes(),
                  .b_row = w.row_bytes(),
                  .b_group = w.group_bytes(),
                  .m = static_cast<int>(m),
                  .n = static_cast<int>(n),
                  .chunks = static_cast<int>(x.chunks()),
                  .kernel_w = static_cast<int>(s.kw),
                  .channels = static_cast<int>(s.o),
                  .unused = 0};
  const Sink parts = sink_of_product(sink, n, split, partials, layout);
  run_tile<PatchGather>(tile, "qconv_forward", p, grid_of(tile, m, n, k_tiles, split.splits), groups, parts);
  finish("qconv_forward, parts", sink, parts, split, s.o);
}

void backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a.dx, a.sums, a.scale, nullptr, a.accumulate, s.x_size());
  const Values dy_values = values_of(a.dy_format), w_values = values_of(a.w_format);
  if (!fits(s)) {
    const Operands in{a.dy, a.w, dy_values, w_values, packed_row_bytes(s.o), packed_row_bytes(s.c_group())};
    return run_any("qconv_backward_data", backward_data_any, s, in, sink);
  }
  const int64_t merged = merged_groups(s), groups = s.groups / merged, n = merged * s.c_group();
  const int64_t phases_h = std::min(s.stride_h, s.h), phases_w = std::min(s.stride_w, s.w);
  Layout layout;
  const Activations dy(a.dy, s.n * s.oh() * s.ow(), s.o, groups, layout);
  const WeightRows w(a.w, s, merged, true, layout);
  // Phase 0 has the most outputs, and no phase more taps than all divided by the period.
  const auto axis_h = [&](int64_t phase) {
    return backward_axis(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h, phase);
  };
  const auto axis_w = [&](int64_t phase) {
    return backward_axis(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w, phase);
  };
  const auto tiles_along_k = [&](int64_t taps) { return divide_up(taps * dy.chunks() * kChunk, kTileK); };
  int64_t taps_h = 0, taps_w = 0;
  for (int64_t phase = 0; phase < phases_h; ++phase) taps_h = std::max<int64_t>(taps_h, axis_h(phase).taps);
  for (int64_t phase = 0; phase < phases_w; ++phase) taps_w = std::max<int64_t>(taps_w, axis_w(phase).taps);
  const int64_t products = groups * phases_h * phases_w, m = s.n * axis_h(0).rows * axis_w(0).rows;
  const Tile tile = choose_tile(groups, m, n);
  const Split split = choose_split(products * tiles_of(tile, m, n), tiles_along_k(taps_h * taps_w),
                                   max_int32_terms(a.dy_format, a.w_format), sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
  Patches p{.a = dy.ready(layout),
            .b = w.ready(layout),
            .a_values = dy_values,
            .b_values = w_values,
            .y = {},
            .x = {},
            .a_pixel = dy.row_bytes(),
            .b_row = w.row_bytes(),
            .b_group = w.group_bytes(),
            .m = 0,
            .n = static_cast<int>(n),
            .chunks = static_cast<int>(dy.chunks()),
            .kernel_w = static_cast<int>(s.kw),
            .channels = static_cast<int>(s.c),
            .unused = 0};
  const Sink parts = sink_of_product(sink, n, split, partials, layout);
  for (int64_t phase = 0; phase < phases_h * phases_w; ++phase) {
    p.y = axis_h(phase / phases_w);
    p.x = axis_w(phase % phases_w);
    const int64_t here = s.n * p.y.rows * p.x.rows;
    p.m = static_cast<int>(here);
    const Grid grid = grid_of(tile, here, n, tiles_along_k(int64_t{p.y.taps} * p.x.taps), split.splits);
    run_tile<PatchGather>(tile, "qconv_backward_data", p, grid, groups, parts);
  }
  finish("qconv_backward_data, parts", sink, parts, split, s.c);
}

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

void add_qconv(Kernels& table) {
  table.qconv_forward = {forward, "cuda"};
  table.qconv_backward_data = {backward_data, "cuda"};
  table.qconv_backward_weight = {backward_weight, "cuda"};
}

}  // namespace luq::kernels::cuda
