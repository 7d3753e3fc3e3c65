// Statistics, encoders and decoder, scalar and normative: numerics.h applied element by element.
//
// The order of the statistics' sums is the contract (numerics.h).

#include "kernels/chunk_tree.h"
#include "kernels/ref/as_float.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

struct ChunkSums {
  float abs = 0, sq = 0;
  int64_t nonzero = 0;
  uint32_t abs_bits_max = 0;
};

float fold(float* lanes) {
  for (int half = kStatsLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

ChunkSums sum_chunk(ConstFloats x, int64_t first, int64_t count) {
  float abs_lanes[kStatsLanes] = {}, sq_lanes[kStatsLanes] = {};
  ChunkSums sums;
  for (int64_t i = 0; i < count; ++i) {
    const float value = ref::load(x, first + i);
    const uint32_t abs_bits = float_bits(value) & 0x7fffffffu;
    abs_lanes[i % kStatsLanes] += bits_float(abs_bits);
    sq_lanes[i % kStatsLanes] += value * value;
    sums.nonzero += abs_bits != 0;
    if (abs_bits > sums.abs_bits_max) sums.abs_bits_max = abs_bits;
  }
  sums.abs = fold(abs_lanes);
  sums.sq = fold(sq_lanes);
  return sums;
}

void stats(const StatsArgs& a) {
  Stats total;
  total.count = a.count;
  ChunkTree tree;
  for (int64_t first = 0; first < a.count; first += kStatsChunk) {
    const int64_t left = a.count - first;
    const ChunkSums sums = sum_chunk(a.x, first, left < kStatsChunk ? left : kStatsChunk);
    tree.add(static_cast<double>(sums.abs), static_cast<double>(sums.sq));
    total.nonzero += sums.nonzero;
    if (sums.abs_bits_max > total.abs_bits_max) total.abs_bits_max = sums.abs_bits_max;
  }
  tree.store_totals(total);
  *a.stats = total;
}

// Packs code(index) of every element; index is row-major over (rows, cols).
template <typename Code>
void pack(int64_t rows, int64_t cols, uint8_t* codes, Code code) {
  const int64_t row_bytes = packed_row_bytes(cols);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t byte = 0; byte < row_bytes; ++byte) {
      const int64_t index = row * cols + 2 * byte;
      uint32_t packed = code(index);
      if (2 * byte + 1 < cols) packed |= code(index + 1) << 4;
      codes[row * row_bytes + byte] = static_cast<uint8_t>(packed);
    }
  }
}

uint32_t random_of(const RngKey& key, int64_t index) {
  return random16(philox(key, static_cast<uint64_t>(index) / 8), static_cast<int>(index % 8));
}

void decode_codes(const DecodeArgs& a) {
  const int64_t row_bytes = packed_row_bytes(a.cols);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t col = 0; col < a.cols; ++col) {
      const float value = a.scale * static_cast<float>(decode(a.table, load_code(a.codes + row * row_bytes, col)));
      float& x = a.x[row * a.cols + col];
      x = a.accumulate ? x + value : value;
    }
  }
}

}  // namespace

void ref_encode(const EncodeArgs& a) {
  const bool stochastic = a.rounding == Rounding::stochastic;
  pack(a.rows, a.cols, a.codes, [&](int64_t i) {
    return grid_code(a.grid, ref::load(a.x, i), a.inverse_scale, a.rounding, stochastic ? random_of(a.key, i) : 0);
  });
}

void add_ref_quantize(Kernels& table) {
  table.stats = {stats, "ref"};
  table.encode = {ref_encode, "ref"};
  table.decode = {decode_codes, "ref"};
}

}  // namespace luq::kernels
