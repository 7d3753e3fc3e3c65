// Sums over the rows of (rows, c), two at a time, in an order that follows from the shape.
//
// A block of 256 threads has a tile of up to 32 units of N neighbouring columns and a chunk of rows: `width` threads
// beside each other have the units of a row, `lanes` of such groups take rows in turn. A thread has 8 to 128 rows,
// kBatch of which it loads before it adds any. The lanes fold in pairs in shared memory, all in float32. A second
// kernel adds the chunks in double: 128 threads a column, each every 128th chunk in order, folded in pairs. It ends
// with what a caller makes of a column's two sums.
//
// Bytes: what is summed, once, and 16 for a column of a chunk.
#pragma once

#include <luq_cuda/ptx.h>

#include <algorithm>

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {

struct ColumnTiling {
  int64_t tiles = 0, chunks = 0, chunk_rows = 0, width = 0, lanes = 0;

  int64_t blocks() const { return tiles * chunks; }
};

constexpr int kTileUnits = 32;

inline ColumnTiling tile_columns(int64_t rows, int64_t c, int n) {
  ColumnTiling t;
  const int64_t units = c / n;
  if (units == 0) return t;
  t.tiles = blocks_for(units, kTileUnits);
  t.width = blocks_for(units, t.tiles);
  t.lanes = kThreads / t.width;
  const int64_t wanted_chunks = std::max<int64_t>(2048 / t.tiles, 1);
  t.chunk_rows = t.lanes * std::clamp<int64_t>(blocks_for(rows, t.lanes * wanted_chunks), 8, 128);
  t.chunks = blocks_for(rows, t.chunk_rows);
  return t;
}

// A thread's place in a tiling.
struct ColumnPlace {
  int64_t column, row, end, chunk;
  int lane;
  bool inside;
};
template <int N>
__device__ ColumnPlace place_in(const ColumnTiling& t, int64_t rows, int64_t c) {
  const int thread = static_cast<int>(threadIdx.x), width = static_cast<int>(t.width);
  ColumnPlace p;
  p.chunk = int64_t{blockIdx.x} / t.tiles;
  p.lane = thread / width;
  p.column = (int64_t{blockIdx.x} % t.tiles * t.width + thread % width) * N;
  p.row = p.chunk * t.chunk_rows + p.lane;
  const int64_t end = (p.chunk + 1) * t.chunk_rows;
  p.end = end < rows ? end : rows;
  p.inside = p.lane < t.lanes && p.column < c;
  return p;
}

template <int N>
struct ColumnShared {
  float sums[2 * N][kThreads];
};

// Source: kBatch; kBlocks, what a multiprocessor shall hold at least; Row, what it reads of a row; load(row, row * c +
// column); and, of a thread's columns, made by source.columns(column): add(row's values, row * c + column, sums).
template <int N, typename Source>
__global__ void __launch_bounds__(kThreads, Source::kBlocks)
    sum_columns(Source source, int64_t rows, int64_t c, ColumnTiling t, float* partials) {
  auto& shared = luq::device::shared_memory<ColumnShared<N>>();
  const ColumnPlace p = place_in<N>(t, rows, c);
  float sums[2][N] = {};
  if (p.inside) {
    const auto columns = source.columns(p.column);
    const int64_t step = t.lanes * c;
    int64_t row = p.row, at = p.row * c + p.column;
    int left = static_cast<int>((p.end - row + t.lanes - 1) / t.lanes);  // at most 128
    for (; left >= Source::kBatch; left -= Source::kBatch) {
      typename Source::Row values[Source::kBatch];
      for (int k = 0; k < Source::kBatch; ++k) values[k] = source.load(row + k * t.lanes, at + k * step);
      for (int k = 0; k < Source::kBatch; ++k) columns.add(values[k], at + k * step, sums);
      row += Source::kBatch * t.lanes;
      at += Source::kBatch * step;
    }
    for (; left > 0; --left, row += t.lanes, at += step) columns.add(source.load(row, at), at, sums);
  }
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 2 * N; ++i) shared.sums[i][thread] = sums[i / N][i % N];
  for (int left = static_cast<int>(t.lanes); left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (p.lane + half < left) {
      for (int i = 0; i < 2 * N; ++i) shared.sums[i][thread] += shared.sums[i][thread + half * t.width];
    }
    left = half;
  }
  if (p.lane != 0 || !p.inside) return;
  float* to = partials + p.chunk * 2 * c + p.column;
  for (int i = 0; i < 2 * N; ++i) to[i / N * c + i % N] = shared.sums[i][thread];
}

constexpr int kAddColumns = 2, kAddLanes = kThreads / kAddColumns, kAddLoads = 4;

struct AddShared {
  double sums[2][kAddLanes][kAddColumns];
};

template <typename Finish>
__global__ void __launch_bounds__(kThreads)
    add_partials(const float* partials, int64_t chunks, int64_t c, Finish finish) {
  auto& shared = luq::device::shared_memory<AddShared>();
  const int lane = static_cast<int>(threadIdx.x) / kAddColumns, place = static_cast<int>(threadIdx.x) % kAddColumns;
  const int64_t column = int64_t{blockIdx.x} * kAddColumns + place;
  double first = 0, second = 0;
  if (column < c) {
    int64_t chunk = lane;
    for (; chunk + (kAddLoads - 1) * kAddLanes < chunks; chunk += kAddLoads * kAddLanes) {
      float loaded[2][kAddLoads];
      LUQ_UNROLL
      for (int i = 0; i < kAddLoads; ++i) {
        loaded[0][i] = partials[(chunk + i * kAddLanes) * 2 * c + column];
        loaded[1][i] = partials[(chunk + i * kAddLanes) * 2 * c + c + column];
      }
      LUQ_UNROLL
      for (int i = 0; i < kAddLoads; ++i) {
        first += static_cast<double>(loaded[0][i]);
        second += static_cast<double>(loaded[1][i]);
      }
    }
    for (; chunk < chunks; chunk += kAddLanes) {
      first += static_cast<double>(partials[chunk * 2 * c + column]);
      second += static_cast<double>(partials[chunk * 2 * c + c + column]);
    }
  }
  shared.sums[0][lane][place] = first;
  shared.sums[1][lane][place] = second;
  for (int half = kAddLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) {
      shared.sums[0][lane][place] += shared.sums[0][lane + half][place];
      shared.sums[1][lane][place] += shared.sums[1][lane + half][place];
    }
  }
  if (lane == 0 && column < c) finish.column(column, shared.sums[0][0][place], shared.sums[1][0][place]);
}

// The gradients of a norm's gamma and beta: the sums of dy (x - mean) and dy.
struct StoreGradients {
  const float* inverse_std;  // null: 1
  float *dgamma, *dbeta;

  __device__ void column(int64_t column, double sum, double product) const {
    dbeta[column] = static_cast<float>(sum);
    dgamma[column] =
        static_cast<float>(inverse_std != nullptr ? product * static_cast<double>(inverse_std[column]) : product);
  }
};

template <int N, typename Source, typename Finish>
void sum_over_rows(const char* name, const Source& source, int64_t rows, int64_t c, const Finish& finish) {
  const ColumnTiling t = tile_columns(rows, c, N);
  auto* partials = scratch_of<float>(t.chunks * 2 * c);
  const LaunchShape shape{.blocks = t.blocks(), .threads = kThreads, .shared_bytes = sizeof(ColumnShared<N>)};
  launch(name, sum_columns<N, Source>, shape, source, rows, c, t, partials);
  const LaunchShape add{.blocks = blocks_for(c, kAddColumns), .threads = kThreads, .shared_bytes = sizeof(AddShared)};
  launch(name, add_partials<Finish>, add, partials, t.chunks, c, finish);
}

}  // namespace luq::kernels::cuda
