// Conversion, ReLU, GELU, add and dropout: bound by memory, one pass, 8 elements a thread. That is one load of 16 bytes
// of bfloat16 or two of float32, one byte of a mask, which no other thread writes, and one block of random bits. Where
// a pointer is not aligned to 16 bytes, and for the last elements, a thread loads and stores one at a time.
//
// Bytes an element, float32 (bfloat16 half of it, but for masks): relu, gelu, dropout 8; relu with a mask and
// relu_backward 8.125; add, gelu_backward 12; convert 6. Instructions an element: below 5, of GELU about 40.
//
// A thread reads its elements before it writes them, so results may lie where operands do.
//
// Sums of columns: columns.h.
#include <type_traits>

#include "kernels/cuda/columns.h"
#include "kernels/cuda/exp.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

template <typename From, typename To>
struct Convert {
  const From* x;
  To* y;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit];
    load_some(x + i, here, whole, value);
    if (std::is_same_v<To, BFloat16> && whole) {  // with the bits of a NaN, which store_some leaves open
      Packed<BFloat16, kUnit> packed;
      for (int k = 0; k < kUnit; k += 2) {
        packed.word[k / 2] = to_bfloat16(value[k]).bits | uint32_t{to_bfloat16(value[k + 1]).bits} << 16;
      }
      packed.store(reinterpret_cast<BFloat16*>(y + i));
      return;
    }
    store_some(y + i, here, whole, value);
  }
};

template <typename T>
struct Relu {
  const T* x;
  T* y;
  uint8_t* mask;
  int clips;  // 1: the ceiling counts
  float ceiling;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit];
    load_some(x + i, here, whole, value);
    uint32_t passed = 0;
    for (int k = 0; k < kUnit; ++k) {
      const bool zero = value[k] <= 0, clipped = clips != 0 && value[k] >= ceiling;
      passed |= (zero || clipped ? 0u : 1u) << k;
      value[k] = zero ? 0.0f : clipped ? ceiling : value[k];
    }
    store_some(y + i, here, whole, value);
    if (mask != nullptr) mask[i / kUnit] = static_cast<uint8_t>(passed);
  }
};

template <typename T>
struct ReluBackward {
  const T* dy;
  const uint8_t* mask;
  T* dx;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit];
    load_some(dy + i, here, whole, value);
    const uint32_t passed = mask[i / kUnit];
    for (int k = 0; k < kUnit; ++k) value[k] = (passed >> k & 1u) != 0 ? value[k] : 0.0f;
    store_some(dx + i, here, whole, value);
  }
};

template <typename T>
struct Gelu {
  const T* x;
  T* y;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit];
    load_some(x + i, here, whole, value);
    for (int k = 0; k < kUnit; ++k) value[k] = value[k] * normal(value[k]).cumulative;
    store_some(y + i, here, whole, value);
  }
};

// dx = dy (Phi(x) + x phi(x)).
template <typename T>
struct GeluBackward {
  const T *x, *dy;
  T* dx;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit], gradient[kUnit];
    load_some(x + i, here, whole, value);
    load_some(dy + i, here, whole, gradient);
    for (int k = 0; k < kUnit; ++k) {
      const Normal n = normal(value[k]);
      gradient[k] = gradient[k] * fmaf(value[k], n.kernel * 0.398942280f, n.cumulative);
    }
    store_some(dx + i, here, whole, gradient);
  }
};

template <typename T>
struct Add {
  const T *a, *b;
  T* y;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit], other[kUnit];
    load_some(a + i, here, whole, value);
    load_some(b + i, here, whole, other);
    for (int k = 0; k < kUnit; ++k) value[k] = value[k] + other[k];
    store_some(y + i, here, whole, value);
  }
};

struct Dropout {
  const float* x;
  float* y;
  RngKey key;
  uint32_t threshold;
  float scale;

  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit];
    load_some(x + i, here, whole, value);
    const PhiloxBlock random = philox(key, static_cast<uint64_t>(i / kUnit));
    for (int k = 0; k < kUnit; ++k) value[k] = random16(random, k) >= threshold ? value[k] * scale : 0.0f;
    store_some(y + i, here, whole, value);
  }
};

template <typename Op>
void run(const char* name, const Op& op, int64_t count, bool aligned) {
  const LaunchShape shape{.blocks = blocks_for(count, int64_t{kThreads} * kUnit), .threads = kThreads};
  launch(name, aligned ? each_unit<kUnit, true, Op> : each_unit<kUnit, false, Op>, shape, op, count);
}

template <typename From, typename To>
void convert_of(const ConvertArgs& a) {
  run("convert", Convert<From, To>{a.x.as<From>(), a.y.as<To>()}, a.count, are_aligned(a.x.data, a.y.data));
}
void convert(const ConvertArgs& a) {
  if (a.x.bfloat16) {
    a.y.bfloat16 ? convert_of<BFloat16, BFloat16>(a) : convert_of<BFloat16, float>(a);
  } else {
    a.y.bfloat16 ? convert_of<float, BFloat16>(a) : convert_of<float, float>(a);
  }
}

template <typename T>
void relu_of(const ReluArgs& a) {
  run("relu", Relu<T>{a.x.as<T>(), a.y.as<T>(), a.mask, a.ceiling > 0 ? 1 : 0, a.ceiling}, a.count,
      are_aligned(a.x.data, a.y.data));
}
void relu(const ReluArgs& a) { a.x.bfloat16 ? relu_of<BFloat16>(a) : relu_of<float>(a); }

template <typename T>
void relu_backward_of(const ReluBackwardArgs& a) {
  run("relu_backward", ReluBackward<T>{a.dy.as<T>(), a.mask, a.dx.as<T>()}, a.count, are_aligned(a.dy.data, a.dx.data));
}
void relu_backward(const ReluBackwardArgs& a) {
  a.dy.bfloat16 ? relu_backward_of<BFloat16>(a) : relu_backward_of<float>(a);
}

template <typename T>
void gelu_of(const GeluArgs& a) {
  run("gelu", Gelu<T>{a.x.as<T>(), a.y.as<T>()}, a.count, are_aligned(a.x.data, a.y.data));
}
void gelu(const GeluArgs& a) { a.x.bfloat16 ? gelu_of<BFloat16>(a) : gelu_of<float>(a); }

template <typename T>
void gelu_backward_of(const GeluBackwardArgs& a) {
  run("gelu_backward", GeluBackward<T>{a.x.as<T>(), a.dy.as<T>(), a.dx.as<T>()}, a.count,
      are_aligned(a.x.data, a.dy.data, a.dx.data));
}
void gelu_backward(const GeluBackwardArgs& a) {
  a.x.bfloat16 ? gelu_backward_of<BFloat16>(a) : gelu_backward_of<float>(a);
}

template <typename T>
void add_of(const AddArgs& a) {
  run("add", Add<T>{a.a.as<T>(), a.b.as<T>(), a.y.as<T>()}, a.count, are_aligned(a.a.data, a.b.data, a.y.data));
}
void add(const AddArgs& a) { a.a.bfloat16 ? add_of<BFloat16>(a) : add_of<float>(a); }

void dropout(const DropoutArgs& a) {
  const auto threshold = static_cast<uint32_t>(std::lround(static_cast<double>(a.probability) * 65536.0));
  run("dropout", Dropout{a.x, a.y, a.key, threshold, 1.0f / (1.0f - a.probability)}, a.count, are_aligned(a.x, a.y));
}

// ---- Sums of columns ------------------------------------------------------------------------------------------------

template <int N>
struct ColumnTerms {
  static constexpr int kBatch = 4, kBlocks = 1;
  using Row = Packed<float, N>;
  struct Columns {
    __device__ void add(const Row& x, int64_t, float (&sums)[2][N]) const {
      for (int k = 0; k < N; ++k) sums[0][k] += x[k];
    }
  };
  const float* x;

  __device__ Row load(int64_t, int64_t at) const { return Row::load(x + at); }
  __device__ Columns columns(int64_t) const { return {}; }
};

struct StoreSum {
  float* sum;

  __device__ void column(int64_t column, double first, double) const { sum[column] = static_cast<float>(first); }
};

void column_sum(const ColumnSumArgs& a) {
  if (a.cols % 4 == 0 && are_aligned(a.x)) {
    sum_over_rows<4>("column_sum", ColumnTerms<4>{a.x}, a.rows, a.cols, StoreSum{a.sum});
  } else {
    sum_over_rows<1>("column_sum", ColumnTerms<1>{a.x}, a.rows, a.cols, StoreSum{a.sum});
  }
}

}  // namespace

void add_pointwise(Kernels& table) {
  table.convert = {convert, "cuda"};
  table.relu = {relu, "cuda"};
  table.relu_backward = {relu_backward, "cuda"};
  table.gelu = {gelu, "cuda"};
  table.gelu_backward = {gelu_backward, "cuda"};
  table.add = {add, "cuda"};
  table.dropout = {dropout, "cuda"};
  table.column_sum = {column_sum, "cuda"};
}

}  // namespace luq::kernels::cuda
