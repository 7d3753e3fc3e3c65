// Batch norm, with what follows it in a network: bound by memory.
//
// Batch norm's kernels keep a thread at its columns, in the tiling of columns.h, so that the parameters of 8 channels
// are read once and then lie in registers. Where c is no multiple of 8 or a pointer not aligned to 16 bytes, sums have
// a column a thread, and the other passes 8 elements a thread, each of which looks up its channel. Either way a thread
// has whole bytes of the mask.
//
// Forward: one pass for the moments, of x - x[0], so that a mean far from 0 costs no digits; one for the rest: apply,
// add, ReLU and mask. Backward: one pass for the sums of dy and dy (x - mean), which also writes dy where the mask is
// set; one for dx. Bytes an element of bfloat16: 2 for the moments, 4.125 (6.125 with a residual) forward, 4.125
// (6.125) and 6.125 backward.
//
// If statistics of the results are wanted, the last pass has their order: 8 threads walk a chunk of 4096 elements,
// each with 8 of its 64 lanes, and find their channels' parameters in shared memory, 12 or 16 bytes an element of it.
// Beyond 2048 channels, and where c is no multiple of 8, the statistics' own kernels read the results again.
//
// Fused and plain kernels are the same, so results of the chain in float32 are those of the fused kernel, to the bit.
#include <cmath>

#include "kernels/cuda/chunk_sums.h"
#include "kernels/cuda/columns.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

// Rows that a thread loads before it works on them.
template <typename T, int N>
constexpr int kBatchOf = sizeof(T) == 2 || N == 1 ? 4 : 2;
// Blocks of the sums on a multiprocessor: as many as 64 registers a thread allow, where these are enough.
template <typename T, int N>
constexpr int kBlocksOf = sizeof(T) == 2 && N == 8 ? 4 : 1;

// ---- The moments of batch norm --------------------------------------------------------------------------------------

template <typename T, int N>
struct MomentTerms {
  static constexpr int kBatch = kBatchOf<T, N>, kBlocks = kBlocksOf<T, N>;
  using Row = Packed<T, N>;
  struct Columns {
    Row shift;
    __device__ void add(const Row& x, int64_t, float (&sums)[2][N]) const {
      for (int k = 0; k < N; ++k) {
        const float difference = x[k] - shift[k];
        sums[0][k] += difference;
        sums[1][k] = fmaf(difference, difference, sums[1][k]);
      }
    }
  };
  const T* x;

  __device__ Row load(int64_t, int64_t at) const { return Row::load(x + at); }
  __device__ Columns columns(int64_t column) const { return {Row::load(x + column)}; }
};

template <typename T>
struct StoreMoments {
  const T* x;
  int64_t rows;
  float *mean, *variance;

  __device__ void column(int64_t column, double sum, double squares) const {
    const double count = static_cast<double>(rows), shifted = sum / count;
    const double spread = squares / count - shifted * shifted;
    mean[column] = static_cast<float>(static_cast<double>(load1(x + column)) + shifted);
    variance[column] = static_cast<float>(spread < 0 ? 0 : spread);  // a NaN stays one
  }
};

template <typename T>
void batch_norm_stats_of(const BatchNormStatsArgs& a) {
  const T* x = a.x.as<T>();
  const StoreMoments<T> store{x, a.rows, a.mean, a.variance};
  if (a.c % kUnit == 0 && are_aligned(x)) {
    sum_over_rows<kUnit>("batch_norm_stats", MomentTerms<T, kUnit>{x}, a.rows, a.c, store);
  } else {
    sum_over_rows<1>("batch_norm_stats", MomentTerms<T, 1>{x}, a.rows, a.c, store);
  }
}
void batch_norm_stats(const BatchNormStatsArgs& a) {
  if (a.rows == 0) return;
  a.x.bfloat16 ? batch_norm_stats_of<BFloat16>(a) : batch_norm_stats_of<float>(a);
}

// ---- Batch norm, forward --------------------------------------------------------------------------------------------

// BatchNormActArgs, but for what the host wants back.
template <typename T>
struct Forward {
  const T *x, *residual;
  T* y;
  const float *mean, *inverse_std, *gamma, *beta;
  uint8_t* mask;
  int64_t c;
  int relu;  // 0 or 1
  float ceiling;

  // The result for a value, which may be above the ceiling.
  __device__ float activated(float value) const {
    if (relu == 0) return value;
    return value <= 0 ? 0.0f : ceiling > 0 && value >= ceiling ? ceiling : value;
  }
  // The byte of the mask for what is stored.
  __device__ uint8_t passed(const Packed<T, kUnit>& stored, uint32_t ceiling_bits) const {
    uint32_t bits = 0;
    for (int k = 0; k < kUnit; ++k) {
      bits |= (stored.bits(k) != 0 && stored.bits(k) != ceiling_bits ? 1u : 0u) << k;
    }
    return static_cast<uint8_t>(bits);
  }

  // Any c, any address.
  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit], added[kUnit];
    load_some(x + i, here, whole, value);
    if (residual != nullptr) load_some(residual + i, here, whole, added);
    int64_t channel = i % c;
    for (int k = 0; k < kUnit; ++k) {
      value[k] = (value[k] - mean[channel]) * (inverse_std[channel] * gamma[channel]) + beta[channel];
      if (residual != nullptr) value[k] += added[k];
      value[k] = k < here ? activated(value[k]) : 0.0f;
      if (++channel == c) channel = 0;
    }
    store_some(y + i, here, whole, value);
    if (mask != nullptr) mask[i / kUnit] = passed(Packed<T, kUnit>::of(value), stored_bits(ceiling, x));
  }
};

// A thread's 8 channels.
template <typename T, bool kResidual>
struct ForwardColumns {
  using Row = Packed<T, kUnit>;
  float mean[kUnit], factor[kUnit], beta[kUnit];
  uint32_t ceiling_bits;

  __device__ ForwardColumns(const Forward<T>& a, int64_t column) : ceiling_bits(stored_bits(a.ceiling, a.x)) {
    const auto center = Packed<float, kUnit>::load(a.mean + column);
    const auto scale = Packed<float, kUnit>::load(a.inverse_std + column);
    const auto gamma = Packed<float, kUnit>::load(a.gamma + column);
    const auto shift = Packed<float, kUnit>::load(a.beta + column);
    for (int k = 0; k < kUnit; ++k) {
      mean[k] = center[k];
      factor[k] = scale[k] * gamma[k];
      beta[k] = shift[k];
    }
  }
  // Does `kCount` rows, `step` elements apart.
  template <int kCount>
  __device__ void run(const Forward<T>& a, int64_t at, int64_t step) const {
    Row x[kCount], residual[kCount];
    for (int r = 0; r < kCount; ++r) {
      x[r] = Row::load(a.x + at + r * step);
      if (kResidual) residual[r] = Row::load(a.residual + at + r * step);
    }
    for (int r = 0; r < kCount; ++r) {
      float value[kUnit];
      for (int k = 0; k < kUnit; ++k) {
        value[k] = (x[r][k] - mean[k]) * factor[k] + beta[k];
        if (kResidual) value[k] += residual[r][k];
        value[k] = a.activated(value[k]);
      }
      const Row stored = Row::of(value);
      stored.store(a.y + at + r * step);
      if (a.mask != nullptr) a.mask[(at + r * step) / kUnit] = a.passed(stored, ceiling_bits);
    }
  }
};

template <typename T, bool kResidual>
__global__ void __launch_bounds__(kThreads) forward_columns(Forward<T> a, int64_t rows, ColumnTiling t) {
  constexpr int kBatch = sizeof(T) == 2 ? 1 : 2;
  const ColumnPlace p = place_in<kUnit>(t, rows, a.c);
  if (!p.inside) return;
  const ForwardColumns<T, kResidual> columns(a, p.column);
  const int64_t step = t.lanes * a.c;
  int64_t row = p.row, at = p.row * a.c + p.column;
  for (; row + (kBatch - 1) * t.lanes < p.end; row += kBatch * t.lanes, at += kBatch * step) {
    columns.template run<kBatch>(a, at, step);
  }
  for (; row < p.end; row += t.lanes, at += step) columns.template run<1>(a, at, step);
}

// ---- With statistics of the results ---------------------------------------------------------------------------------

constexpr int kMostColumns = 2048;  // whose parameters shared memory has

template <typename Op>
struct ParameterShared {
  float values[Op::kParameters][kMostColumns];
};

// Op: kParameters; put_parameters(values); Loaded, what load(at) reads of 8 elements; finish(at, loaded, parameters of
// their channels), which writes the results and returns them. c is a multiple of 8.
template <typename Op>
__global__ void __launch_bounds__(kThreads) chunk_pass(Op op, int64_t count, int c, ChunkSums* sums) {
  constexpr int kLoads = 4, kLanes = kUnit, kChunkThreads = LaneSums<kLanes>::kThreads;
  auto& shared = luq::device::shared_memory<ParameterShared<Op>>();
  for (int column = static_cast<int>(threadIdx.x); column < c; column += kThreads)
    op.put_parameters(column, shared.values);
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x % kChunkThreads);
  const int64_t chunk = int64_t{blockIdx.x} * (kThreads / kChunkThreads) + threadIdx.x / kChunkThreads;
  int64_t at = chunk * kStatsChunk + t * kLanes;
  const int64_t left = count - at, most = kStatsChunk - t * kLanes;
  const int units = left <= 0 ? 0 : static_cast<int>(((left < most ? left : most) + kStatsLanes - 1) / kStatsLanes);
  int column = static_cast<int>(at % c);
  const int advance = kStatsLanes % c;
  LaneSums<kLanes> lanes;
  const auto finish = [&](const typename Op::Loaded& loaded, int64_t here) {
    Packed<float, kUnit> parameters[Op::kParameters];
    for (int p = 0; p < Op::kParameters; ++p) parameters[p] = Packed<float, kUnit>::load(shared.values[p] + column);
    column += advance;
    if (column >= c) column -= c;
    const auto stored = op.finish(here, loaded, parameters);
    for (int k = 0; k < kUnit; ++k) lanes.add(k, stored[k]);
  };
  int unit = 0;
  for (; unit + kLoads <= units; unit += kLoads, at += kLoads * kStatsLanes) {
    typename Op::Loaded loaded[kLoads];
    LUQ_UNROLL
    for (int i = 0; i < kLoads; ++i) loaded[i] = op.load(at + i * kStatsLanes);
    LUQ_UNROLL
    for (int i = 0; i < kLoads; ++i) finish(loaded[i], at + i * kStatsLanes);
  }
  for (; unit < units; ++unit, at += kStatsLanes) finish(op.load(at), at);
  const ChunkSums all = lanes.fold();
  if (t == 0 && chunk * kStatsChunk < count) sums[chunk] = all;
}

template <typename Op>
Stats run_chunk_pass(const char* name, const Op& op, int64_t count, int64_t c) {
  ChunkSums* sums = chunk_sums_for(count);
  constexpr int64_t kChunksOfBlock = kThreads / LaneSums<kUnit>::kThreads;
  launch(name, chunk_pass<Op>,
         {.blocks = blocks_for(count, kStatsChunk * kChunksOfBlock),
          .threads = kThreads,
          .shared_bytes = sizeof(ParameterShared<Op>)},
         op, count, static_cast<int>(c), sums);
  return add_up_chunks(count);
}

template <typename T, bool kResidual>
struct ForwardChunks {
  static constexpr int kParameters = 3;
  struct Loaded {
    Packed<T, kUnit> x, residual;
  };
  Forward<T> a;

  __device__ void put_parameters(int column, float (&values)[kParameters][kMostColumns]) const {
    values[0][column] = a.mean[column];
    values[1][column] = a.inverse_std[column] * a.gamma[column];
    values[2][column] = a.beta[column];
  }
  __device__ Loaded load(int64_t at) const {
    Loaded loaded;
    loaded.x = Packed<T, kUnit>::load(a.x + at);
    if (kResidual) loaded.residual = Packed<T, kUnit>::load(a.residual + at);
    return loaded;
  }
  __device__ Packed<T, kUnit> finish(int64_t at, const Loaded& loaded,
                                     const Packed<float, kUnit> (&parameters)[kParameters]) const {
    float value[kUnit];
    for (int k = 0; k < kUnit; ++k) {
      value[k] = (loaded.x[k] - parameters[0][k]) * parameters[1][k] + parameters[2][k];
      if (kResidual) value[k] += loaded.residual[k];
      value[k] = a.activated(value[k]);
    }
    const auto stored = Packed<T, kUnit>::of(value);
    stored.store(a.y + at);
    if (a.mask != nullptr) a.mask[at / kUnit] = a.passed(stored, stored_bits(a.ceiling, a.x));
    return stored;
  }
};

// By the statistics' own kernels, of quantize.cu.
void take_stats(const ConstFloats& x, int64_t count, Stats* stats) {
  static const Kernels quantizers = [] {
    Kernels table;
    add_quantize(table);
    return table;
  }();
  if (stats != nullptr) quantizers.stats.run({.x = x, .count = count, .stats = stats});
}

template <typename T>
void batch_norm_act_of(const char* name, const BatchNormActArgs& a) {
  const Forward<T> forward{.x = a.x.as<T>(),
                           .residual = a.residual.as<T>(),
                           .y = a.y.as<T>(),
                           .mean = a.mean,
                           .inverse_std = a.inverse_std,
                           .gamma = a.gamma,
                           .beta = a.beta,
                           .mask = a.mask,
                           .c = a.c,
                           .relu = a.relu ? 1 : 0,
                           .ceiling = a.ceiling > 0 ? a.ceiling : 0.0f};
  const int64_t count = a.rows * a.c;
  const bool aligned = are_aligned(forward.x, forward.residual, forward.y);
  if (a.c % kUnit == 0 && a.c <= kMostColumns && aligned && a.stats != nullptr) {
    *a.stats = a.residual ? run_chunk_pass(name, ForwardChunks<T, true>{forward}, count, a.c)
                          : run_chunk_pass(name, ForwardChunks<T, false>{forward}, count, a.c);
    return;
  }
  if (a.c % kUnit == 0 && aligned && are_aligned(a.mean, a.inverse_std, a.gamma, a.beta)) {
    const ColumnTiling t = tile_columns(a.rows, a.c, kUnit);
    launch(name, a.residual ? forward_columns<T, true> : forward_columns<T, false>,
           {.blocks = t.blocks(), .threads = kThreads}, forward, a.rows, t);
  } else {
    const LaunchShape shape{.blocks = blocks_for(count, int64_t{kThreads} * kUnit), .threads = kThreads};
    launch(name, aligned ? each_unit<kUnit, true, Forward<T>> : each_unit<kUnit, false, Forward<T>>, shape, forward,
           count);
  }
  take_stats(a.y, count, a.stats);
}
void batch_norm_act(const BatchNormActArgs& a) {
  a.x.bfloat16 ? batch_norm_act_of<BFloat16>("batch_norm_act", a) : batch_norm_act_of<float>("batch_norm_act", a);
}

void batch_norm_apply(const BatchNormApplyArgs& a) {
  const BatchNormActArgs plain{.x = a.x,
                               .rows = a.rows,
                               .c = a.c,
                               .mean = a.mean,
                               .inverse_std = a.inverse_std,
                               .gamma = a.gamma,
                               .beta = a.beta,
                               .residual = nullptr,
                               .relu = false,
                               .y = a.y,
                               .mask = nullptr,
                               .stats = nullptr};
  a.x.bfloat16 ? batch_norm_act_of<BFloat16>("batch_norm_apply", plain)
               : batch_norm_act_of<float>("batch_norm_apply", plain);
}

// ---- Batch norm, backward -------------------------------------------------------------------------------------------

// The bits of the mask for N elements from `at` on.
template <int N>
__device__ uint32_t mask_at(const uint8_t* mask, int64_t at) {
  if (mask == nullptr) return 0xffu;
  return N == 1 ? mask[at / kUnit] >> (at % kUnit) & 1u : mask[at / kUnit];
}

template <typename T, int N>
struct BackwardTerms {
  static constexpr int kBatch = N == 1 ? 4 : 2, kBlocks = kBlocksOf<T, N>;
  struct Row {
    Packed<T, N> x, dy;
    uint32_t mask;
  };
  struct Columns {
    float mean[N];
    T* dresidual;

    __device__ void add(const Row& row, int64_t at, float (&sums)[2][N]) const {
      float gradient[N];
      for (int k = 0; k < N; ++k) {
        gradient[k] = (row.mask >> k & 1u) != 0 ? row.dy[k] : 0.0f;
        sums[0][k] += gradient[k];
        sums[1][k] = fmaf(gradient[k], row.x[k] - mean[k], sums[1][k]);
      }
      if (dresidual != nullptr) Packed<T, N>::of(gradient).store(dresidual + at);
    }
  };
  const T *x, *dy;
  const uint8_t* mask;
  const float* mean;
  T* dresidual;

  __device__ Row load(int64_t, int64_t at) const {
    return {Packed<T, N>::load(x + at), Packed<T, N>::load(dy + at), mask_at<N>(mask, at)};
  }
  __device__ Columns columns(int64_t column) const {
    Columns columns;
    for (int k = 0; k < N; ++k) columns.mean[k] = mean[column + k];
    columns.dresidual = dresidual;
    return columns;
  }
};

// dx = factor (dy - mean of dy - (x - mean) slope), slope = inverse_std^2 mean of dy (x - mean).
struct Slope {
  float mean, factor, dy_mean, slope;

  __device__ float gradient(float x, float dy) const { return factor * ((dy - dy_mean) - (x - mean) * slope); }
};

template <typename T>
struct Backward {
  const T *x, *dy;
  T* dx;
  const float *mean, *inverse_std, *gamma, *dgamma, *dbeta;
  const uint8_t* mask;
  int64_t c;
  int training;  // 0 or 1
  float per_row;

  __device__ Slope slope_of(int64_t channel) const {
    const float scale = inverse_std[channel];
    if (training == 0) return {mean[channel], gamma[channel] * scale, 0.0f, 0.0f};
    return {mean[channel], gamma[channel] * scale, dbeta[channel] * per_row, dgamma[channel] * per_row * scale};
  }

  // Any c, any address.
  __device__ void at(int64_t i, int here, bool whole) const {
    float value[kUnit], gradient[kUnit];
    load_some(x + i, here, whole, value);
    load_some(dy + i, here, whole, gradient);
    const uint32_t passed = mask_at<kUnit>(mask, i);
    int64_t channel = i % c;
    for (int k = 0; k < kUnit; ++k) {
      gradient[k] = slope_of(channel).gradient(value[k], (passed >> k & 1u) != 0 ? gradient[k] : 0.0f);
      if (++channel == c) channel = 0;
    }
    store_some(dx + i, here, whole, gradient);
  }
};

// A thread's 8 channels.
template <typename T>
struct BackwardColumns {
  using Row = Packed<T, kUnit>;
  Slope slopes[kUnit];

  __device__ BackwardColumns(const Backward<T>& a, int64_t column) {
    for (int k = 0; k < kUnit; ++k) slopes[k] = a.slope_of(column + k);
  }
  // Does `kCount` rows, `step` elements apart.
  template <int kCount>
  __device__ void run(const Backward<T>& a, int64_t at, int64_t step) const {
    Row x[kCount], dy[kCount];
    uint32_t passed[kCount];
    for (int r = 0; r < kCount; ++r) {
      x[r] = Row::load(a.x + at + r * step);
      dy[r] = Row::load(a.dy + at + r * step);
      passed[r] = mask_at<kUnit>(a.mask, at + r * step);
    }
    for (int r = 0; r < kCount; ++r) {
      float gradient[kUnit];
      for (int k = 0; k < kUnit; ++k) {
        gradient[k] = slopes[k].gradient(x[r][k], (passed[r] >> k & 1u) != 0 ? dy[r][k] : 0.0f);
      }
      Row::of(gradient).store(a.dx + at + r * step);
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads) backward_columns(Backward<T> a, int64_t rows, ColumnTiling t) {
  constexpr int kBatch = 2;
  const ColumnPlace p = place_in<kUnit>(t, rows, a.c);
  if (!p.inside) return;
  const BackwardColumns<T> columns(a, p.column);
  const int64_t step = t.lanes * a.c;
  int64_t row = p.row, at = p.row * a.c + p.column;
  for (; row + (kBatch - 1) * t.lanes < p.end; row += kBatch * t.lanes, at += kBatch * step) {
    columns.template run<kBatch>(a, at, step);
  }
  for (; row < p.end; row += t.lanes, at += step) columns.template run<1>(a, at, step);
}

template <typename T>
struct BackwardChunks {
  static constexpr int kParameters = 4;
  struct Loaded {
    Packed<T, kUnit> x, dy;
    uint32_t passed;
  };
  Backward<T> a;

  __device__ void put_parameters(int column, float (&values)[kParameters][kMostColumns]) const {
    const Slope slope = a.slope_of(column);
    values[0][column] = slope.mean;
    values[1][column] = slope.factor;
    values[2][column] = slope.dy_mean;
    values[3][column] = slope.slope;
  }
  __device__ Loaded load(int64_t at) const {
    return {Packed<T, kUnit>::load(a.x + at), Packed<T, kUnit>::load(a.dy + at), mask_at<kUnit>(a.mask, at)};
  }
  __device__ Packed<T, kUnit> finish(int64_t at, const Loaded& loaded,
                                     const Packed<float, kUnit> (&p)[kParameters]) const {
    float gradient[kUnit];
    for (int k = 0; k < kUnit; ++k) {
      const float dy = (loaded.passed >> k & 1u) != 0 ? loaded.dy[k] : 0.0f;
      gradient[k] = Slope{p[0][k], p[1][k], p[2][k], p[3][k]}.gradient(loaded.x[k], dy);
    }
    const auto stored = Packed<T, kUnit>::of(gradient);
    stored.store(a.dx + at);
    return stored;
  }
};

template <typename T>
void batch_norm_act_backward_of(const char* name, const BatchNormActBackwardArgs& a) {
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  T *dx = a.dx.as<T>(), *dresidual = a.dresidual.as<T>();
  const int64_t count = a.rows * a.c;
  const bool aligned = are_aligned(x, dy, dx, dresidual);
  const StoreGradients store{a.inverse_std, a.dgamma, a.dbeta};
  const Backward<T> backward{.x = x,
                             .dy = dy,
                             .dx = dx,
                             .mean = a.mean,
                             .inverse_std = a.inverse_std,
                             .gamma = a.gamma,
                             .dgamma = a.dgamma,
                             .dbeta = a.dbeta,
                             .mask = a.mask,
                             .c = a.c,
                             .training = a.training ? 1 : 0,
                             .per_row = a.rows > 0 ? 1.0f / static_cast<float>(a.rows) : 0.0f};
  if (a.c % kUnit == 0 && aligned) {
    const ColumnTiling t = tile_columns(a.rows, a.c, kUnit);
    sum_over_rows<kUnit>(name, BackwardTerms<T, kUnit>{x, dy, a.mask, a.mean, dresidual}, a.rows, a.c, store);
    if (a.c <= kMostColumns && a.stats != nullptr) {
      *a.stats = run_chunk_pass(name, BackwardChunks<T>{backward}, count, a.c);
      return;
    }
    launch(name, backward_columns<T>, {.blocks = t.blocks(), .threads = kThreads}, backward, a.rows, t);
  } else {
    sum_over_rows<1>(name, BackwardTerms<T, 1>{x, dy, a.mask, a.mean, dresidual}, a.rows, a.c, store);
    const LaunchShape shape{.blocks = blocks_for(count, int64_t{kThreads} * kUnit), .threads = kThreads};
    launch(name, aligned ? each_unit<kUnit, true, Backward<T>> : each_unit<kUnit, false, Backward<T>>, shape, backward,
           count);
  }
  take_stats(a.dx, count, a.stats);
}
void batch_norm_act_backward(const BatchNormActBackwardArgs& a) {
  a.x.bfloat16 ? batch_norm_act_backward_of<BFloat16>("batch_norm_act_backward", a)
               : batch_norm_act_backward_of<float>("batch_norm_act_backward", a);
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  const BatchNormActBackwardArgs plain{.x = a.x,
                                       .dy = a.dy,
                                       .rows = a.rows,
                                       .c = a.c,
                                       .mean = a.mean,
                                       .inverse_std = a.inverse_std,
                                       .gamma = a.gamma,
                                       .training = a.training,
                                       .mask = nullptr,
                                       .dresidual = nullptr,
                                       .dx = a.dx,
                                       .dgamma = a.dgamma,
                                       .dbeta = a.dbeta,
                                       .stats = nullptr};
  a.x.bfloat16 ? batch_norm_act_backward_of<BFloat16>("batch_norm_backward", plain)
               : batch_norm_act_backward_of<float>("batch_norm_backward", plain);
}

}  // namespace

void add_batch_norm(Kernels& table) {
  table.batch_norm_stats = {batch_norm_stats, "cuda"};
  table.batch_norm_apply = {batch_norm_apply, "cuda"};
  table.batch_norm_backward = {batch_norm_backward, "cuda"};
  table.batch_norm_act = {batch_norm_act, "cuda"};
  table.batch_norm_act_backward = {batch_norm_act_backward, "cuda"};
}

}  // namespace luq::kernels::cuda
