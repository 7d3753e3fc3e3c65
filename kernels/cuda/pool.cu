// Pooling over (n, h, w, c): a thread has one pixel of what it writes and 16 bytes of its channels (one channel where c
// or a pointer is not a multiple of that), and walks over the window. Threads beside each other have channels beside
// each other, so every load and store is coalesced; windows that overlap meet in the caches.
//
// Backward passes gather: a pixel of dx visits the outputs whose windows hold it, in their order, which is the order in
// which the reference scatters. So no two threads write to one place, and all results equal the reference's, to the
// bit.
//
// Bytes: what is read, once, and what is written; max_pool_backward reads index and dy about kh kw / (stride_h
// stride_w) times, from the caches but for the first time.
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

struct Range {
  int64_t begin, end;
};

__device__ int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__device__ int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// One direction of a pooling: `size` inputs and `out` outputs.
struct Sliding {
  int64_t size, out, kernel, stride, pad;
  int64_t count_pad;  // 1: padding counts in the divisor of an average, else 0

  __device__ Range window(int64_t o) const {
    const int64_t first = o * stride - pad;
    return {larger(first, 0), smaller(first + kernel, size)};
  }
  __device__ Range outputs(int64_t i) const {
    const int64_t last = i + pad, first = last - kernel;  // the window of output o begins in first + 1 .. last
    return {first < 0 ? 0 : first / stride + 1, smaller(last / stride + 1, out)};
  }
  // The axis's factor of an average's divisor.
  __device__ int64_t extent(int64_t o) const {
    if (count_pad != 0) return smaller(o * stride - pad + kernel, size + pad) - (o * stride - pad);
    const Range inside = window(o);
    return inside.end - inside.begin;
  }
};

struct Adaptive {
  int64_t size, out;

  __device__ Range window(int64_t o) const { return {o * size / out, ((o + 1) * size + out - 1) / out}; }
  __device__ Range outputs(int64_t i) const {
    return {i * out / size, smaller(((i + 1) * out + size - 1) / size, out)};
  }
  __device__ int64_t extent(int64_t o) const {
    const Range inside = window(o);
    return inside.end - inside.begin;
  }
};

// Both directions, and the images and channels.
template <typename Direction>
struct Pooling {
  Direction rows, cols;
  int64_t n, c;

  int64_t inputs() const { return n * rows.size * cols.size * c; }
  int64_t outputs() const { return n * rows.out * cols.out * c; }
};

// The image, row and column of pixel number `pixel` of (n, h, w).
struct Pixel {
  int64_t n, row, col;

  __device__ Pixel(int64_t pixel, int64_t h, int64_t w) {
    const int64_t line = pixel / w;
    col = pixel - line * w;
    n = line / h;
    row = line - n * h;
  }
};

// Stores N numbers, as 16 bytes each four.
template <int N>
__device__ void store_index(int32_t* to, const int32_t (&index)[N]) {
  if constexpr (N == 1) {
    *to = index[0];
  } else {
    for (int k = 0; k < N; k += 4) {
      reinterpret_cast<uint4*>(to)[k / 4] =
          make_uint4(static_cast<uint32_t>(index[k]), static_cast<uint32_t>(index[k + 1]),
                     static_cast<uint32_t>(index[k + 2]), static_cast<uint32_t>(index[k + 3]));
    }
  }
}
template <int N>
__device__ void load_index(const int32_t* from, int32_t (&index)[N]) {
  if constexpr (N == 1) {
    index[0] = *from;
  } else {
    for (int k = 0; k < N; k += 4) {
      const uint4 words = reinterpret_cast<const uint4*>(from)[k / 4];
      index[k] = static_cast<int32_t>(words.x);
      index[k + 1] = static_cast<int32_t>(words.y);
      index[k + 2] = static_cast<int32_t>(words.z);
      index[k + 3] = static_cast<int32_t>(words.w);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    max_of_windows(Pooling<Sliding> p, int64_t units, const T* x, T* y, int32_t* index) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x, per_pixel = p.c / N;
  if (unit >= units) return;
  const int64_t pixel = unit / per_pixel, channel = (unit - pixel * per_pixel) * N;
  const Pixel at(pixel, p.rows.out, p.cols.out);
  const Range rows = p.rows.window(at.row), cols = p.cols.window(at.col);
  const T* image = x + at.n * p.rows.size * p.cols.size * p.c + channel;
  float largest[N];
  int32_t best[N];
  const auto first = static_cast<int32_t>(rows.begin * p.cols.size + cols.begin);
  const Packed<T, N> corner = Packed<T, N>::load(image + first * p.c);
  for (int k = 0; k < N; ++k) {
    largest[k] = corner[k];
    best[k] = first;
  }
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t col = cols.begin; col < cols.end; ++col) {
      const int64_t place = row * p.cols.size + col;
      const Packed<T, N> value = Packed<T, N>::load(image + place * p.c);
      for (int k = 0; k < N; ++k) {
        if (value[k] > largest[k] || (value[k] != value[k] && largest[k] == largest[k])) {
          largest[k] = value[k];
          best[k] = static_cast<int32_t>(place);
        }
      }
    }
  }
  Packed<T, N>::of(largest).store(y + unit * N);
  if (index != nullptr) store_index(index + unit * N, best);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    gather_of_maxima(Pooling<Sliding> p, int64_t units, const T* dy, const int32_t* index, T* dx) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x, per_pixel = p.c / N;
  if (unit >= units) return;
  const int64_t pixel = unit / per_pixel, channel = (unit - pixel * per_pixel) * N;
  const Pixel at(pixel, p.rows.size, p.cols.size);
  const Range rows = p.rows.outputs(at.row), cols = p.cols.outputs(at.col);
  const auto here = static_cast<int32_t>(at.row * p.cols.size + at.col);
  const int64_t image = at.n * p.rows.out * p.cols.out * p.c + channel;
  float sum[N] = {};
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t col = cols.begin; col < cols.end; ++col) {
      const int64_t place = image + (row * p.cols.out + col) * p.c;
      int32_t best[N];
      load_index(index + place, best);
      const Packed<T, N> gradient = Packed<T, N>::load(dy + place);
      for (int k = 0; k < N; ++k) sum[k] = best[k] == here ? __fadd_rn(sum[k], gradient[k]) : sum[k];
    }
  }
  Packed<T, N>::of(sum).store(dx + unit * N);
}

// y = sum of x / divisor, the quotient 1 / divisor rounded first, as ref does.
template <typename Direction, int N>
__global__ void __launch_bounds__(kThreads)
    mean_of_windows(Pooling<Direction> p, int64_t units, const float* x, float* y) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x, per_pixel = p.c / N;
  if (unit >= units) return;
  const int64_t pixel = unit / per_pixel, channel = (unit - pixel * per_pixel) * N;
  const Pixel at(pixel, p.rows.out, p.cols.out);
  const Range rows = p.rows.window(at.row), cols = p.cols.window(at.col);
  const float weight = 1.0f / static_cast<float>(p.rows.extent(at.row) * p.cols.extent(at.col));
  const float* image = x + at.n * p.rows.size * p.cols.size * p.c + channel;
  float sum[N] = {};
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t col = cols.begin; col < cols.end; ++col) {
      const Packed<float, N> value = Packed<float, N>::load(image + (row * p.cols.size + col) * p.c);
      for (int k = 0; k < N; ++k) sum[k] = __fadd_rn(sum[k], __fmul_rn(weight, value[k]));
    }
  }
  Packed<float, N>::of(sum).store(y + unit * N);
}

template <typename Direction, int N>
__global__ void __launch_bounds__(kThreads)
    gather_of_means(Pooling<Direction> p, int64_t units, const float* dy, float* dx) {
  const int64_t unit = int64_t{blockIdx.x} * kThreads + threadIdx.x, per_pixel = p.c / N;
  if (unit >= units) return;
  const int64_t pixel = unit / per_pixel, channel = (unit - pixel * per_pixel) * N;
  const Pixel at(pixel, p.rows.size, p.cols.size);
  const Range rows = p.rows.outputs(at.row), cols = p.cols.outputs(at.col);
  const float* image = dy + at.n * p.rows.out * p.cols.out * p.c + channel;
  float sum[N] = {};
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const int64_t extent = p.rows.extent(row);
    for (int64_t col = cols.begin; col < cols.end; ++col) {
      const float weight = 1.0f / static_cast<float>(extent * p.cols.extent(col));
      const Packed<float, N> value = Packed<float, N>::load(image + (row * p.cols.out + col) * p.c);
      for (int k = 0; k < N; ++k) sum[k] = __fadd_rn(sum[k], __fmul_rn(weight, value[k]));
    }
  }
  Packed<float, N>::of(sum).store(dx + unit * N);
}

LaunchShape shape_of(int64_t units) { return {.blocks = blocks_for(units, kThreads), .threads = kThreads}; }

Pooling<Sliding> pooling(const PoolShape& s, int64_t count_pad = 0) {
  return {{s.h, s.oh(), s.kh, s.stride_h, s.pad_h, count_pad},
          {s.w, s.ow(), s.kw, s.stride_w, s.pad_w, count_pad},
          s.n,
          s.c};
}

template <typename T, int N>
void max_pool_of(const MaxPoolArgs& a) {
  const Pooling<Sliding> p = pooling(a.shape);
  const int64_t units = p.outputs() / N;
  launch("max_pool", max_of_windows<T, N>, shape_of(units), p, units, a.x.as<T>(), a.y.as<T>(), a.index);
}
void max_pool(const MaxPoolArgs& a) {
  const bool aligned = are_aligned(a.x.data, a.y.data, a.index);
  if (a.x.bfloat16) {
    aligned&& a.shape.c % 8 == 0 ? max_pool_of<BFloat16, 8>(a) : max_pool_of<BFloat16, 1>(a);
  } else {
    aligned&& a.shape.c % 4 == 0 ? max_pool_of<float, 4>(a) : max_pool_of<float, 1>(a);
  }
}

template <typename T, int N>
void max_pool_backward_of(const MaxPoolBackwardArgs& a) {
  const Pooling<Sliding> p = pooling(a.shape);
  const int64_t units = p.inputs() / N;
  launch("max_pool_backward", gather_of_maxima<T, N>, shape_of(units), p, units, a.dy.as<T>(), a.index, a.dx.as<T>());
}
void max_pool_backward(const MaxPoolBackwardArgs& a) {
  const bool aligned = are_aligned(a.dy.data, a.dx.data, a.index);
  if (a.dy.bfloat16) {
    aligned&& a.shape.c % 8 == 0 ? max_pool_backward_of<BFloat16, 8>(a) : max_pool_backward_of<BFloat16, 1>(a);
  } else {
    aligned&& a.shape.c % 4 == 0 ? max_pool_backward_of<float, 4>(a) : max_pool_backward_of<float, 1>(a);
  }
}

template <typename Direction>
void average(const char* name, const Pooling<Direction>& p, const float* x, float* y) {
  if (p.c % 4 == 0 && are_aligned(x, y)) {
    launch(name, mean_of_windows<Direction, 4>, shape_of(p.outputs() / 4), p, p.outputs() / 4, x, y);
  } else {
    launch(name, mean_of_windows<Direction, 1>, shape_of(p.outputs()), p, p.outputs(), x, y);
  }
}
template <typename Direction>
void average_backward(const char* name, const Pooling<Direction>& p, const float* dy, float* dx) {
  if (p.c % 4 == 0 && are_aligned(dy, dx)) {
    launch(name, gather_of_means<Direction, 4>, shape_of(p.inputs() / 4), p, p.inputs() / 4, dy, dx);
  } else {
    launch(name, gather_of_means<Direction, 1>, shape_of(p.inputs()), p, p.inputs(), dy, dx);
  }
}

void avg_pool(const AvgPoolArgs& a) { average("avg_pool", pooling(a.shape, a.count_include_pad ? 1 : 0), a.x, a.y); }
void avg_pool_backward(const AvgPoolBackwardArgs& a) {
  average_backward("avg_pool_backward", pooling(a.shape, a.count_include_pad ? 1 : 0), a.dy, a.dx);
}
void adaptive_avg_pool(const AdaptiveAvgPoolArgs& a) {
  average("adaptive_avg_pool", Pooling<Adaptive>{{a.h, a.oh}, {a.w, a.ow}, a.n, a.c}, a.x, a.y);
}
void adaptive_avg_pool_backward(const AdaptiveAvgPoolBackwardArgs& a) {
  average_backward("adaptive_avg_pool_backward", Pooling<Adaptive>{{a.h, a.oh}, {a.w, a.ow}, a.n, a.c}, a.dy, a.dx);
}

}  // namespace

void add_pool(Kernels& table) {
  table.max_pool = {max_pool, "cuda"};
  table.max_pool_backward = {max_pool_backward, "cuda"};
  table.avg_pool = {avg_pool, "cuda"};
  table.avg_pool_backward = {avg_pool_backward, "cuda"};
  table.adaptive_avg_pool = {adaptive_avg_pool, "cuda"};
  table.adaptive_avg_pool_backward = {adaptive_avg_pool_backward, "cuda"};
}

}  // namespace luq::kernels::cuda
