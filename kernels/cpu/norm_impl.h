// Batch norm and layer norm in vectors of any width. Batch norm with what follows it in a network: the residual added,
// ReLU, and the statistics from which the result is quantised. All of it is bound by memory, so the aim is few passes:
// forward, one for the mean and variance and one for everything else; backward, one for the sums and one for the
// gradient and its statistics.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// Everything works on pairs of vectors (pair_impl.h). Parameters of a channel are read from tables in the layout of
// pairs, which repeat the channels to a multiple of a pair's width.
//
// Sums over rows are cut into chunks of rows whose size follows from the number of columns alone. In a chunk, strips of
// up to 4 pairs of columns are summed in registers, in float32; where a strip is narrower, several accumulators take
// rows in turn, and where a pair is wider than a row and a multiple of it, it takes several rows at once. Chunks are
// added in double, in order, in at most kMostGroups groups, and the groups in order. Where the tensor does not fit in
// the caches, a chunk is read in memory order first: prefetchers do not follow a strip. The variance is that of x -
// x[0], so that a mean far from 0 costs no digits.
//
// The other passes run over flat chunks of kStatsChunk elements.

#include "kernels/cpu/stats_impl.h"

constexpr int64_t kLanes = Simd::kLanes;

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- Memory -------------------------------------------------------------------------------------------------------

thread_local Scratch partial_scratch, column_scratch, parameter_scratch;

int64_t chunk_rows(int64_t cols) { return larger(16, smaller(256, 4096 / larger(cols, 1))); }

constexpr int64_t kMostGroups = 64;

// How the rows of a sum are cut. Where a pair is wider than a row and a multiple of it, `width` is the pair's.
struct RowCut {
  int64_t width, rows, step, chunks, group_chunks, groups, padded;

  RowCut(int64_t all_rows, int64_t cols) {
    width = kPair % larger(cols, 1) == 0 ? kPair : cols;
    rows = (all_rows * cols + width - 1) / width;
    step = chunk_rows(width);
    chunks = (rows + step - 1) / step;
    group_chunks = (chunks + kMostGroups - 1) / kMostGroups;
    groups = group_chunks > 0 ? (chunks + group_chunks - 1) / group_chunks : 0;
    padded = (width + kPair - 1) / kPair * kPair;
  }
  int64_t partial_sums() const { return groups * 2 * padded; }
};

// Channels of a table of parameters: a multiple of kPair and of c.
int64_t table_period(int64_t c) {
  int64_t period = c;
  while (period % kPair != 0) period += c;
  return period;
}

// Gets what sums over (rows, cols) and tables of `kinds` parameters need; false where there is no memory for it.
bool have_memory(int64_t rows, int64_t cols, int kinds) {
  return partial_scratch.get<double>(RowCut(rows, cols).partial_sums()) != nullptr &&
         column_scratch.get<double>(2 * cols) != nullptr &&
         parameter_scratch.get<float>(kinds * table_period(cols)) != nullptr;
}

// ---- Parameters ---------------------------------------------------------------------------------------------------

// `kinds` parameters of every channel, each in a table of its own, repeated to `period`.
template <typename T>
struct ParameterTables {
  float* values;
  int64_t period;

  template <typename Value>
  static ParameterTables make(int64_t c, int kinds, Value value) {
    const int64_t period = table_period(c);
    ParameterTables tables{parameter_scratch.get<float>(kinds * period), period};
    for (int kind = 0; kind < kinds; ++kind) {
      float* table = tables.values + kind * period;
      for (int64_t i = 0; i < period; i += kPair) {
        for (int lane = 0; lane < kPair; ++lane) table[i + Pair<T>::lane(lane)] = value(kind, (i + lane) % c);
      }
    }
    return tables;
  }
  // The values for the first and for the second vector of the pair at `place`, a multiple of kPair.
  Float first(int kind, int64_t place) const { return Simd::load(values + kind * period + place); }
  Float second(int kind, int64_t place) const { return Simd::load(values + kind * period + place + kLanes); }
};

// ---- Sums over rows ------------------------------------------------------------------------------------------------

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

  TwoSums operator+(const TwoSums& other) const {
    return {Simd::add(first, other.first), Simd::add(second, other.second)};
  }
};
// The sums of the first and of the second vector of a pair.
struct PairSums {
  TwoSums halves[2];
};

// sums[c], sums[cols + c]: over rows of the two that terms(element, column, count) gives for the pair of which `count`
// elements are there. The column is a multiple of kPair, below the period of parameter tables.
// read_chunk(begin, end): brings these elements, in row-major order, into the cache.
template <typename T, typename Terms, typename ReadAhead>
void sum_columns(int64_t rows, int64_t cols, double* sums, Terms terms, ReadAhead read_chunk) {
  if (cols <= 0) return;
  const RowCut cut(rows, cols);
  const int64_t total = rows * cols, width = cut.width, wide_rows = cut.rows, step = cut.step, chunks = cut.chunks;
  const int64_t padded = cut.padded, group_chunks = cut.group_chunks, groups = cut.groups;
  const bool far = width > 4 * kPair && total > kCachedElements;
  double* partials = partial_scratch.get<double>(cut.partial_sums());
  // The rows of a chunk in a strip of columns. The accumulators of a pair take rows in turn.
  const auto walk = [&](int64_t chunk, int64_t c, double* totals, auto pairs) {
    constexpr int kPairs = decltype(pairs)::value, kTurns = 4 / kPairs;
    const int64_t end = smaller((chunk + 1) * step, wide_rows);
    TwoSums partial[kPairs][kTurns][2];
    for (int p = 0; p < kPairs; ++p) {
      for (int turn = 0; turn < kTurns; ++turn) {
        partial[p][turn][0] = partial[p][turn][1] = {Simd::zero(), Simd::zero()};
      }
    }
    const auto add = [&](int64_t row, auto turn) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const int64_t column = c + p * kPair, at = row * width + column;
        const PairSums t = terms(at, column, kPairs == 1 ? smaller(smaller(width - column, kPair), total - at) : kPair);
        TwoSums(&to)[2] = partial[p][decltype(turn)::value];
        to[0] = to[0] + t.halves[0];
        to[1] = to[1] + t.halves[1];
      }
    };
    int64_t row = chunk * step;
    for (; row + kTurns <= end; row += kTurns) for_numbers<kTurns>([&](auto turn) { add(row + turn.value, turn); });
    for_numbers<kTurns>([&](auto turn) {
      if (row + turn.value < end) add(row + turn.value, turn);
    });
    for (int p = 0; p < kPairs; ++p) {
      TwoSums(&all)[2] = partial[p][0];
      for (int turn = 1; turn < kTurns; ++turn) {
        all[0] = all[0] + partial[p][turn][0];
        all[1] = all[1] + partial[p][turn][1];
      }
      Pair<T>::in_order(all[0].first, all[1].first);
      Pair<T>::in_order(all[0].second, all[1].second);
      double* to = totals + c + p * kPair;
      Simd::add_to_doubles(to, all[0].first);
      Simd::add_to_doubles(to + kLanes, all[1].first);
      Simd::add_to_doubles(to + padded, all[0].second);
      Simd::add_to_doubles(to + padded + kLanes, all[1].second);
    }
  };
#pragma omp parallel if (total > kSmall)
  {
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; ++group) {
      double* totals = partials + group * 2 * padded;
      memset(totals, 0, static_cast<size_t>(2 * padded) * sizeof(double));
      for (int64_t chunk = group * group_chunks; chunk < smaller((group + 1) * group_chunks, chunks); ++chunk) {
        int64_t c = 0;
        if (far) read_chunk(chunk * step * width, smaller((chunk + 1) * step * width, total));
        for (; c + 4 * kPair <= width; c += 4 * kPair) walk(chunk, c, totals, Number<4>{});
        if (c + 2 * kPair <= width) walk(chunk, c, totals, Number<2>{}), c += 2 * kPair;
        for (; c < width; c += kPair) walk(chunk, c, totals, Number<1>{});
      }
    }
  }
  for (int64_t c = 0; c < 2 * cols; ++c) sums[c] = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const double* from = partials + group * 2 * padded;
    for (int64_t c = 0; c < width; ++c) sums[c % cols] += from[c];
    for (int64_t c = 0; c < width; ++c) sums[cols + c % cols] += from[padded + c];
  }
}

void prepare_column_sum(const ColumnSumArgs& a) { have_memory(a.rows, a.cols, 0); }

void column_sum(const ColumnSumArgs& a) {
  if (!have_memory(a.rows, a.cols, 0)) return;
  double* sums = column_scratch.get<double>(2 * a.cols);
  sum_columns<float>(
      a.rows, a.cols, sums,
      [&](int64_t at, int64_t, int64_t count) __attribute__((always_inline)) {
        const auto x = Pair<float>::load(a.x + at, count);
        return PairSums{{{x.first(), Simd::zero()}, {x.second(), Simd::zero()}}};
      },
      [&](int64_t begin, int64_t end) { read_ahead(a.x, begin, end); });
  for (int64_t c = 0; c < a.cols; ++c) a.sum[c] = static_cast<float>(sums[c]);
}

template <typename T>
void batch_norm_stats_of(const BatchNormStatsArgs& a) {
  const T* x = a.x.as<T>();
  double* sums = column_scratch.get<double>(2 * a.c);
  const auto shift = ParameterTables<T>::make(a.c, 1, [&](int, int64_t c) { return as_float(x[c]); });
  sum_columns<T>(
      a.rows, a.c, sums,
      [&](int64_t at, int64_t column, int64_t count) __attribute__((always_inline)) {
        const auto values = Pair<T>::load(x + at, count);
        Float first = Simd::sub(values.first(), shift.first(0, column));
        Float second = Simd::sub(values.second(), shift.second(0, column));
        if (count < kPair) {  // what is not there adds nothing
          const auto there = Pair<T>::of(Simd::set(1.0f), Simd::set(1.0f)).keep(first_of_pair(count));
          first = Simd::mul(first, there.first());
          second = Simd::mul(second, there.second());
        }
        return PairSums{{{first, Simd::mul(first, first)}, {second, Simd::mul(second, second)}}};
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

void prepare_batch_norm_stats(const BatchNormStatsArgs& a) { have_memory(a.rows, a.c, 1); }

void batch_norm_stats(const BatchNormStatsArgs& a) {
  if (a.rows == 0 || !have_memory(a.rows, a.c, 1)) return;
  with_type(a.x.bfloat16, [&](auto type) { batch_norm_stats_of<decltype(type)>(a); });
}

// ---- Flat passes --------------------------------------------------------------------------------------------------

// A pass stands here: the element in the tensor and its place in the parameter tables.
template <typename T>
struct FlatPosition {
  const ParameterTables<T>& tables;
  int64_t begin, place;

  FlatPosition(const ParameterTables<T>& all, int64_t first) : tables(all), begin(first), place(first % all.period) {}
  Float first(int kind) const { return tables.first(kind, place); }
  Float second(int kind) const { return tables.second(kind, place); }
  void next() {
    place += kPair;
    if (place == tables.period) place = 0;
  }
};

// Runs the pairs of a source over everything, and takes their statistics where they are wanted.
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
    for (; i + kPair <= count; i += kPair) chunk(i, kPair);
    if (i < count) chunk(i, count - i);
  }
}

enum class Act { none, relu, relu_with_ceiling };

template <typename T, Act kAct, bool kResidual>
struct ApplySource {
  using Type = T;
  const BatchNormActArgs& a;
  FlatPosition<T> position;
  const T *x = a.x.as<T>(), *residual = a.residual.as<T>();
  T* to = a.y.as<T>();
  Float ceiling = Simd::set(a.ceiling);

  [[gnu::always_inline]] Pair<T> operator()(int64_t i, int64_t count) {
    const int64_t at = position.begin + i;
    const auto affine = [](Float value, Float mean, Float factor, Float beta) {
      return Simd::add(Simd::mul(Simd::sub(value, mean), factor), beta);
    };
    const Pair<T> from = Pair<T>::load(x + at, count);
    Float first = affine(from.first(), position.first(0), position.first(1), position.first(2));
    Float second = affine(from.second(), position.second(0), position.second(1), position.second(2));
    if constexpr (kResidual) {
      const Pair<T> added = Pair<T>::load(residual + at, count);
      first = Simd::add(first, added.first());
      second = Simd::add(second, added.second());
    }
    if constexpr (kAct == Act::relu_with_ceiling) {
      first = Simd::min(ceiling, first);
      second = Simd::min(ceiling, second);
    }
    Pair<T> y = Pair<T>::of(first, second);
    if constexpr (kAct != Act::none) y = y.relu();
    if (count < kPair) y = y.keep(first_of_pair(count));
    y.store(to + at, count);
    if constexpr (kAct != Act::none) {
      if (a.mask != nullptr) {
        uint32_t passed = y.nonzero();
        if constexpr (kAct == Act::relu_with_ceiling) passed &= y.differing(Pair<T>::of(ceiling, ceiling));
        store_mask_bits(a.mask, at, count, passed);
      }
    }
    position.next();
    return y;
  }
};

template <typename T, Act kAct, bool kResidual>
void apply(const BatchNormActArgs& a) {
  const auto tables = ParameterTables<T>::make(a.c, 3, [&](int kind, int64_t c) {
    return kind == 0 ? a.mean[c] : kind == 1 ? a.inverse_std[c] * a.gamma[c] : a.beta[c];
  });
  flat_pass(a.rows * a.c, a.stats, [&](int64_t begin) { return ApplySource<T, kAct, kResidual>{a, {tables, begin}}; });
}

void prepare_batch_norm_act(const BatchNormActArgs& a) { have_memory(0, a.c, 3); }

void batch_norm_act(const BatchNormActArgs& a) {
  if (!have_memory(0, a.c, 3)) return;
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    if (!a.relu) {
      a.residual ? apply<T, Act::none, true>(a) : apply<T, Act::none, false>(a);
    } else if (a.ceiling > 0) {
      a.residual ? apply<T, Act::relu_with_ceiling, true>(a) : apply<T, Act::relu_with_ceiling, false>(a);
    } else {
      a.residual ? apply<T, Act::relu, true>(a) : apply<T, Act::relu, false>(a);
    }
  });
}

void prepare_batch_norm_apply(const BatchNormApplyArgs& a) { have_memory(0, a.c, 3); }

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

template <typename T, bool kMask>
[[gnu::always_inline]] inline Pair<T> masked_gradient(const BatchNormActBackwardArgs& a, int64_t at, int64_t count) {
  const Pair<T> dy = Pair<T>::load(a.dy.as<T>() + at, count);
  return kMask ? dy.keep(mask_bits(a.mask, at, count)) : dy;
}

template <typename T, bool kMask>
struct BackwardSource {
  using Type = T;
  const BatchNormActBackwardArgs& a;
  FlatPosition<T> position;
  const T* x = a.x.as<T>();
  T* to = a.dx.as<T>();

  // dx = factor (dy - mean of dy - (x - mean) slope), slope = inverse_std^2 mean of dy (x - mean).
  [[gnu::always_inline]] Pair<T> operator()(int64_t i, int64_t count) {
    const int64_t at = position.begin + i;
    const auto gradient = [](Float value, Float dy, Float mean, Float factor, Float dy_mean, Float slope) {
      const Float centered = Simd::mul(Simd::sub(value, mean), slope);
      return Simd::mul(factor, Simd::sub(Simd::sub(dy, dy_mean), centered));
    };
    const Pair<T> values = Pair<T>::load(x + at, count), dy = masked_gradient<T, kMask>(a, at, count);
    Pair<T> dx = Pair<T>::of(gradient(values.first(), dy.first(), position.first(0), position.first(1),
                                      position.first(2), position.first(3)),
                             gradient(values.second(), dy.second(), position.second(0), position.second(1),
                                      position.second(2), position.second(3)));
    if (count < kPair) dx = dx.keep(first_of_pair(count));
    dx.store(to + at, count);
    position.next();
    return dx;
  }
};

template <typename T, bool kMask, bool kResidual>
void backward(const BatchNormActBackwardArgs& a) {
  const T *x = a.x.as<T>(), *gradient = a.dy.as<T>();
  T* dresidual = a.dresidual.as<T>();
  double* sums = column_scratch.get<double>(2 * a.c);
  const auto means = ParameterTables<T>::make(a.c, 1, [&](int, int64_t c) { return a.mean[c]; });
  sum_columns<T>(
      a.rows, a.c, sums,
      [&](int64_t at, int64_t column, int64_t count) __attribute__((always_inline)) {
        const Pair<T> dy = masked_gradient<T, kMask>(a, at, count), values = Pair<T>::load(x + at, count);
        if constexpr (kResidual) dy.store(dresidual + at, count);
        const auto terms = [](Float dy_half, Float value, Float mean) {
          return TwoSums{dy_half, Simd::mul(dy_half, Simd::sub(value, mean))};
        };
        return PairSums{{terms(dy.first(), values.first(), means.first(0, column)),
                         terms(dy.second(), values.second(), means.second(0, column))}};
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
  const auto tables = ParameterTables<T>::make(a.c, 4, [&](int kind, int64_t c) {
    return kind == 0   ? a.mean[c]
           : kind == 1 ? a.gamma[c] * a.inverse_std[c]
           : kind == 2 ? a.dbeta[c] * per_row
                       : a.dgamma[c] * per_row * a.inverse_std[c];
  });
  flat_pass(a.rows * a.c, a.stats, [&](int64_t begin) { return BackwardSource<T, kMask>{a, {tables, begin}}; });
}

void prepare_batch_norm_act_backward(const BatchNormActBackwardArgs& a) { have_memory(a.rows, a.c, 4); }

void batch_norm_act_backward(const BatchNormActBackwardArgs& a) {
  if (!have_memory(a.rows, a.c, 4)) return;
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    if (a.mask != nullptr) {
      a.dresidual ? backward<T, true, true>(a) : backward<T, true, false>(a);
    } else {
      a.dresidual ? backward<T, false, true>(a) : backward<T, false, false>(a);
    }
  });
}

void prepare_batch_norm_backward(const BatchNormBackwardArgs& a) { have_memory(a.rows, a.c, 4); }

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

// ---- Layer norm ---------------------------------------------------------------------------------------------------

// The sums over a row of what terms(column, count) gives, by two: count lanes are there, the others must be 0.
template <typename Terms>
[[gnu::always_inline]] inline TwoSums sum_row(int64_t c, Terms terms) {
  constexpr int kTurns = 4;
  TwoSums sums[kTurns];
  for (TwoSums& sum : sums) sum = {Simd::zero(), Simd::zero()};
  int64_t i = 0;
  for (; i + kTurns * kLanes <= c; i += kTurns * kLanes) {
#pragma GCC unroll 4
    for (int turn = 0; turn < kTurns; ++turn) sums[turn] = sums[turn] + terms(i + turn * kLanes, kLanes);
  }
  for (; i < c; i += kLanes) sums[0] = sums[0] + terms(i, smaller(c - i, kLanes));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <typename T>
void layer_norm_of(const LayerNormArgs& a) {
  const float per_column = 1.0f / static_cast<float>(a.c);
#pragma omp parallel for schedule(static) if (a.rows * a.c > kSmall)
  for (int64_t row = 0; row < a.rows; ++row) {
    const T* x = a.x.as<T>() + row * a.c;
    T* y = a.y.as<T>() + row * a.c;
    const TwoSums sum = sum_row(
        a.c, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          return TwoSums{Simd::load(x + i, count), Simd::zero()};
        });
    const float mean = Simd::fold(sum.first) * per_column;
    const Float center = Simd::set(mean);
    const TwoSums squares = sum_row(
        a.c, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Float difference = Simd::sub(Simd::load(x + i, count), center);
          if (count < kLanes) difference = Simd::keep(difference, Simd::first_bits(count));
          return TwoSums{Simd::mul(difference, difference), Simd::zero()};
        });
    const float inverse_std = 1.0f / sqrtf(Simd::fold(squares.first) * per_column + a.eps);
    const Float scale = Simd::set(inverse_std);
    for (int64_t i = 0; i < a.c; i += kLanes) {
      const int64_t count = smaller(a.c - i, kLanes);
      const Float xhat = Simd::mul(Simd::sub(Simd::load(x + i, count), center), scale);
      Simd::store(y + i, Simd::add(Simd::mul(xhat, Simd::load(a.gamma + i, count)), Simd::load(a.beta + i, count)),
                  count);
    }
    if (a.mean != nullptr) a.mean[row] = mean;
    if (a.inverse_std != nullptr) a.inverse_std[row] = inverse_std;
  }
}

void layer_norm(const LayerNormArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) { layer_norm_of<decltype(type)>(a); });
}

struct LayerNormCut {
  int64_t padded, group_rows, groups;

  explicit LayerNormCut(const LayerNormBackwardArgs& a) {
    padded = (a.c + kLanes - 1) / kLanes * kLanes;
    group_rows = larger(1, (a.rows + kMostGroups - 1) / kMostGroups);
    groups = (a.rows + group_rows - 1) / group_rows;
  }
  double* partials() const { return partial_scratch.get<double>(groups * 2 * padded); }
  float* block_sums() const { return parameter_scratch.get<float>(2 * padded, omp_get_max_threads()); }
};

void prepare_layer_norm_backward(const LayerNormBackwardArgs& a) {
  const LayerNormCut cut(a);
  if (cut.partials() != nullptr) cut.block_sums();
}

// With g = dy gamma: dx = inverse_std (g - mean of g - xhat mean of (g xhat)). The gradients of the parameters are
// summed over kBlock rows in float32, over the blocks of a group in double, and over at most kMostGroups groups.
template <typename T>
void layer_norm_backward_of(const LayerNormBackwardArgs& a) {
  constexpr int64_t kBlock = 32;
  const LayerNormCut cut(a);
  const int64_t c = a.c, padded = cut.padded, group_rows = cut.group_rows, groups = cut.groups;
  const float per_column = 1.0f / static_cast<float>(larger(c, 1));
  double* partials = cut.partials();
  float* all_block_sums = partials != nullptr ? cut.block_sums() : nullptr;
  if (all_block_sums == nullptr) return;
#pragma omp parallel for schedule(static) if (a.rows * c > kSmall)
  for (int64_t group = 0; group < groups; ++group) {
    double* totals = partials + group * 2 * padded;
    float* block_sums = all_block_sums + omp_get_thread_num() * Scratch::share<float>(2 * padded);
    memset(totals, 0, static_cast<size_t>(2 * padded) * sizeof(double));
    const int64_t end = smaller((group + 1) * group_rows, a.rows);
    for (int64_t block = group * group_rows; block < end; block += kBlock) {
      memset(block_sums, 0, static_cast<size_t>(2 * padded) * sizeof(float));
      for (int64_t row = block; row < smaller(block + kBlock, end); ++row) {
        const T *x = a.x.as<T>() + row * c, *dy = a.dy.as<T>() + row * c;
        T* dx = a.dx.as<T>() + row * c;
        const Float center = Simd::set(a.mean[row]), scale = Simd::set(a.inverse_std[row]);
        const TwoSums sums = sum_row(
            c, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
              const Float d = Simd::load(dy + i, count);
              const Float xhat = Simd::mul(Simd::sub(Simd::load(x + i, count), center), scale);
              const Float g = Simd::mul(d, Simd::load(a.gamma + i, count));
              float *dgamma = block_sums + i, *dbeta = block_sums + padded + i;
              Simd::store(dgamma, Simd::add(Simd::load(dgamma), Simd::mul(d, xhat)));
              Simd::store(dbeta, Simd::add(Simd::load(dbeta), d));
              return TwoSums{g, Simd::mul(g, xhat)};
            });
        const Float mean = Simd::set(Simd::fold(sums.first) * per_column);
        const Float slope = Simd::set(Simd::fold(sums.second) * per_column);
        for (int64_t i = 0; i < c; i += kLanes) {
          const int64_t count = smaller(c - i, kLanes);
          const Float xhat = Simd::mul(Simd::sub(Simd::load(x + i, count), center), scale);
          const Float g = Simd::mul(Simd::load(dy + i, count), Simd::load(a.gamma + i, count));
          const Float centered = Simd::sub(Simd::sub(g, mean), Simd::mul(xhat, slope));
          Simd::store(dx + i, Simd::mul(scale, centered), count);
        }
      }
      for (int64_t i = 0; i < 2 * padded; i += kLanes) Simd::add_to_doubles(totals + i, Simd::load(block_sums + i));
    }
  }
  for (int64_t i = 0; i < c; ++i) {
    double dgamma = 0, dbeta = 0;
    for (int64_t group = 0; group < groups; ++group) {
      dgamma += partials[group * 2 * padded + i];
      dbeta += partials[group * 2 * padded + padded + i];
    }
    a.dgamma[i] = static_cast<float>(dgamma);
    a.dbeta[i] = static_cast<float>(dbeta);
  }
}

void layer_norm_backward(const LayerNormBackwardArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) { layer_norm_backward_of<decltype(type)>(a); });
}
