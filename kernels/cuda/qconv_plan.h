// How the three 4-bit matmuls become matrix products on the device: decided on the host, from the shape alone.
//
// Forward and backward-data are products of patches with rows of weights. Along one axis of the image, output row j
// reads source row j * step + offset + t * offset_step at tap t, which is tap_first + t * tap_step of the kernel, and
// is row out_first + j * out_step of the output. For backward-data with a stride there is one such product for each
// phase of the stride: the outputs of a phase see the same taps, every one of which contributes.
//
// Groups: operands lie in chunks of 32 codes (16 bytes), and a group of few channels would fill little of one. So
// `merged` neighbouring groups are one wide group, whose weights between different groups are 0.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "luq/core/conv_shape.h"

namespace luq::kernels::cuda::qconv {

constexpr int kChunk = 32;                 // codes that are copied at once
constexpr int kTileK = 64;                 // codes a tile is deep
constexpr int kStages = 4;                 // tiles in shared memory, of which all but one are on their way
constexpr int64_t kMinTilesOfSplit = 8;    // below this, adding the parts costs more than it brings
constexpr int64_t kMaxPartials = 1 << 26;  // int32 sums in scratch memory, unless int32 itself asks for more

// In the time of a tile along K, half a microsecond: a block's beginning and end, another launch, and a sum of int32
// that is written and read.
constexpr double kTilesOfBlock = 6, kTilesOfParts = 6, kTilesOfResult = 5.5e-6;

// Multiprocessors that are aimed at, an H100's, whatever the device, so that the choice depends on the shape alone.
// Tests change it, to have every tile and parts of K from small shapes.
inline int64_t target_processors = 132;
inline int64_t most_splits = 256;  // unless int32 itself asks for more

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t chunks_of(int64_t codes) { return divide_up(codes, kChunk); }

struct Axis {
  int rows, source, step;             // outputs of this axis, extent of the source, source rows between outputs
  int taps, offset, offset_step;      // source row of output 0 at tap 0, and from tap to tap
  int tap_first, tap_step;            // in the kernel
  int out, out_first, out_step, pad;  // extent of the output, its row of output 0, rows between outputs; 0
};

// The axes of forward.
inline Axis forward_axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  return {i(out), i(size), i(stride), i(kernel), i(-pad), i(dilation), 0, 1, i(out), 0, 1, 0};
}

// An axis of backward-data has inputs phase, phase + stride, ... and taps with (phase + pad - tap * dilation) % stride
// == 0.
inline Axis backward_axis(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation,
                          int64_t phase) {
  const auto i = [](int64_t value) { return static_cast<int>(value); };
  Axis axis{i(divide_up(size - phase, stride)), i(out), 1, 0, 0, 0, 0, 1, i(size), i(phase), i(stride), 0};
  const int64_t period = stride / std::gcd(stride, dilation);
  for (int64_t tap = 0; tap < std::min(kernel, period); ++tap) {
    if ((phase + pad - tap * dilation) % stride != 0) continue;
    axis.taps = i((kernel - tap - 1) / period + 1);
    axis.offset = i((phase + pad - tap * dilation) / stride);
    axis.offset_step = i(-period * dilation / stride);
    axis.tap_first = i(tap);
    axis.tap_step = i(period);
    break;
  }
  return axis;
}

// Groups that are treated as one: the fewest that fill whole chunks of c and o, else those that fit into one.
inline int64_t merged_groups(const ConvShape& s) {
  const int64_t widest = std::max<int64_t>(std::max(s.c_group(), s.o_group()), 1);
  int64_t best = 1;
  if (widest >= kChunk) return best;
  for (int64_t merged = 1; merged * widest <= kChunk && merged <= s.groups; ++merged) {
    if (s.groups % merged == 0) best = merged;
  }
  return best;
}

enum class Tile { m128n128, m128n64, m128n32, m64n64 };
constexpr int64_t tile_m(Tile tile) { return tile == Tile::m64n64 ? 64 : 128; }
constexpr int64_t tile_n(Tile tile) { return tile == Tile::m128n128 ? 128 : tile == Tile::m128n32 ? 32 : 64; }
constexpr int64_t tiles_of(Tile tile, int64_t m, int64_t n) {
  return divide_up(m, tile_m(tile)) * divide_up(n, tile_n(tile));
}

// Blocks of a tile that a multiprocessor has at once, and the time that these take for a tile along K, where that of
// two of 128 x 128 is 100: a small tile does less for each byte that it brings.
constexpr int64_t blocks_at_once(Tile tile) { return tile == Tile::m128n128 ? 2 : 4; }
constexpr int64_t time_of(Tile tile) { return tile == Tile::m64n64 ? 66 : tile == Tile::m128n32 ? 60 : 100; }
inline int64_t turns(Tile tile, int64_t blocks) { return divide_up(blocks, target_processors * blocks_at_once(tile)); }

// The tile of the least time. `products` are independent. The widest is for backward-weight: decoding and transposing
// two operands, it gains from decoding each less often.
inline Tile choose_tile(int64_t products, int64_t m, int64_t n, bool may_be_wide) {
  if (n <= 32) return Tile::m128n32;
  if (m <= 64) return Tile::m64n64;
  Tile best = Tile::m64n64;
  int64_t least = INT64_MAX;
  for (const Tile tile : {Tile::m128n128, Tile::m128n64, Tile::m64n64}) {
    if (tile == Tile::m128n128 && !may_be_wide) continue;
    const int64_t time = turns(tile, products * tiles_of(tile, m, n)) * time_of(tile);
    if (time < least) {
      best = tile;
      least = time;
    }
  }
  return best;
}

struct Split {
  int64_t splits, tiles;  // parts, and tiles along K of each
};

// The parts of K that take the least time, and so many that int32 holds each one's sums. `results` are of all products.
inline Split choose_split(Tile tile, int64_t blocks, int64_t k_tiles, int64_t max_terms, int64_t results) {
  const int64_t fewest = std::max<int64_t>(divide_up(k_tiles, std::max<int64_t>(max_terms / kTileK, 1)), 1);
  const int64_t most =
      std::min({k_tiles / kMinTilesOfSplit, kMaxPartials / std::max<int64_t>(results, 1), most_splits});
  // In tiles along K: of the blocks, one after the other, and of the parts' way through memory.
  const auto time = [&](int64_t splits) {
    const auto times = static_cast<double>(turns(tile, blocks * splits) * time_of(tile)) / 100;
    const double product = times * (static_cast<double>(divide_up(k_tiles, splits)) + kTilesOfBlock);
    return splits == 1 ? product : product + kTilesOfParts + kTilesOfResult * static_cast<double>(results * splits);
  };
  int64_t best = fewest;
  for (int64_t splits = fewest + 1; splits <= most; ++splits) {
    if (time(splits) < time(best)) best = splits;
  }
  const int64_t tiles = divide_up(k_tiles, best);
  return {tiles == 0 ? 1 : divide_up(k_tiles, tiles), tiles};
}

// True where int32 holds every index that the tensor-core kernels compute, and there is something to add.
inline bool fits(const ConvShape& s) {
  constexpr int64_t kLimit = int64_t{1} << 29;
  int64_t pixels = 1, weights = 1;
  const auto times = [&](int64_t& product, int64_t factor) {
    product = factor <= 0 ? 0 : product > kLimit / factor ? kLimit : product * factor;
  };
  for (const int64_t factor : {s.n, s.h + 2 * s.pad_h, s.w + 2 * s.pad_w}) times(pixels, factor);
  for (const int64_t factor : {s.kh, s.kw, s.c + kChunk, s.o + kChunk}) times(weights, factor);
  return s.x_size() > 0 && s.w_size() > 0 && s.y_size() > 0 && pixels < kLimit && weights < kLimit;
}

}  // namespace luq::kernels::cuda::qconv
