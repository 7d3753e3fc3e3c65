// Register blocks of the 4-bit matmuls for a vector type V, which an instruction set's file defines:
//   Int, Floats (its Simd), kLanes (int32 lanes), kMaxRows (with one and two blocks of 16 columns), kMaxBlocks,
//   kChained, zero, set (a number to every lane), load, store, broadcast (4 bytes to every lane), add; dot(sum, u, s):
//   sum + the products of 4 unsigned by 4 signed bytes, lane by lane; kChained: pairs(u, s) gives sums of two products
//   in int16, add16 adds those, widen(sum, pairs) adds them to int32; kMoments: whether there is
//   add_moments<rows>(sums, squares, get), which adds get(row) and its square over all rows; store_float(y, sums,
//   scale, bias or null, accumulate, channels): one vector of results, each sum times its lane of `scale`, of which
//   `channels` are written, or added to y, float or BFloat16.
//
// Cost of a step: R broadcasts and N loads for R * N products, so a tile of 14 x 2 is bound by the multipliers and one
// of 14 x 1 by the loads, at nearly the same rate. Without a dot instruction a product is a multiply-add of pairs and
// an int16 addition; widening is paid once in `chain` steps.
#pragma once

#include <cstdint>

#include "kernels/cpu/qconv_driver.h"
#include "kernels/cpu/simd_common.h"

namespace luq::kernels {
namespace {

// Addresses of R rows a fixed stride apart, three rows to a pointer, so that they stay in general registers.
template <int R>
struct RowPointers {
  const uint8_t* first[(R + 2) / 3];
  int64_t stride;
  RowPointers(const uint8_t* x, int64_t x_stride) : stride(x_stride) {
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) first[i] = x + 3 * i * x_stride;
  }
  const uint8_t* operator[](int row) const { return first[row / 3] + (row % 3) * stride; }
  void advance(int64_t bytes) {
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) first[i] += bytes;
  }
};

// kRowsUnsigned: the rows, which are broadcast, are the unsigned operand, and the columns the signed one; else the
// other way round.
template <class V, int R, int N, bool kRowsUnsigned>
struct Accumulators {
  using Int = typename V::Int;
  Int sum[R][N];

  void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sum[i][v] = V::zero();
    }
  }

  // `steps` x 4 terms; vector v of the columns is at s + offset(v).
  template <class Offset>
  void multiply(const uint8_t* x, int64_t x_stride, const int8_t* s, int64_t s_step, Offset offset, int64_t steps) {
    RowPointers<R> row(x, x_stride);
    for (int64_t step = 0; step < steps; ++step) {
      Int w[N];
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) w[v] = V::load(s + offset(v));
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const Int u = V::broadcast(row[i]);
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) {
          if constexpr (V::kChained) {
            sum[i][v] = V::add16(sum[i][v], kRowsUnsigned ? V::pairs(u, w[v]) : V::pairs(w[v], u));
          } else {
            sum[i][v] = kRowsUnsigned ? V::dot(sum[i][v], u, w[v]) : V::dot(sum[i][v], w[v], u);
          }
        }
      }
      row.advance(4);
      s += s_step;
    }
  }
};

// Totals in int32. With a dot instruction the accumulators are the totals; else they hold int16 pairs, which are
// widened into totals in memory before `chain` steps are exceeded.
template <class V, int R, int N, bool kRowsUnsigned>
struct Sums {
  using Int = typename V::Int;
  Accumulators<V, R, N, kRowsUnsigned> acc;
  Int total[V::kChained ? R : 1][V::kChained ? N : 1];
  int64_t used = 0;

  void clear() {
    acc.clear();
    if constexpr (V::kChained) {
      for (int i = 0; i < R; ++i) {
        for (int v = 0; v < N; ++v) total[i][v] = V::zero();
      }
    }
  }
  void widen() {
    if constexpr (V::kChained) {
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) total[i][v] = V::widen(total[i][v], acc.sum[i][v]);
      }
      acc.clear();
      used = 0;
    }
  }
  template <class Offset>
  void multiply(const uint8_t* x, int64_t x_stride, const int8_t* s, int64_t s_step, Offset offset, int64_t steps,
                int64_t chain) {
    if constexpr (V::kChained) {
      if (used + steps > chain) widen();
      while (steps > chain) {
        acc.multiply(x, x_stride, s, s_step, offset, chain);
        widen();
        x += 4 * chain;
        s += s_step * chain;
        steps -= chain;
      }
      used += steps;
    }
    acc.multiply(x, x_stride, s, s_step, offset, steps);
  }
  Int get(int i, int v) const {
    if constexpr (V::kChained) return total[i][v];
    return acc.sum[i][v];
  }
};

// The scales of a tile's results: that of row i and vector v is at(i, v).
template <class V, int R, int N>
class TileScales {
 public:
  explicit TileScales(const ConvTile& t)
      : row_step_(t.row_scales != nullptr ? V::kLanes : 0), vector_step_(V::kLanes - row_step_) {
    if (t.row_scales != nullptr) {
      for (int i = 0; i < R; ++i) V::Floats::store(lanes_ + i * V::kLanes, V::Floats::set(t.row_scales[i]));
      return;
    }
    for (int v = 0; v < N; ++v) V::Floats::store(lanes_ + v * V::kLanes, V::Floats::set(t.scale));
    if (t.scales == nullptr) return;
    for (int j = 0; j < N * V::kLanes && j < t.channels; ++j) lanes_[j] = t.scale * t.scales[j];
  }
  [[gnu::always_inline]] auto at(int i, int v) const {
    return V::Floats::load(lanes_ + i * row_step_ + v * vector_step_);
  }

 private:
  alignas(64) float lanes_[(R > N ? R : N) * V::kLanes];
  int64_t row_step_, vector_step_;
};

template <class V, int R, int N>
void conv_tile(const ConvTile& t) {
  using Int = typename V::Int;
  constexpr int per_block = kBlock / V::kLanes;
  constexpr int64_t step_bytes = kBlock * 4;
  const int64_t w_block = t.w_block;
  const auto offset = [w_block](int v) { return (v / per_block) * w_block + (v % per_block) * V::kLanes * 4; };
  Sums<V, R, N, true> sums;
  sums.clear();
  const int8_t* w = t.w;
  for (int64_t run = 0; run < t.runs; ++run) {
    sums.multiply(t.x + t.run_offset[run], t.x_stride, w, step_bytes, offset, t.steps, t.chain);
    w += t.steps * step_bytes;
  }
  sums.widen();
  Int start[N];
#pragma GCC unroll 4
  for (int v = 0; v < N; ++v) start[v] = V::load(t.start + v * V::kLanes);
  if (t.sums != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        alignas(64) int32_t lanes[V::kLanes];
        V::store(lanes, V::add(sums.get(i, v), start[v]));
        for (int j = 0; j < V::kLanes; ++j) {
          if (v * V::kLanes + j < t.channels) t.sums[i * t.y_stride + v * V::kLanes + j] = lanes[j];
        }
      }
    }
    return;
  }
  if constexpr (V::kMoments) {
    if (t.moments != nullptr) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        int64_t* to = t.moments + v * V::kLanes;
        V::template add_moments<R>(
            to, to + t.moment_stride, [&](int i) __attribute__((always_inline)) {
              return V::add(sums.get(i, v), start[v]);
            });
      }
    }
  }
  const TileScales<V, R, N> scales(t);
  with_type(
      t.y.bfloat16, [&](auto type) __attribute__((always_inline)) {
        auto* y = t.y.as<decltype(type)>();
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
          for (int v = 0; v < N; ++v) {
            V::store_float(y + i * t.y_stride + v * V::kLanes, V::add(sums.get(i, v), start[v]), scales.at(i, v),
                           t.bias != nullptr ? t.bias + v * V::kLanes : nullptr, t.accumulate,
                           t.channels - v * V::kLanes);
          }
        }
      });
}

template <class V, int R, int N>
void weight_tile(const WeightTile& t) {
  constexpr int per_block = kBlock / V::kLanes;
  const int64_t x_block = t.x_block;
  const auto offset = [x_block](int v) { return (v / per_block) * x_block + (v % per_block) * V::kLanes * 4; };
  Sums<V, R, N, false> sums;
  sums.clear();
  for (int64_t image = 0; image < t.images; ++image) {
    sums.multiply(reinterpret_cast<const uint8_t*>(t.dy + image * t.dy_image), t.dy_stride,
                  reinterpret_cast<const int8_t*>(t.x + image * t.x_image), t.x_step, offset, t.steps, t.chain);
  }
  sums.widen();
  if (t.sums != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        uint32_t* to = t.sums + i * t.stride + v * V::kLanes;
        V::store(to, t.add ? V::add(V::load(to), sums.get(i, v)) : sums.get(i, v));
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    const auto start = V::set(t.dy_sums != nullptr ? -t.offset * t.dy_sums[i] : 0);
    const auto scale = V::Floats::set(result_scale(t.scale, t.scales, i));
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      V::store_float(t.dw + i * t.stride + v * V::kLanes, V::add(sums.get(i, v), start), scale, nullptr, t.accumulate,
                     t.channels - v * V::kLanes);
    }
  }
}

// Fills in the tiles of 1 to kMaxRows rows.
template <class V, int R = V::kMaxRows>
void set_tiles(QConvIsa& isa) {
  constexpr int per_block = kBlock / V::kLanes;
  isa.conv[0][R - 1] = conv_tile<V, R, per_block>;
  isa.weight[0][R - 1] = weight_tile<V, R, per_block>;
  if constexpr (V::kMaxBlocks == 2) {
    isa.conv[1][R - 1] = conv_tile<V, R, 2 * per_block>;
    isa.weight[1][R - 1] = weight_tile<V, R, 2 * per_block>;
  }
  if constexpr (R > 1) set_tiles<V, R - 1>(isa);
}

template <class V>
const QConvIsa& isa_of() {
  static const QConvIsa isa = [] {
    QConvIsa made{};
    made.max_rows = V::kMaxRows;
    made.max_blocks = V::kMaxBlocks;
    made.unpack = V::unpack;
    set_tiles<V>(made);
    return made;
  }();
  return isa;
}

// The entries of the table.
template <class V, QConvTask kTask>
void forward(const QConvForwardArgs& args) {
  qconv_forward(isa_of<V>(), args, kTask);
}
template <class V, QConvTask kTask>
void forward_moments(const QConvForwardMomentsArgs& args) {
  qconv_forward_moments(isa_of<V>(), args, kTask);
}
template <class V, QConvTask kTask>
void backward_data(const QConvBackwardDataArgs& args) {
  qconv_backward_data(isa_of<V>(), args, kTask);
}
template <class V, QConvTask kTask>
void backward_weight(const QConvBackwardWeightArgs& args) {
  qconv_backward_weight(isa_of<V>(), args, kTask);
}
template <class V>
void add_qconv(Kernels& table, const char* name) {
  constexpr QConvTask run = QConvTask::run, prepare = QConvTask::prepare;
  table.qconv_forward = {forward<V, run>, name, forward<V, prepare>};
  if constexpr (V::kMoments) {
    table.qconv_forward_moments = {forward_moments<V, run>, name, forward_moments<V, prepare>};
  }
  table.qconv_backward_data = {backward_data<V, run>, name, backward_data<V, prepare>};
  table.qconv_backward_weight = {backward_weight<V, run>, name, backward_weight<V, prepare>};
}

}  // namespace
}  // namespace luq::kernels
