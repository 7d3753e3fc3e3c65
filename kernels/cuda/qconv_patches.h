// Operands of the products of forward and backward-data.
#pragma once

#include "kernels/cuda/qconv_tile.h"

namespace luq::kernels::cuda::qconv {

// A: patches of an image; B: rows of weights. Along K lie taps, and in a tap chunks of channels, so a row of a tile is
// two chunks, of which thread t copies the chunks t % 2. Where A is outside of the image, or beyond the last tap, it is
// 0, and B whatever lies there; of columns beyond the last one nobody reads the results. Where B is decoded by its bits
// and A by a table, B is packed apart (WeightRows), so that both have the same order.
struct Patches {
  static constexpr bool kMayBeWide = false;
  const uint8_t *a, *b;
  Values a_values, b_values;
  Axis y, x;
  Divisor y_rows, x_rows, x_taps, chunks;  // chunks of a tap
  uint32_t a_pixel, b_row, b_group;        // chunks
  int m, n;                                // of one group
  int kernel_w, channels;                  // channels of the output
};

// The place of a chunk among those of A or of B. Neither 8 neighbouring rows, which one matrix of A has, nor rows
// r, r + 1, r + 8, r + 9, ..., r + 25, which one of B has, meet in a bank.
__device__ inline int chunk_at(int row, int chunk) {
  const int turn = ((row >> 2 ^ row >> 4) & 1) | (row >> 3 & 1) << 2;
  return row / 4 * 8 + ((row % 4 * 2 + chunk) ^ turn);
}

template <typename S, Decoder A, Decoder B>
class PatchGather {
 public:
  using Parameters = Patches;
  using Tile = S;
  static constexpr int kBlocks = S::blocks(A, B);
  static constexpr bool kMoments = false;

  __device__ PatchGather(const Patches& p, int group, int m_tile, int n_tile, int k_tile) : p_(p), group_(group) {
    const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
    LUQ_UNROLL
    for (int i = 0; i < S::kItemsM; ++i) {
      const int m = m_tile * S::kM + (t + i * S::kThreads) / 2;
      int image = m;
      const int column = p.x_rows.next(image), row = p.y_rows.next(image);
      y_[i] = m < p.m ? row * p.y.step + p.y.offset : kNowhere;
      x_[i] = column * p.x.step + p.x.offset;
      pixel_[i] = m < p.m ? (image * p.y.source + y_[i]) * p.x.source + x_[i] : 0;
    }
    LUQ_UNROLL
    for (int i = 0; i < S::kItemsN; ++i) {
      const int n = n_tile * S::kN + (t + i * S::kThreads) / 2;
      b_from_[i] = static_cast<uint32_t>(group * p.b_group + (n < p.n ? n : 0) * p.b_row);
    }
    tap_ = k_tile * (kTileK / kChunk) + t % 2;
    chunk_ = p.chunks.next(tap_);
    enter_tap();
    // Matrix i has 8 rows from 8 i on, and columns 2 i, 2 i + 1, 8 + 2 i, 8 + 2 i + 1, ....
    const int row = warp / S::kWarpsN * S::kWarpM + lane;
    const int column = warp % S::kWarpsN * S::kWarpN + lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2;
    for (int step = 0; step < 2; ++step) {
      a_at_[step] = chunk_at(row, step);
      b_at_[step] = S::kM * 2 + chunk_at(column, step);
    }
  }

  // The next tile.
  __device__ void copy(uint4* raw) {
    const int t = static_cast<int>(threadIdx.x);
    LUQ_UNROLL
    for (int i = 0; i < S::kItemsM; ++i) {
      const int item = t + i * S::kThreads;
      luq::device::copy_async16(raw + chunk_at(item / 2, item % 2), chunk_of(p_.a, a_from_[i]), a_inside_[i] ? 16 : 0);
    }
    LUQ_UNROLL
    for (int i = 0; i < S::kItemsN; ++i) {
      const int item = t + i * S::kThreads;
      if (S::kN * 2 % S::kThreads != 0 && item >= S::kN * 2) continue;
      luq::device::copy_async16(raw + S::kM * 2 + chunk_at(item / 2, item % 2), chunk_of(p_.b, b_from_[i] + b_tap_));
    }
    chunk_ += kTileK / kChunk;
    if (chunk_ < p_.chunks.value) return;
    do {
      chunk_ -= p_.chunks.value;
      ++tap_;
    } while (chunk_ >= p_.chunks.value);
    enter_tap();
  }

  // Word i: of row or column l / 4 of matrix i, 8 codes along K.
  __device__ void load_rows(const uint4* raw, int i, int step, Words& words) const {
    luq::device::load_matrix_x4(words, raw + i * 64 + a_at_[step]);
  }
  __device__ void load_columns(const uint4* raw, int strip, int step, Words& words) const {
    luq::device::load_matrix_x4(words, raw + strip * 64 + b_at_[step]);
  }

  __device__ static void multiply(int (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    luq::device::mma_s8(sum, a, b, sum);
  }

  __device__ void decode_rows(const Words& words, RowBlocks& blocks) const {
    LUQ_UNROLL
    for (int i = 0; i < 2; ++i) {
      LUQ_UNROLL
      for (int h = 0; h < 2; ++h) decode<A>(p_.a_values, words[i * 2 + h], blocks[i][h], blocks[i][h + 2]);
    }
  }
  __device__ void decode_columns(const Words& words, ColumnBlocks& blocks) const {
    LUQ_UNROLL
    for (int j = 0; j < 4; ++j) decode<B>(p_.b_values, words[j], blocks[j][0], blocks[j][1]);
  }

  // The warp's row of block i, half h, in lanes of which l / 4 is g.
  __device__ static int row_of(int i, int h, int g) { return i * 16 + h * 8 + g; }
  // Column k of the lane's 8 of a strip: blocks of columns are 2 j, 2 j + 1, 8 + 2 j, 8 + 2 j + 1, ....
  template <int kBlocks>
  __device__ static int result(const int (&sum)[kBlocks][4], int strip, int h, int k) {
    return sum[strip * 4 + k / 2][h * 2 + k % 2];
  }

  __device__ Place row(int m) const {
    if (m >= p_.m) return {-1, 0, 0};
    int image = m;
    const int column = p_.x_rows.next(image), row = p_.y_rows.next(image);
    const int64_t pixel = (int64_t{image} * p_.y.out + p_.y.out_first + row * p_.y.out_step) * p_.x.out +
                          p_.x.out_first + column * p_.x.out_step;
    return {pixel * p_.channels + group_ * p_.n, 0, image};
  }
  __device__ Place column(int n) const { return {n < p_.n ? n : -1, 0, group_ * p_.n + n}; }

 private:
  static constexpr int kNowhere = -(1 << 30);

  __device__ const uint8_t* chunk_of(const uint8_t* operand, uint32_t index) const {
    return operand + (uint64_t{index} + static_cast<uint32_t>(chunk_)) * 16;
  }

  __device__ void enter_tap() {
    int tap_y = tap_;
    const int tap_x = p_.x_taps.next(tap_y);
    const bool any = tap_y < p_.y.taps;
    const int down = tap_y * p_.y.offset_step, right = tap_x * p_.x.offset_step;
    LUQ_UNROLL
    for (int i = 0; i < S::kItemsM; ++i) {
      a_inside_[i] = any && static_cast<unsigned>(y_[i] + down) < static_cast<unsigned>(p_.y.source) &&
                     static_cast<unsigned>(x_[i] + right) < static_cast<unsigned>(p_.x.source);
      const int pixel = a_inside_[i] ? pixel_[i] + down * p_.x.source + right : 0;
      a_from_[i] = static_cast<uint32_t>(pixel * p_.a_pixel + group_ * p_.chunks.value);
    }
    const int tap = (p_.y.tap_first + tap_y * p_.y.tap_step) * p_.kernel_w + p_.x.tap_first + tap_x * p_.x.tap_step;
    b_tap_ = any ? static_cast<uint32_t>(tap * p_.chunks.value) : 0;
  }

  const Patches& p_;
  int group_;
  int y_[S::kItemsM], x_[S::kItemsM], pixel_[S::kItemsM];
  int chunk_, tap_;
  // The rest is of the current tap.
  uint32_t a_from_[S::kItemsM], b_from_[S::kItemsN], b_tap_;  // chunks: 2^32 of them are 64 GiB
  bool a_inside_[S::kItemsM];
  int a_at_[2], b_at_[2];  // where the lane's row for load_matrix_x4 begins
};

// With the moments of the results on the way.
template <typename S, Decoder A, Decoder B>
class PatchGatherWithMoments : public PatchGather<S, A, B> {
 public:
  static constexpr bool kMoments = true;
  using PatchGather<S, A, B>::PatchGather;
};

}  // namespace luq::kernels::cuda::qconv
