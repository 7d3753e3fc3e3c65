// The statistics of numerics.h over values that a pass produces anyway, in their fixed order.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.

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

inline float fold(typename Simd::Float* vectors) {
  for (int half = kStatsVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) vectors[i] = Simd::add(vectors[i], vectors[i + half]);
  }
  return Simd::fold(vectors[0]);
}

// source.full(i): the vector of values i..i + kLanes - 1 of the chunk; source.part(i, count): its first `count` lanes,
// the others 0. Called once for each vector, in order.
template <typename Source>
ChunkSums sum_chunk(int64_t count, Source source, Extremes& extremes) {
  constexpr int kVectors = kStatsVectors;
  typename Simd::Float abs_sums[kVectors], sq_sums[kVectors];
  typename Simd::Int largest = Simd::zero_int();
  for (int v = 0; v < kVectors; ++v) abs_sums[v] = sq_sums[v] = Simd::zero();
  int64_t zeros = 0;
  const auto add = [&](int v, typename Simd::Float value) {
    const typename Simd::Float magnitude = Simd::abs(value);
    abs_sums[v] = Simd::add(abs_sums[v], magnitude);
    sq_sums[v] = Simd::add(sq_sums[v], Simd::mul(value, value));
    largest = Simd::max_int(largest, Simd::bits(magnitude));
    zeros += Simd::count_zeros(magnitude);
  };
  int64_t i = 0;
  for (; i + kStatsLanes <= count; i += kStatsLanes) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) add(v, source.full(i + v * Simd::kLanes));
  }
  for (int v = 0; i < count; ++v, i += Simd::kLanes) {  // zeros add nothing to any sum
    const int64_t left = count - i;
    add(v, left >= Simd::kLanes ? source.full(i) : source.part(i, left));
    if (left < Simd::kLanes) zeros -= Simd::kLanes - left;
  }
  extremes.nonzero += count - zeros;
  const uint32_t chunk_max = Simd::largest(largest);
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
  // Chunks are summed in groups, so that their results fit on the stack; the order of the doubles stays that of chunks.
  constexpr int64_t kGroup = 4096;
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
      stats.sum_abs += static_cast<double>(sums[chunk].abs);
      stats.sum_sq += static_cast<double>(sums[chunk].sq);
    }
  }
  stats.nonzero = nonzero;
  stats.abs_bits_max = abs_bits_max;
  return stats;
}
