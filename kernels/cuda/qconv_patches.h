// Operands of the products of forward and backward-data.
#pragma once

#include "kernels/cuda/qconv_tile.h"

namespace luq::kernels::cuda::qconv {

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

}  // namespace luq::kernels::cuda::qconv
