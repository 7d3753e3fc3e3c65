// Statistics, encoders and decoder on the device: numerics.h, in the order of sums that it prescribes.
//
// Statistics: a half-warp has a chunk of 4096 elements. Thread t of its 16 owns lanes 4 t .. 4 t + 3 of the 64, so that
// a load is 16 bytes of float32 (8 of bfloat16) a thread, 256 bytes together, kLoads at a time; the lanes fold by
// shuffles over 8, 4, 2 and 1 threads and then inside thread 0. A block folds the results of 256 chunks, and another
// those of 256 blocks: two more launches for 268 million elements. Bytes: those of x, and 32 for a chunk.
//
// The encoder: a thread has 8 elements that share a block of random bits: 32 bytes of float32 in, 4 out. Where a row is
// an odd number of elements, or x is not aligned to 16 bytes, a thread has a byte of codes, and reads and draws for
// itself. Bytes: 4.5 an element (2.5 of bfloat16); instructions for LUQ 217 for 8 elements, Philox's 7
// rounds for them included. Grids of powers of 4 and of levels compare with each magnitude, and may be slow.
#include <luq_cuda/ptx.h>

#include <algorithm>
#include <utility>

#include "kernels/cuda/chunk_sums.h"
#include "kernels/cuda/code_values.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kChunkThreads = LaneSums<4>::kThreads;
constexpr int kChunksOfBlock = kThreads / kChunkThreads;
constexpr int kLoads = 8;  // that a thread has on their way: a chunk is a walk of 64 of them

// The sums of the chunk that begins at element `first` of x, by the kChunkThreads threads that share it, in the first
// of them. Zeros beyond the end change no sum, and are not counted.
template <typename T, bool Aligned>
__device__ ChunkSums sum_chunk(const T* x, int64_t first, int64_t count) {
  const int t = static_cast<int>(threadIdx.x % kChunkThreads);
  const int64_t end = first + kStatsChunk < count ? first + kStatsChunk : count;
  LaneSums<4> lanes;
  int64_t i = first + 4 * t;
  if (Aligned) {
    for (; i + (kLoads - 1) * kStatsLanes + 4 <= end; i += kLoads * kStatsLanes) {
      Packed<T, 4> loaded[kLoads];
      LUQ_UNROLL
      for (int load = 0; load < kLoads; ++load) loaded[load] = Packed<T, 4>::load(x + i + load * kStatsLanes);
      LUQ_UNROLL
      for (int load = 0; load < kLoads; ++load) {
        for (int k = 0; k < 4; ++k) lanes.add(k, loaded[load][k]);
      }
    }
  }
  for (; i < end; i += kStatsLanes) {
    float value[4];
    const int here = end - i < 4 ? static_cast<int>(end - i) : 4;
    load_some(x + i, here, Aligned && here == 4, value);
    for (int k = 0; k < 4; ++k) lanes.add(k, value[k]);
  }
  return lanes.fold();
}

template <typename T, bool Aligned>
__global__ void __launch_bounds__(kThreads) sum_chunks(const T* x, int64_t count, ChunkSums* sums) {
  const int64_t chunk = int64_t{blockIdx.x} * kChunksOfBlock + threadIdx.x / kChunkThreads;
  const ChunkSums all = sum_chunk<T, Aligned>(x, chunk * kStatsChunk, count);
  if (threadIdx.x % kChunkThreads == 0 && chunk * kStatsChunk < count) sums[chunk] = all;
}

// The sums of some chunks.
struct Totals {
  double abs = 0, sq = 0;
  int64_t nonzero = 0;
  uint32_t abs_bits_max = 0, unused = 0;
};

__device__ Totals totals_of(const ChunkSums& sums) {
  return {static_cast<double>(sums.abs), static_cast<double>(sums.sq), sums.nonzero, sums.abs_bits_max, 0};
}
__device__ Totals totals_of(const Totals& totals) { return totals; }

struct FoldShared {
  Totals totals[kStatsGroup];
};

// Folds what the threads of a block have; the first one has the result, in totals[0].
__device__ void fold_in_block(FoldShared& shared, const Totals& mine) {
  const int t = static_cast<int>(threadIdx.x);
  shared.totals[t] = mine;
  for (int half = kStatsGroup / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t >= half) continue;
    Totals& to = shared.totals[t];
    const Totals& other = shared.totals[t + half];
    to.abs += other.abs;
    to.sq += other.sq;
    to.nonzero += other.nonzero;
    if (other.abs_bits_max > to.abs_bits_max) to.abs_bits_max = other.abs_bits_max;
  }
}

template <typename From>
__global__ void __launch_bounds__(kStatsGroup) fold_groups(const From* from, int64_t count, Totals* to) {
  auto& shared = luq::device::shared_memory<FoldShared>();
  const int64_t index = int64_t{blockIdx.x} * kStatsGroup + threadIdx.x;
  fold_in_block(shared, index < count ? totals_of(from[index]) : Totals{});
  if (threadIdx.x == 0) to[blockIdx.x] = shared.totals[0];
}

// ---- Many tensors at once -------------------------------------------------------------------------------------------

constexpr int kMostTensors = 128;  // of a launch: they are its parameters
constexpr int kMostGroups = 256;   // of a tensor: 268 million elements; larger ones are taken alone

struct ManyTensors {
  const float* x[kMostTensors];
  int64_t count[kMostTensors];
  int first_chunk[kMostTensors + 1];
  int tensors;
};

__global__ void __launch_bounds__(kThreads) sum_chunks_of_many(ManyTensors many, ChunkSums* sums) {
  const int chunk = static_cast<int>(blockIdx.x) * kChunksOfBlock + static_cast<int>(threadIdx.x) / kChunkThreads;
  int tensor = 0, end = many.tensors;  // the last one that begins at the chunk or before it
  while (end - tensor > 1) {
    const int middle = (tensor + end) / 2;
    if (many.first_chunk[middle] <= chunk) {
      tensor = middle;
    } else {
      end = middle;
    }
  }
  const int64_t count = chunk < many.first_chunk[many.tensors] ? many.count[tensor] : 0;
  const int64_t first = int64_t{chunk - many.first_chunk[tensor]} * kStatsChunk;
  const ChunkSums all = sum_chunk<float, true>(many.x[tensor], first, count);
  if (threadIdx.x % kChunkThreads == 0 && first < count) sums[chunk] = all;
}

struct FoldManyShared {
  FoldShared fold;
  Totals groups[kMostGroups];
};

// A block has a tensor.
__global__ void __launch_bounds__(kStatsGroup) fold_many(ManyTensors many, const ChunkSums* sums, Totals* to) {
  auto& shared = luq::device::shared_memory<FoldManyShared>();
  const int tensor = static_cast<int>(blockIdx.x), t = static_cast<int>(threadIdx.x);
  const ChunkSums* from = sums + many.first_chunk[tensor];
  const int chunks = many.first_chunk[tensor + 1] - many.first_chunk[tensor];
  const int groups = (chunks + kStatsGroup - 1) / kStatsGroup;
  for (int group = 0; group < groups; ++group) {
    const int index = group * kStatsGroup + t;
    fold_in_block(shared.fold, index < chunks ? totals_of(from[index]) : Totals{});
    if (t == 0) shared.groups[group] = shared.fold.totals[0];
    __syncthreads();
  }
  if (groups > 1) fold_in_block(shared.fold, t < groups ? shared.groups[t] : Totals{});
  if (t == 0) to[tensor] = groups > 0 ? shared.fold.totals[0] : Totals{};
}

// The scratch memory has results of groups of chunks, room for those of groups of them, and the chunks' sums.
struct ChunkScratch {
  int64_t chunks, groups;
  Totals *totals, *next;
  ChunkSums* sums;

  explicit ChunkScratch(int64_t count)
      : chunks(blocks_for(count, kStatsChunk)), groups(std::max<int64_t>(blocks_for(chunks, kStatsGroup), 1)) {
    const int64_t most = groups + blocks_for(groups, kStatsGroup);
    const int64_t sum_bytes = chunks * static_cast<int64_t>(sizeof(ChunkSums));
    totals = static_cast<Totals*>(scratch(most * static_cast<int64_t>(sizeof(Totals)) + sum_bytes));
    next = totals + groups;
    sums = reinterpret_cast<ChunkSums*>(totals + most);
  }
};

void stats(const StatsArgs& a) {
  ChunkSums* sums = chunk_sums_for(a.count);
  const LaunchShape shape{.blocks = blocks_for(blocks_for(a.count, kStatsChunk), kChunksOfBlock), .threads = kThreads};
  const auto sum = [&]<typename T>(const T* x) {
    launch("stats, chunks", are_aligned(x) ? sum_chunks<T, true> : sum_chunks<T, false>, shape, x, a.count, sums);
  };
  a.x.bfloat16 ? sum(a.x.as<BFloat16>()) : sum(a.x.as<float>());
  *a.stats = add_up_chunks(a.count);
}

Stats stats_of(const Totals& total, int64_t count) {
  return {.sum_abs = total.abs,
          .sum_sq = total.sq,
          .count = count,
          .nonzero = total.nonzero,
          .abs_bits_max = total.abs_bits_max};
}

// Takes the statistics of the first tensors that fit into one launch; returns how many.
int64_t stats_of_some(const StatsArgs* tensors, int64_t count) {
  ManyTensors many{};
  int chunks = 0;
  for (; many.tensors < kMostTensors && many.tensors < count; ++many.tensors) {
    const StatsArgs& a = tensors[many.tensors];
    const int64_t more = blocks_for(a.count, kStatsChunk);
    if (a.x.bfloat16 || !are_aligned(a.x.as<float>()) || more > int64_t{kMostGroups} * kStatsGroup) break;
    many.x[many.tensors] = a.x.as<float>();
    many.count[many.tensors] = a.count;
    many.first_chunk[many.tensors] = chunks;
    chunks += static_cast<int>(more);
  }
  many.first_chunk[many.tensors] = chunks;
  if (many.tensors == 0) return 0;
  auto* totals = static_cast<Totals*>(
      scratch(kMostTensors * static_cast<int64_t>(sizeof(Totals)) + chunks * static_cast<int64_t>(sizeof(ChunkSums))));
  auto* sums = reinterpret_cast<ChunkSums*>(totals + kMostTensors);
  launch("stats, chunks of many", sum_chunks_of_many,
         {.blocks = blocks_for(chunks, kChunksOfBlock), .threads = kThreads}, many, sums);
  launch("stats, totals of many", fold_many,
         {.blocks = many.tensors, .threads = kStatsGroup, .shared_bytes = sizeof(FoldManyShared)}, many, sums, totals);
  const auto* all = static_cast<const Totals*>(
      read_back_bytes(totals, many.tensors * static_cast<int64_t>(sizeof(Totals)), "stats of many"));
  for (int i = 0; i < many.tensors; ++i) *tensors[i].stats = stats_of(all[i], many.count[i]);
  return many.tensors;
}

void stats_many(const StatsManyArgs& a) {
  for (int64_t done = 0; done < a.count;) {
    const int64_t some = stats_of_some(a.tensors + done, a.count - done);
    if (some == 0) stats(a.tensors[done]);
    done += std::max<int64_t>(some, 1);
  }
}

// ---- The encoder ----------------------------------------------------------------------------------------------------

struct Encoding {
  float inverse;
  Grid grid;
  RngKey key;
};

// A grid's arithmetic; that of levels takes any grid of magnitudes.
enum class Arithmetic { integers, powers, levels };

template <Arithmetic A, Rounding R>
__device__ uint32_t code_of(float x, const Encoding& e, uint32_t random) {
  const Grid& grid = e.grid;
  if (A == Arithmetic::levels) return level_code(grid, x, e.inverse, R, random);
  if (A == Arithmetic::powers)
    return power_code(x, e.inverse, grid.magnitudes, R == Rounding::nearest ? kNearestBits : random);
  return integer_code(R == Rounding::nearest ? integer_nearest(x, e.inverse, grid.low, grid.high)
                                             : integer_stochastic(x, e.inverse, grid.low, grid.high, random));
}

// Powers get their signs at the end, all at once: a nibble of 0 has none.
template <Arithmetic A, Rounding R>
__device__ uint32_t eight_codes(const float (&x)[kUnit], const Encoding& e, const PhiloxBlock& random) {
  uint32_t packed = 0, signs = 0;
  LUQ_UNROLL
  for (int i = 0; i < kUnit; ++i) {
    const float value = A == Arithmetic::powers ? bits_float(float_bits(x[i]) & 0x7fffffffu) : x[i];
    packed |= code_of<A, R>(value, e, random16(random, i)) << (4 * i);
    signs |= float_bits(x[i]) >> 31 << (4 * i);
  }
  if (A != Arithmetic::powers) return packed;
  const uint32_t nonzero = (packed | packed >> 1 | packed >> 2) & 0x11111111u;
  return packed | (signs & nonzero) << 3;
}

// random16 of an element that is not known to the compiler: by selection, as registers have no index.
__device__ uint32_t random16_of(const PhiloxBlock& block, int index) {
  const uint32_t low = (index & 4) != 0 ? block.word[2] : block.word[0];
  const uint32_t high = (index & 4) != 0 ? block.word[3] : block.word[1];
  return (((index & 2) != 0 ? high : low) >> ((index & 1) * 16)) & 0xffffu;
}

// Rows of an even number of elements are one row; thread i has elements 8 i .. 8 i + 7, bytes 4 i .. 4 i + 3.
template <Arithmetic A, Rounding R, typename T>
__global__ void __launch_bounds__(kThreads)
    encode_even(const T* x, int64_t count, const __grid_constant__ Encoding e, uint8_t* codes) {
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x, first = block * kUnit;
  if (first >= count) return;
  PhiloxBlock random{};
  if (R == Rounding::stochastic) random = philox(e.key, static_cast<uint64_t>(block));
  const int here = count - first < kUnit ? static_cast<int>(count - first) : kUnit;
  float value[kUnit];
  if (here == kUnit) {
    const auto loaded = Packed<T, kUnit>::load(x + first);
    for (int i = 0; i < kUnit; ++i) value[i] = loaded[i];
    *reinterpret_cast<uint32_t*>(codes + first / 2) = eight_codes<A, R>(value, e, random);
    return;
  }
  load_some(x + first, here, false, value);
  uint32_t packed = eight_codes<A, R>(value, e, random);
  for (int64_t byte = first / 2; byte < count / 2; ++byte) {
    codes[byte] = static_cast<uint8_t>(packed);
    packed >>= 8;
  }
}

template <Arithmetic A, Rounding R, typename T>
__global__ void __launch_bounds__(kThreads)
    encode_any(const T* x, int64_t rows, int64_t cols, const __grid_constant__ Encoding e, uint8_t* codes) {
  const int64_t row_bytes = packed_row_bytes(cols), byte = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (byte >= rows * row_bytes) return;
  const int64_t row = byte / row_bytes, col = byte % row_bytes * 2;
  uint32_t packed = 0;
  for (int k = 0; k < 2; ++k) {
    if (col + k >= cols) continue;
    const int64_t index = row * cols + col + k;
    uint32_t random = 0;
    if (R == Rounding::stochastic)
      random = random16_of(philox(e.key, static_cast<uint64_t>(index) / 8), static_cast<int>(index % 8));
    packed |= code_of<A, R>(load1(x + index), e, random) << (4 * k);
  }
  codes[byte] = static_cast<uint8_t>(packed);
}

template <Arithmetic A, Rounding R, typename T>
void encode_as(const T* x, const EncodeArgs& a) {
  const Encoding e{a.inverse_scale, a.grid, a.key};
  if (a.cols % 2 == 0 && are_aligned(x) && reinterpret_cast<uintptr_t>(a.codes) % 4 == 0) {
    const LaunchShape shape{.blocks = blocks_for(a.rows * a.cols, int64_t{kThreads} * kUnit), .threads = kThreads};
    launch("encode", encode_even<A, R, T>, shape, x, a.rows * a.cols, e, a.codes);
  } else {
    const LaunchShape shape{.blocks = blocks_for(a.rows * packed_row_bytes(a.cols), kThreads), .threads = kThreads};
    launch("encode", encode_any<A, R, T>, shape, x, a.rows, a.cols, e, a.codes);
  }
}

template <Arithmetic A, Rounding R>
void encode_as(const EncodeArgs& a) {
  a.x.bfloat16 ? encode_as<A, R>(a.x.as<BFloat16>(), a) : encode_as<A, R>(a.x.as<float>(), a);
}

template <Arithmetic A>
void encode_as(const EncodeArgs& a) {
  a.rounding == Rounding::nearest ? encode_as<A, Rounding::nearest>(a) : encode_as<A, Rounding::stochastic>(a);
}

void encode(const EncodeArgs& a) {
  switch (a.grid.kind) {
    case GridKind::uniform:
      return encode_as<Arithmetic::integers>(a);
    case GridKind::powers_of_2:
      return encode_as<Arithmetic::powers>(a);
    case GridKind::powers_of_4:
    case GridKind::levels:
      return encode_as<Arithmetic::levels>(a);
  }
}

__global__ void __launch_bounds__(kThreads) decode_codes(const uint8_t* codes, int64_t rows, int64_t cols,
                                                         Values values, float scale, bool accumulate, float* x) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= rows * cols) return;
  const uint32_t code = load_code(codes + index / cols * packed_row_bytes(cols), index % cols);
  const float value = __fmul_rn(scale, static_cast<float>(value_of(values, code)));
  x[index] = accumulate ? __fadd_rn(x[index], value) : value;
}

void decode(const DecodeArgs& a) {
  const LaunchShape shape{.blocks = blocks_for(a.rows * a.cols, kThreads), .threads = kThreads};
  launch("decode", decode_codes, shape, a.codes, a.rows, a.cols, values_of(a.table), a.scale, a.accumulate, a.x);
}

}  // namespace

ChunkSums* chunk_sums_for(int64_t count) { return ChunkScratch(count).sums; }

Stats add_up_chunks(int64_t count) {
  ChunkScratch s(count);
  const auto fold = [](int64_t blocks) {
    return LaunchShape{.blocks = blocks, .threads = kStatsGroup, .shared_bytes = sizeof(FoldShared)};
  };
  launch("stats, groups", fold_groups<ChunkSums>, fold(s.groups), s.sums, s.chunks, s.totals);
  for (int64_t left = s.groups; left > 1;) {
    const int64_t blocks = blocks_for(left, kStatsGroup);
    launch("stats, total", fold_groups<Totals>, fold(blocks), s.totals, left, s.next);
    std::swap(s.totals, s.next);
    left = blocks;
  }
  return stats_of(read_back(s.totals, "stats"), count);
}

void add_quantize(Kernels& table) {
  table.stats = {stats, "cuda"};
  table.stats_many = {stats_many, "cuda"};
  table.encode = {encode, "cuda"};
  table.decode = {decode, "cuda"};
}

}  // namespace luq::kernels::cuda
