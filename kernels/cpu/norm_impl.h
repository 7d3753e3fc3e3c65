// Batch norm in vectors of any width, with what follows it in a network: the residual added, ReLU, and the statistics
// from which the result is quantised. All of it is bound by memory, so the aim is few passes: forward, one for the mean
// and variance and one for everything else; backward, one for the sums and one for the gradient and its statistics.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// Sums over rows are cut into chunks of rows whose size follows from the number of columns alone. In a chunk, strips of
// up to 8 vectors of columns are summed in registers, in float32; where a strip is narrower, several accumulators take
// rows in turn. Chunks are added in double, in order, in at most kMostGroups groups, and the groups in order. Where
// the tensor does not fit in the caches, a chunk is read in memory order first: prefetchers do not follow a strip. The
// variance is that of x - x[0], so that a mean far from 0 costs no digits.
//
// The other passes run over flat chunks of kStatsChunk elements. A parameter of a channel is read at the place of the
// element in a table that repeats the channels to a multiple of the vector's width.

#include "kernels/cpu/stats_impl.h"

using Float = typename Simd::Float;
constexpr int64_t kLanes = Simd::kLanes;

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Scratch {
  void* memory = nullptr;
  int64_t size = 0;
  template <typename T>
  T* get(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
    if (bytes > size) {
      free(memory);
      size = bytes;
      memory = aligned_alloc(64, static_cast<size_t>(bytes));
      if (memory == nullptr) abort();
    }
    return static_cast<T*>(memory);
  }
  ~Scratch() { free(memory); }
};

thread_local Scratch partial_scratch, column_scratch, parameter_scratch;

// ---- Sums over rows ------------------------------------------------------------------------------------------------

int64_t chunk_rows(int64_t cols) { return larger(16, smaller(256, 4096 / larger(cols, 1))); }

constexpr int64_t kMostGroups = 64;
constexpr int64_t kCachedElements = int64_t{1} << 20;

// Reads every cache line of x[begin] to x[end - 1] in memory order, which hardware prefetchers follow; they do not
// follow a walk along strips of columns.
template <typename T>
inline void read_ahead(const T* x, int64_t begin, int64_t end) {
  const char* bytes = reinterpret_cast<const char*>(x);
  constexpr int64_t kBytes = sizeof(T);
  for (int64_t i = begin * kBytes; i < end * kBytes; i += 64) asm volatile("" : : "r"(bytes[i]));
}

struct TwoSums {
  Float first, second;
};

// first[c], second[c]: sums over rows of the pair that terms(row, c, count) gives for `count` <= kLanes columns from c.
// read_chunk(begin, end): brings these elements, in row-major order, into the cache.
template <typename Terms, typename ReadAhead>
void sum_columns(int64_t rows, int64_t cols, double* first, double* second, Terms terms, ReadAhead read_chunk) {
  const int64_t step = chunk_rows(cols), chunks = (rows + step - 1) / step;
  const int64_t padded = (cols + kLanes - 1) / kLanes * kLanes;
  const int64_t group_chunks = (chunks + kMostGroups - 1) / kMostGroups;
  const int64_t groups = group_chunks > 0 ? (chunks + group_chunks - 1) / group_chunks : 0;
  const bool far = cols > 8 * kLanes && rows * cols > kCachedElements;
  double* partials = partial_scratch.get<double>(groups * 2 * padded);
  // The rows of a chunk in a strip of columns. The accumulators of a vector take rows in turn.
  const auto walk = [&](int64_t chunk, int64_t c, double* totals, auto width) {
    constexpr int kVectors = decltype(width)::value, kTurns = 8 / kVectors;
    const int64_t end = smaller((chunk + 1) * step, rows);
    TwoSums sums[kVectors][kTurns];
    for (int v = 0; v < kVectors; ++v) {
      for (int turn = 0; turn < kTurns; ++turn) sums[v][turn] = {Simd::zero(), Simd::zero()};
    }
    const auto add = [&](int64_t row, auto turn) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = c + v * kLanes;
        const TwoSums t = terms(row, at, kVectors == 1 ? smaller(cols - at, kLanes) : kLanes);
        TwoSums& sum = sums[v][decltype(turn)::value];
        sum = {Simd::add(sum.first, t.first), Simd::add(sum.second, t.second)};
      }
    };
    int64_t row = chunk * step;
    for (; row + kTurns <= end; row += kTurns) for_numbers<kTurns>([&](auto turn) { add(row + turn.value, turn); });
    for_numbers<kTurns>([&](auto turn) {
      if (row + turn.value < end) add(row + turn.value, turn);
    });
    for (int v = 0; v < kVectors; ++v) {
      TwoSums total = sums[v][0];
      for (int turn = 1; turn < kTurns; ++turn) {
        total = {Simd::add(total.first, sums[v][turn].first), Simd::add(total.second, sums[v][turn].second)};
      }
      Simd::add_to_doubles(totals + c + v * kLanes, total.first);
      Simd::add_to_doubles(totals + padded + c + v * kLanes, total.second);
    }
  };
#pragma omp parallel if (rows * cols > kSmall)
  {
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; ++group) {
      double* totals = partials + group * 2 * padded;
      memset(totals, 0, static_cast<size_t>(2 * padded) * sizeof(double));
      for (int64_t chunk = group * group_chunks; chunk < smaller((group + 1) * group_chunks, chunks); ++chunk) {
        int64_t c = 0;
        if (far) read_chunk(chunk * step * cols, smaller((chunk + 1) * step, rows) * cols);
        for (; c + 8 * kLanes <= cols; c += 8 * kLanes) walk(chunk, c, totals, Number<8>{});
        if (c + 4 * kLanes <= cols) walk(chunk, c, totals, Number<4>{}), c += 4 * kLanes;
        if (c + 2 * kLanes <= cols) walk(chunk, c, totals, Number<2>{}), c += 2 * kLanes;
        for (; c < cols; c += kLanes) walk(chunk, c, totals, Number<1>{});
      }
    }
  }
  for (int64_t c = 0; c < cols; ++c) first[c] = second[c] = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const double* from = partials + group * 2 * padded;
    for (int64_t c = 0; c < cols; ++c) first[c] += from[c];
    for (int64_t c = 0; c < cols; ++c) second[c] += from[padded + c];
  }
}

void column_sum(const ColumnSumArgs& a) {
  double* sums = column_scratch.get<double>(2 * a.cols);
  sum_columns(
      a.rows, a.cols, sums, sums + a.cols,
      [&](int64_t row, int64_t c, int64_t count) {
        return TwoSums{Simd::load(a.x + row * a.cols + c, count), Simd::zero()};
      },
      [&](int64_t begin, int64_t end) { read_ahead(a.x, begin, end); });
  for (int64_t c = 0; c < a.cols; ++c) a.sum[c] = static_cast<float>(sums[c]);
}

template <typename T>
void batch_norm_stats_of(const BatchNormStatsArgs& a) {
  const T* x = a.x.as<T>();
  double* sums = column_scratch.get<double>(2 * a.c);
  sum_columns(
      a.rows, a.c, sums, sums + a.c,
      [&](int64_t row, int64_t c, int64_t count) {
        const Float d = Simd::sub(Simd::load(x + row * a.c + c, count), Simd::load(x + c, count));
        return TwoSums{d, Simd::mul(d, d)};
      },
      [&](int64_t begin, int64_t end) { read_ahead(x, begin, end); });
  const double rows = static_cast<double>(a.rows);
  for (int64_t c = 0; c < a.c; ++c) {
    const double shifted_mean = sums[c] / rows;
    const double variance = sums[a.c + c] / rows - shifted_mean * shifted_mean;
    a.mean[c] = static_cast<float>(static_cast<double>(as_float(x[c])) + shifted_mean);
    a.variance[c] = static_cast<float>(variance < 0 ? 0 : variance);  // a NaN stays one
  }
}

void batch_norm_stats(const BatchNormStatsArgs& a) {
  if (a.rows == 0) return;
  with_type(a.x.bfloat16, [&](auto type) { batch_norm_stats_of<decltype(type)>(a); });
}

// ---- Flat passes --------------------------------------------------------------------------------------------------

// `kinds` parameters of every channel, each in a table of its own, repeated to `period`: a multiple of 16 and of c.
struct ParameterTables {
  float* values;
  int64_t period;

  template <typename Value>
  static ParameterTables make(int64_t c, int kinds, Value value) {
    int64_t period = c;
    while (period % 16 != 0) period += c;
    ParameterTables tables{parameter_scratch.get<float>(kinds * period), period};
    for (int kind = 0; kind < kinds; ++kind) {
      for (int64_t i = 0; i < c; ++i) tables.values[kind * period + i] = value(kind, i);
      for (int64_t i = c; i < period; ++i) tables.values[kind * period + i] = tables.values[kind * period + i - c];
    }
    return tables;
  }
};

// Where a pass stands: the element in the tensor and its place in the parameter tables.
struct FlatPosition {
  const ParameterTables& tables;
  int64_t begin, place;

  FlatPosition(const ParameterTables& all, int64_t first) : tables(all), begin(first), place(first % all.period) {}
  Float parameter(int kind) const { return Simd::load(tables.values + kind * tables.period + place); }
  void next() {
    place += kLanes;
    if (place == tables.period) place = 0;
  }
};

// Runs the vectors of a Source over everything, and takes their statistics where they are wanted.
template <typename MakeSource>
void flat_pass(int64_t total, Stats* stats, MakeSource source) {
  if (stats != nullptr) {
    *stats = chunk_statistics(total, source);
    return;
  }
#pragma omp parallel for schedule(static) if (total > kSmall)
  for (int64_t begin = 0; begin < total; begin += kStatsChunk) {
    auto chunk = source(begin);
    const int64_t count = smaller(total - begin, kStatsChunk);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) chunk.full(i);
    if (i < count) chunk.part(i, count - i);
  }
}

template <typename T, bool kRelu, bool kResidual>
struct ApplySource {
  const BatchNormActArgs& a;
  FlatPosition position;
  const T *x = a.x.as<T>(), *residual = a.residual.as<T>();
  T* to = a.y.as<T>();

  Float full(int64_t i) { return part(i, kLanes); }
  Float part(int64_t i, int64_t count) {
    const int64_t at = position.begin + i;
    Float y = Simd::sub(Simd::load(x + at, count), position.parameter(0));
    y = Simd::add(Simd::mul(y, position.parameter(1)), position.parameter(2));
    if constexpr (kResidual) y = Simd::add(y, Simd::load(residual + at, count));
    if constexpr (kRelu) {
      if (a.mask != nullptr) {
        const uint32_t bits = Simd::positive_bits(y) & Simd::first_bits(count);
        memcpy(a.mask + at / 8, &bits, static_cast<size_t>((count + 7) / 8));
      }
      y = Simd::zero_where_not_positive(y);
    }
    y = Simd::keep(y, Simd::first_bits(count));
    Simd::store(to + at, y, count);
    position.next();
    return Simd::as_stored(to, y);
  }
};

template <typename T, bool kRelu, bool kResidual>
void apply(const BatchNormActArgs& a) {
  const ParameterTables tables = ParameterTables::make(a.c, 3, [&](int kind, int64_t c) {
    return kind == 0 ? a.mean[c] : kind == 1 ? a.inverse_std[c] * a.gamma[c] : a.beta[c];
  });
  flat_pass(a.rows * a.c, a.stats, [&](int64_t begin) { return ApplySource<T, kRelu, kResidual>{a, {tables, begin}}; });
}

void batch_norm_act(const BatchNormActArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    if (a.relu) {
      a.residual ? apply<T, true, true>(a) : apply<T, true, false>(a);
    } else {
      a.residual ? apply<T, false, true>(a) : apply<T, false, false>(a);
    }
  });
}

void batch_norm_apply(const BatchNormApplyArgs& a) {
  batch_norm_act({.x = a.x,
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
                  .stats = nullptr});
}

// The bits of `count` <= 16 elements from `at` of a mask.
inline uint32_t mask_bits(const uint8_t* mask, int64_t at, int64_t count) {
  uint32_t bits = 0;
  const int64_t shift = at % 8;
  if (shift == 0 && count == kLanes) {
    memcpy(&bits, mask + at / 8, kLanes / 8);
    return bits;
  }
  for (int64_t byte = 0; 8 * byte < shift + count; ++byte) {
    bits |= static_cast<uint32_t>(mask[at / 8 + byte]) << (8 * byte);
  }
  return bits >> shift;
}

template <typename T, bool kMask>
struct BackwardSource {
  const BatchNormActBackwardArgs& a;
  FlatPosition position;
  const T *x = a.x.as<T>(), *gradient = a.dy.as<T>();
  T* to = a.dx.as<T>();

  Float full(int64_t i) { return part(i, kLanes); }
  // dx = factor (dy - mean of dy - (x - mean) slope), slope = inverse_std^2 mean of dy (x - mean).
  Float part(int64_t i, int64_t count) {
    const int64_t at = position.begin + i;
    Float dy = Simd::load(gradient + at, count);
    if constexpr (kMask) dy = Simd::keep(dy, mask_bits(a.mask, at, count));
    const Float centered = Simd::sub(Simd::load(x + at, count), position.parameter(0));
    dy = Simd::sub(dy, position.parameter(2));
    Float dx = Simd::mul(position.parameter(1), Simd::sub(dy, Simd::mul(centered, position.parameter(3))));
    dx = Simd::keep(dx, Simd::first_bits(count));
    Simd::store(to + at, dx, count);
    position.next();
    return Simd::as_stored(to, dx);
  }
};

template <typename T, bool kMask, bool kResidual>
void backward(const BatchNormActBackwardArgs& a) {
  const T *x = a.x.as<T>(), *gradient = a.dy.as<T>();
  T* dresidual = a.dresidual.as<T>();
  double* sums = column_scratch.get<double>(2 * a.c);
  sum_columns(
      a.rows, a.c, sums, sums + a.c,
      [&](int64_t row, int64_t c, int64_t count) {
        const int64_t at = row * a.c + c;
        Float dy = Simd::load(gradient + at, count);
        if constexpr (kMask) dy = Simd::keep(dy, mask_bits(a.mask, at, count));
        if constexpr (kResidual) Simd::store(dresidual + at, dy, count);
        return TwoSums{dy, Simd::mul(dy, Simd::sub(Simd::load(x + at, count), Simd::load(a.mean + c, count)))};
      },
      [&](int64_t begin, int64_t end) {
        read_ahead(x, begin, end);
        read_ahead(gradient, begin, end);
      });
  for (int64_t c = 0; c < a.c; ++c) {
    a.dbeta[c] = static_cast<float>(sums[c]);
    a.dgamma[c] = static_cast<float>(sums[a.c + c] * static_cast<double>(a.inverse_std[c]));
  }
  const float per_row = a.training && a.rows > 0 ? 1.0f / static_cast<float>(a.rows) : 0.0f;
  const ParameterTables tables = ParameterTables::make(a.c, 4, [&](int kind, int64_t c) {
    return kind == 0   ? a.mean[c]
           : kind == 1 ? a.gamma[c] * a.inverse_std[c]
           : kind == 2 ? a.dbeta[c] * per_row
                       : a.dgamma[c] * per_row * a.inverse_std[c];
  });
  flat_pass(a.rows * a.c, a.stats, [&](int64_t begin) { return BackwardSource<T, kMask>{a, {tables, begin}}; });
}

void batch_norm_act_backward(const BatchNormActBackwardArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    if (a.mask != nullptr) {
      a.dresidual ? backward<T, true, true>(a) : backward<T, true, false>(a);
    } else {
      a.dresidual ? backward<T, false, true>(a) : backward<T, false, false>(a);
    }
  });
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  batch_norm_act_backward({.x = a.x,
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
                           .stats = nullptr});
}
