// Products of float matrices for kernels that are plain and deterministic first: C (64 x 64) += A (64 x depth)
// B (depth x 64), float32, every sum one chain of fused multiply-adds over the depth in its order.
//
// A block of 256 threads keeps C in registers, 4 x 4 sums a thread, and takes A and B through shared memory in panels
// 16 deep. A panel's row is one step of depth with the 64 rows of A (columns of B) side by side, so that a thread reads
// 4 factors of each with one 16-byte load: 3 cycles of shared memory for 4 of multiply-adds. While a panel is
// multiplied, the next is on its way from memory to registers.
//
// A panel that lies in memory with the depth running fastest is read "across": a thread has 4 steps of one row. One
// that lies with the 64 side by side is read "along": a thread has 4 neighbours of one step. Both are a 16-byte load a
// thread (8 of bfloat16) where shape and alignment allow.
//
// An operand is a class with load(float (&)[4]), which fetches the thread's part of the next panel, zeros where there
// is nothing, and put(Panel&, value), which puts it there.
#pragma once

#include <luq_cuda/ptx.h>

#include <type_traits>

#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {

constexpr int kTile = 64, kDepth = 16, kTileThreads = 256;
constexpr int kTileRow = kTile + 4;  // keeps 16-byte alignment, and what is put across on 2 banks at most

struct Panel {
  alignas(16) float at[kDepth][kTileRow];
};
struct Panels {
  Panel a, b;
};

// How values become float32: rounded is float32 rounded to bfloat16.
enum class Read { float32, bfloat16, rounded };
template <bool Bfloat16>
constexpr Read kActivations = Bfloat16 ? Read::bfloat16 : Read::float32;
template <bool Bfloat16>
constexpr Read kWeights = Bfloat16 ? Read::rounded : Read::float32;

// How a value lies in memory.
template <bool Bfloat16>
using Stored = std::conditional_t<Bfloat16, BFloat16, float>;

template <Read R>
__device__ __forceinline__ float load1(const void* x, int64_t i) {
  const float value = load1(static_cast<const Stored<R == Read::bfloat16>*>(x) + i);
  return R == Read::rounded ? to_float(to_bfloat16(value)) : value;
}

// Elements i .. i + 3 of x, zeros from the `count`th on. With vectors there are all 4 or none, aligned to their size.
template <Read R>
__device__ __forceinline__ void load4(const void* x, int64_t i, int count, bool vectors, float (&value)[4]) {
  load_some(static_cast<const Stored<R == Read::bfloat16>*>(x) + i, count, vectors && count > 0, value);
  if (R == Read::rounded) {
    for (int k = 0; k < 4; ++k) value[k] = to_float(to_bfloat16(value[k]));
  }
}

template <bool Bfloat16>
__device__ __forceinline__ void store1(void* y, int64_t i, float value) {
  store1(static_cast<Stored<Bfloat16>*>(y) + i, value);
}

// The first `count` of 4 values; with vectors as in load4.
template <bool Bfloat16>
__device__ __forceinline__ void store4(void* y, int64_t i, int count, bool vectors, const float (&value)[4]) {
  store_some(static_cast<Stored<Bfloat16>*>(y) + i, count, vectors && count > 0, value);
}

// A thread's 4 values of a panel that is read across lie at this row of the 64 and this first one of 16 steps.
__device__ __forceinline__ int across_row() { return static_cast<int>(threadIdx.x) / 4; }
__device__ __forceinline__ int across_step() { return static_cast<int>(threadIdx.x) % 4 * 4; }
// And along: the step, and the first of the 64.
__device__ __forceinline__ int along_step() { return static_cast<int>(threadIdx.x) / 16; }
__device__ __forceinline__ int along_column() { return static_cast<int>(threadIdx.x) % 16 * 4; }
// The first of the 4 rows and of the 4 columns of C whose sums a thread has. 16 neighbours share their rows.
__device__ __forceinline__ int sums_row() { return static_cast<int>(threadIdx.x) / 16 * 4; }
__device__ __forceinline__ int sums_column() { return static_cast<int>(threadIdx.x) % 16 * 4; }

__device__ __forceinline__ void put_across(Panel& panel, const float (&value)[4]) {
  for (int k = 0; k < 4; ++k) panel.at[across_step() + k][across_row()] = value[k];
}
__device__ __forceinline__ void put_along(Panel& panel, const float (&value)[4]) {
  *reinterpret_cast<float4*>(&panel.at[along_step()][along_column()]) =
      make_float4(value[0], value[1], value[2], value[3]);
}

// sums += what 16 steps of A and B give; a and b: their panels.
__device__ __forceinline__ void multiply(const float (*a)[kTileRow], const float (*b)[kTileRow], float (&sums)[4][4]) {
  const int row = sums_row(), column = sums_column();
  for (int step = 0; step < kDepth; ++step) {
    const float4 left = *reinterpret_cast<const float4*>(&a[step][row]);
    const float4 right = *reinterpret_cast<const float4*>(&b[step][column]);
    const float rows[4] = {left.x, left.y, left.z, left.w}, columns[4] = {right.x, right.y, right.z, right.w};
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
    }
  }
}

// sums += A B over `depth` steps. Begins with a barrier before it writes to shared memory, where depth is not 0.
template <typename A, typename B>
__device__ __forceinline__ void add_product(Panels& shared, int depth, A a, B b, float (&sums)[4][4]) {
  float next_a[4], next_b[4];
  a.load(next_a);
  b.load(next_b);
  for (int step = 0; step < depth; step += kDepth) {
    __syncthreads();
    a.put(shared.a, next_a);
    b.put(shared.b, next_b);
    __syncthreads();
    if (step + kDepth < depth) {
      a.load(next_a);
      b.load(next_b);
    }
    multiply(shared.a.at, shared.b.at, sums);
  }
}

// The same with A in shared memory: a[step][row], all of depth rounded up to 16. A barrier follows what the block wrote
// there before anything is read.
template <typename B>
__device__ __forceinline__ void add_shared_product(Panels& shared, int depth, const float (*a)[kTileRow], B b,
                                                   float (&sums)[4][4]) {
  float next[4];
  b.load(next);
  for (int step = 0; step < depth; step += kDepth) {
    __syncthreads();
    b.put(shared.b, next);
    __syncthreads();
    if (step + kDepth < depth) b.load(next);
    multiply(a + step, shared.b.at, sums);
  }
}

// A matrix in memory, whose elements Index counts.
template <typename Index>
struct Matrix {
  const void* data;
  Index begin, stride;  // element (row, column) is begin + row * stride + column
  int rows, columns;
  bool vectors;  // 4 columns from a multiple of 4 on are aligned, and all there or none
};

// Its rows first_row .. + 63 read across; the depth is its columns.
template <Read R, typename Index>
class RowsAcross {
 public:
  __device__ __forceinline__ RowsAcross(const Matrix<Index>& matrix, int first_row)
      : matrix_(matrix), column_(across_step()) {
    const int row = first_row + across_row();
    matrix_.begin += row * matrix.stride;
    if (row >= matrix.rows) matrix_.columns = 0;
  }
  __device__ __forceinline__ void load(float (&value)[4]) {
    load4<R>(matrix_.data, matrix_.begin + column_, matrix_.columns - column_, matrix_.vectors, value);
    column_ += kDepth;
  }
  __device__ __forceinline__ void put(Panel& panel, const float (&value)[4]) const { put_across(panel, value); }

 private:
  Matrix<Index> matrix_;
  int column_;
};

// Its columns first_column .. + 63 read along; the depth is its rows from first_row on.
template <Read R, typename Index>
class RowsAlong {
 public:
  __device__ __forceinline__ RowsAlong(const Matrix<Index>& matrix, int first_row, int first_column)
      : matrix_(matrix), row_(first_row + along_step()) {
    const int column = first_column + along_column();
    matrix_.begin += column;
    matrix_.columns -= column;
  }
  __device__ __forceinline__ void load(float (&value)[4]) {
    load4<R>(matrix_.data, matrix_.begin + row_ * matrix_.stride, row_ < matrix_.rows ? matrix_.columns : 0,
             matrix_.vectors, value);
    row_ += kDepth;
  }
  __device__ __forceinline__ void put(Panel& panel, const float (&value)[4]) const { put_along(panel, value); }

 private:
  Matrix<Index> matrix_;
  int row_;
};

// The block's C to a matrix in memory whose element (0, 0) is `begin`; what lies past rows and columns is not written.
template <bool Bfloat16>
__device__ __forceinline__ void store_sums(void* y, int64_t begin, int64_t stride, int64_t rows, int columns,
                                           bool vectors, const float (&sums)[4][4]) {
  const int row = sums_row(), column = sums_column();
  for (int i = 0; i < 4; ++i) {
    if (row + i < rows) {
      store4<Bfloat16>(y, begin + (row + i) * stride + column, columns - column, vectors, sums[i]);
    }
  }
}

// On the host: 4 elements from a multiple of 4 on are aligned to their size together.
inline bool aligned_to_4(const void* x, bool bfloat16) {
  return reinterpret_cast<uintptr_t>(x) % (bfloat16 ? 8 : 16) == 0;
}

}  // namespace luq::kernels::cuda
