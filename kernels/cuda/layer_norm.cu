// Layer norm: bound by memory. A warp has a row, which it walks two or three times; the first walk comes from memory
// and the others from L1. Its parameters' gradients are sums over rows as batch norm's are. Bytes an element of
// bfloat16: 4 forward, 4 and 6 backward.
#include <cmath>

#include "kernels/cuda/columns.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kWarp = 32;

__device__ float sum_of_warp(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  return value;
}

// The sum of N values, in pairs.
template <int N>
__device__ float sum_of(float (&value)[N]) {
  for (int half = N / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) value[k] += value[k + half];
  }
  return value[0];
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    layer_norm_rows(const T* x, int64_t rows, int64_t c, const float* gamma, const float* beta, float eps, T* y,
                    float* means, float* inverse_stds) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= rows) return;  // a whole warp, or nobody
  const T* from = x + row * c;
  const float per_column = 1.0f / static_cast<float>(c);
  float sum = 0, squares = 0;
  for (int64_t i = lane * N; i < c; i += kWarp * N) {
    const auto packed = Packed<T, N>::load(from + i);
    float value[N];
    for (int k = 0; k < N; ++k) value[k] = packed[k];
    sum += sum_of(value);
  }
  const float mean = sum_of_warp(sum) * per_column;
  for (int64_t i = lane * N; i < c; i += kWarp * N) {
    const auto packed = Packed<T, N>::load(from + i);
    float value[N];
    for (int k = 0; k < N; ++k) value[k] = (packed[k] - mean) * (packed[k] - mean);
    squares += sum_of(value);
  }
  const float inverse_std = 1.0f / sqrtf(sum_of_warp(squares) * per_column + eps);
  for (int64_t i = lane * N; i < c; i += kWarp * N) {
    const auto packed = Packed<T, N>::load(from + i);
    const auto scale = Packed<float, N>::load(gamma + i), shift = Packed<float, N>::load(beta + i);
    float value[N];
    for (int k = 0; k < N; ++k) value[k] = (packed[k] - mean) * inverse_std * scale[k] + shift[k];
    Packed<T, N>::of(value).store(y + row * c + i);
  }
  if (lane != 0) return;
  if (means != nullptr) means[row] = mean;
  if (inverse_stds != nullptr) inverse_stds[row] = inverse_std;
}

// With g = dy gamma: dx = inverse_std (g - mean of g - xhat mean of (g xhat)).
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    layer_norm_backward_rows(const T* x, const T* dy, int64_t rows, int64_t c, const float* means,
                             const float* inverse_stds, const float* gamma, T* dx) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= rows) return;  // a whole warp, or nobody
  const int64_t begin = row * c;
  const float mean = means[row], inverse_std = inverse_stds[row], per_column = 1.0f / static_cast<float>(c);
  float sum = 0, product = 0;
  for (int64_t i = lane * N; i < c; i += kWarp * N) {
    const auto values = Packed<T, N>::load(x + begin + i), gradients = Packed<T, N>::load(dy + begin + i);
    const auto scale = Packed<float, N>::load(gamma + i);
    float g[N], with_xhat[N];
    for (int k = 0; k < N; ++k) {
      g[k] = gradients[k] * scale[k];
      with_xhat[k] = g[k] * ((values[k] - mean) * inverse_std);
    }
    sum += sum_of(g);
    product += sum_of(with_xhat);
  }
  const float g_mean = sum_of_warp(sum) * per_column, slope = sum_of_warp(product) * per_column;
  for (int64_t i = lane * N; i < c; i += kWarp * N) {
    const auto values = Packed<T, N>::load(x + begin + i), gradients = Packed<T, N>::load(dy + begin + i);
    const auto scale = Packed<float, N>::load(gamma + i);
    float result[N];
    for (int k = 0; k < N; ++k) {
      const float xhat = (values[k] - mean) * inverse_std;
      result[k] = inverse_std * ((gradients[k] * scale[k] - g_mean) - xhat * slope);
    }
    Packed<T, N>::of(result).store(dx + begin + i);
  }
}

template <typename T, int N>
struct LayerNormTerms {
  static constexpr int kBatch = N == 1 ? 4 : 2, kBlocks = 1;
  struct Row {
    Packed<T, N> x, dy;
    float mean, inverse_std;
  };
  struct Columns {
    __device__ void add(const Row& row, int64_t, float (&sums)[2][N]) const {
      for (int k = 0; k < N; ++k) {
        sums[0][k] += row.dy[k];
        sums[1][k] = fmaf(row.dy[k], (row.x[k] - row.mean) * row.inverse_std, sums[1][k]);
      }
    }
  };
  const T *x, *dy;
  const float *mean, *inverse_std;

  __device__ Row load(int64_t row, int64_t at) const {
    return {Packed<T, N>::load(x + at), Packed<T, N>::load(dy + at), mean[row], inverse_std[row]};
  }
  __device__ Columns columns(int64_t) const { return {}; }
};

LaunchShape a_warp_each(int64_t rows) { return {.blocks = blocks_for(rows, kThreads / kWarp), .threads = kThreads}; }

template <typename T>
void layer_norm_of(const LayerNormArgs& a) {
  const bool aligned = are_aligned(a.x.data, a.y.data, a.gamma, a.beta);
  const auto kernel = aligned && a.c % 8 == 0 && a.c >= 256 ? layer_norm_rows<T, 8>
                      : aligned && a.c % 4 == 0             ? layer_norm_rows<T, 4>
                                                            : layer_norm_rows<T, 1>;
  launch("layer_norm", kernel, a_warp_each(a.rows), a.x.as<T>(), a.rows, a.c, a.gamma, a.beta, a.eps, a.y.as<T>(),
         a.mean, a.inverse_std);
}
void layer_norm(const LayerNormArgs& a) { a.x.bfloat16 ? layer_norm_of<BFloat16>(a) : layer_norm_of<float>(a); }

// The sums first: dx may be where dy is.
template <typename T>
void layer_norm_backward_of(const LayerNormBackwardArgs& a) {
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  const StoreGradients store{nullptr, a.dgamma, a.dbeta};
  if (a.c % kUnit == 0 && are_aligned(x, dy)) {
    sum_over_rows<kUnit>("layer_norm_backward", LayerNormTerms<T, kUnit>{x, dy, a.mean, a.inverse_std}, a.rows, a.c,
                         store);
  } else {
    sum_over_rows<1>("layer_norm_backward", LayerNormTerms<T, 1>{x, dy, a.mean, a.inverse_std}, a.rows, a.c, store);
  }
  const bool aligned = are_aligned(a.x.data, a.dy.data, a.dx.data, a.gamma);
  const auto kernel = aligned && a.c % 8 == 0 && a.c >= 256 ? layer_norm_backward_rows<T, 8>
                      : aligned && a.c % 4 == 0             ? layer_norm_backward_rows<T, 4>
                                                            : layer_norm_backward_rows<T, 1>;
  launch("layer_norm_backward", kernel, a_warp_each(a.rows), x, dy, a.rows, a.c, a.mean, a.inverse_std, a.gamma,
         a.dx.as<T>());
}
void layer_norm_backward(const LayerNormBackwardArgs& a) {
  a.x.bfloat16 ? layer_norm_backward_of<BFloat16>(a) : layer_norm_backward_of<float>(a);
}

}  // namespace

void add_layer_norm(Kernels& table) {
  table.layer_norm = {layer_norm, "cuda"};
  table.layer_norm_backward = {layer_norm_backward, "cuda"};
}

}  // namespace luq::kernels::cuda
