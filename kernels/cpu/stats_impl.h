// The statistics of numerics.h over values that a pass produces anyway, in their fixed order.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.

#include "kernels/cpu/pair_impl.h"

constexpr int64_t kSmall = 32768;  // elements below which threads cost more than they bring

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct ChunkSums {
  float abs, sq;
};

struct Extremes {
  int64_t nonzero = 0;
  uint32_t abs_bits_max = 0;
};

constexpr int kStatsVectors = kStatsLanes / Simd::kLanes;

inline float fold(Float* vectors) {
  for (int half = kStatsVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) vectors[i] = Simd::add(vectors[i], vectors[i + half]);
  }
  return Simd::fold(vectors[0]);
}

// source(i, count): the pair of values i..i + kPair - 1 of the chunk, of which `count` are there and the others 0.
// Called once for each pair, in order.
template <typename Source>
ChunkSums sum_chunk(int64_t count, Source source, Extremes& extremes) {
  using P = Pair<typename Source::Type>;
  Float abs_sums[kStatsVectors], sq_sums[kStatsVectors];
  Int most = Simd::zero_int();
  for (int v = 0; v < kStatsVectors; ++v) abs_sums[v] = sq_sums[v] = Simd::zero();
  int64_t nonzero = 0;
  const auto add_half = [&](int v, Float magnitude) __attribute__((always_inline)) {
    abs_sums[v] = Simd::add(abs_sums[v], magnitude);
    sq_sums[v] = Simd::add(sq_sums[v], Simd::mul(magnitude, magnitude));
  };
  const auto add = [&](int v, const P& values) __attribute__((always_inline)) {
    const P magnitudes = values.magnitude();
    add_half(v, magnitudes.first());
    add_half(v + 1, magnitudes.second());
    most = P::most(most, magnitudes);
    nonzero += __builtin_popcount(magnitudes.nonzero());
  };
  int64_t i = 0;
  for (; i + kStatsLanes <= count; i += kStatsLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kStatsVectors; v += 2) add(v, source(i + v * Simd::kLanes, kPair));
  }
  for (int v = 0; i < count; v += 2, i += kPair) add(v, source(i, smaller(count - i, kPair)));  // zeros add nothing
  for (int v = 0; v < kStatsVectors; v += 2) {
    P::in_order(abs_sums[v], abs_sums[v + 1]);
    P::in_order(sq_sums[v], sq_sums[v + 1]);
  }
  extremes.nonzero += nonzero;
  const uint32_t chunk_max = P::largest(most);
  if (chunk_max > extremes.abs_bits_max) extremes.abs_bits_max = chunk_max;
  return {fold(abs_sums), fold(sq_sums)};
}

// Runs over `total` values in chunks, shared among threads; source(begin): of the chunk that starts there.
template <typename MakeSource>
Stats chunk_statistics(int64_t total, MakeSource source) {
  Stats stats;
  stats.count = total;
  int64_t nonzero = 0;
  uint32_t abs_bits_max = 0;
  // Chunks are summed in groups, so that their results fit on the stack; the tree gets them in order.
  constexpr int64_t kGroup = 4096;
  ChunkTree tree;
  ChunkSums sums[kGroup];
  const int64_t chunks = (total + kStatsChunk - 1) / kStatsChunk;
  for (int64_t first = 0; first < chunks; first += kGroup) {
    const int64_t group = smaller(chunks - first, kGroup);
#pragma omp parallel for schedule(static) reduction(+ : nonzero) reduction(max : abs_bits_max) \
    if (group * kStatsChunk > kSmall)
    for (int64_t chunk = 0; chunk < group; ++chunk) {
      const int64_t begin = (first + chunk) * kStatsChunk;
      Extremes extremes;
      sums[chunk] = sum_chunk(smaller(total - begin, kStatsChunk), source(begin), extremes);
      nonzero += extremes.nonzero;
      if (extremes.abs_bits_max > abs_bits_max) abs_bits_max = extremes.abs_bits_max;
    }
    for (int64_t chunk = 0; chunk < group; ++chunk) {
      tree.add(static_cast<double>(sums[chunk].abs), static_cast<double>(sums[chunk].sq));
    }
  }
  tree.store_totals(stats);
  stats.nonzero = nonzero;
  stats.abs_bits_max = abs_bits_max;
  return stats;
}
