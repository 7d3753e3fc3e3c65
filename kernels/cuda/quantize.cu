// Statistics, encoders and decoder on the device: numerics.h, in the order of sums that it prescribes.
//
// Statistics: a half-warp has a chunk of 4096 elements. Thread t of its 16 owns lanes 4 t .. 4 t + 3 of the 64, so that
// a load is 16 bytes of float32 (8 of bfloat16) a thread, 256 bytes together; the lanes fold by shuffles over 8, 4, 2
// and 1 threads and then inside thread 0. One more block adds the chunks' results, which must be added one after the
// other in double: 256 threads fetch them, one adds. Bytes: those of x, and 24 for a chunk.
//
// Encoders: a thread has 8 elements that share a block of random bits: 32 bytes of float32 in, 4 out. Where a row is an
// odd number of elements, or x is not aligned to 16 bytes, a thread has a byte of codes, and reads and draws for
// itself. Bytes: 4.5 an element (2.5 of bfloat16); instructions for LUQ about 6 an element and 60 for each block of 8
// of Philox's 7 rounds.
#include <luq_cuda/ptx.h>

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda {
namespace {

struct ChunkSums {
  float abs, sq;
  int nonzero;
  uint32_t abs_bits_max;
};

constexpr int kChunkThreads = 16;
constexpr int kChunksOfBlock = kThreads / kChunkThreads;

// Zeros beyond the end change no sum, and are not counted.
template <typename T, bool Aligned>
__global__ void __launch_bounds__(kThreads) sum_chunks(const T* x, int64_t count, ChunkSums* sums) {
  const int64_t chunk = int64_t{blockIdx.x} * kChunksOfBlock + threadIdx.x / kChunkThreads;
  const int t = static_cast<int>(threadIdx.x % kChunkThreads);
  const int64_t first = chunk * kStatsChunk;
  const int64_t end = first + kStatsChunk < count ? first + kStatsChunk : count;
  float abs[4] = {}, sq[4] = {};
  int nonzero = 0;
  uint32_t abs_bits_max = 0;
  for (int64_t i = first + 4 * t; i < end; i += kStatsLanes) {
    float value[4];
    const int here = end - i < 4 ? static_cast<int>(end - i) : 4;
    load_some(x + i, here, Aligned && here == 4, value);
    for (int k = 0; k < 4; ++k) {
      const uint32_t bits = float_bits(value[k]) & 0x7fffffffu;
      abs[k] = __fadd_rn(abs[k], bits_float(bits));
      sq[k] = __fadd_rn(sq[k], __fmul_rn(value[k], value[k]));
      nonzero += bits != 0;
      abs_bits_max = bits > abs_bits_max ? bits : abs_bits_max;
    }
  }
  for (int apart = kChunkThreads / 2; apart > 0; apart /= 2) {
    for (int k = 0; k < 4; ++k) {
      abs[k] = __fadd_rn(abs[k], __shfl_down_sync(0xffffffffu, abs[k], apart, kChunkThreads));
      sq[k] = __fadd_rn(sq[k], __shfl_down_sync(0xffffffffu, sq[k], apart, kChunkThreads));
    }
    nonzero += __shfl_down_sync(0xffffffffu, nonzero, apart, kChunkThreads);
    const uint32_t other = __shfl_down_sync(0xffffffffu, abs_bits_max, apart, kChunkThreads);
    abs_bits_max = other > abs_bits_max ? other : abs_bits_max;
  }
  if (t != 0 || first >= count) return;
  sums[chunk] = {__fadd_rn(__fadd_rn(abs[0], abs[2]), __fadd_rn(abs[1], abs[3])),
                 __fadd_rn(__fadd_rn(sq[0], sq[2]), __fadd_rn(sq[1], sq[3])), nonzero, abs_bits_max};
}

struct AddShared {
  ChunkSums sums[kThreads];
};

__global__ void __launch_bounds__(kThreads)
    add_chunks(const ChunkSums* sums, int64_t chunks, int64_t count, Stats* stats) {
  auto& shared = luq::device::shared_memory<AddShared>();
  Stats total;
  total.count = count;
  for (int64_t first = 0; first < chunks; first += kThreads) {
    if (first + threadIdx.x < chunks) shared.sums[threadIdx.x] = sums[first + threadIdx.x];
    __syncthreads();
    const int64_t here = chunks - first < kThreads ? chunks - first : kThreads;
    if (threadIdx.x == 0) {
      for (int64_t i = 0; i < here; ++i) {
        total.sum_abs += static_cast<double>(shared.sums[i].abs);
        total.sum_sq += static_cast<double>(shared.sums[i].sq);
        total.nonzero += shared.sums[i].nonzero;
        if (shared.sums[i].abs_bits_max > total.abs_bits_max) total.abs_bits_max = shared.sums[i].abs_bits_max;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *stats = total;
}

void stats(const StatsArgs& a) {
  const int64_t chunks = blocks_for(a.count, kStatsChunk);
  // One piece of scratch: the total, and behind it the chunks.
  auto* total = static_cast<Stats*>(scratch(64 + chunks * static_cast<int64_t>(sizeof(ChunkSums))));
  auto* sums = reinterpret_cast<ChunkSums*>(reinterpret_cast<char*>(total) + 64);
  const LaunchShape shape{.blocks = blocks_for(chunks, kChunksOfBlock), .threads = kThreads};
  const auto sum = [&]<typename T>(const T* x) {
    launch("stats, chunks", are_aligned(x) ? sum_chunks<T, true> : sum_chunks<T, false>, shape, x, a.count, sums);
  };
  a.x.bfloat16 ? sum(a.x.as<BFloat16>()) : sum(a.x.as<float>());
  launch("stats, total", add_chunks, {.blocks = 1, .threads = kThreads, .shared_bytes = sizeof(AddShared)}, sums,
         chunks, a.count, total);
  *a.stats = read_back(total, "stats");
}

// ---- Encoders -------------------------------------------------------------------------------------------------------

// What an encoder is told, for both families of formats.
struct Encoding {
  float inverse;
  int low, high;  // of integers
  RngKey key;
};

enum class Kind { int_nearest, int_stochastic, fp4_nearest, fp4_stochastic };
__host__ __device__ constexpr bool is_stochastic(Kind kind) {
  return kind == Kind::int_stochastic || kind == Kind::fp4_stochastic;
}

template <Kind K>
__device__ uint32_t code_of(float x, const Encoding& e, uint32_t random) {
  if (K == Kind::int_nearest) return int4_code(int4_value_nearest(x, e.inverse, e.low, e.high));
  if (K == Kind::int_stochastic) return int4_code(int4_value_stochastic(x, e.inverse, e.low, e.high, random));
  return fp4_code(x, e.inverse, K == Kind::fp4_nearest ? kNearestBits : random);
}

// random16 of an element that is not known to the compiler: by selection, as registers have no index.
__device__ uint32_t random16_of(const PhiloxBlock& block, int index) {
  const uint32_t low = (index & 4) != 0 ? block.word[2] : block.word[0];
  const uint32_t high = (index & 4) != 0 ? block.word[3] : block.word[1];
  return (((index & 2) != 0 ? high : low) >> ((index & 1) * 16)) & 0xffffu;
}

// Rows of an even number of elements are one row; thread i has elements 8 i .. 8 i + 7, bytes 4 i .. 4 i + 3.
template <Kind K, typename T>
__global__ void __launch_bounds__(kThreads) encode_even(const T* x, int64_t count, Encoding e, uint8_t* codes) {
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x, first = block * kUnit;
  if (first >= count) return;
  PhiloxBlock random{};
  if (is_stochastic(K)) random = philox(e.key, static_cast<uint64_t>(block));
  const int here = count - first < kUnit ? static_cast<int>(count - first) : kUnit;
  float value[kUnit];
  load_some(x + first, here, here == kUnit, value);
  uint32_t packed = 0;
  for (int i = 0; i < kUnit; ++i) packed |= code_of<K>(value[i], e, random16(random, i)) << (4 * i);
  if (here == kUnit) {
    *reinterpret_cast<uint32_t*>(codes + first / 2) = packed;
    return;
  }
  for (int64_t byte = first / 2; byte < count / 2; ++byte) {
    codes[byte] = static_cast<uint8_t>(packed);
    packed >>= 8;
  }
}

template <Kind K, typename T>
__global__ void __launch_bounds__(kThreads)
    encode_any(const T* x, int64_t rows, int64_t cols, Encoding e, uint8_t* codes) {
  const int64_t row_bytes = packed_row_bytes(cols), byte = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (byte >= rows * row_bytes) return;
  const int64_t row = byte / row_bytes, col = byte % row_bytes * 2;
  uint32_t packed = 0;
  for (int k = 0; k < 2; ++k) {
    if (col + k >= cols) continue;
    const int64_t index = row * cols + col + k;
    const uint32_t random =
        is_stochastic(K) ? random16_of(philox(e.key, static_cast<uint64_t>(index) / 8), static_cast<int>(index % 8))
                         : 0;
    packed |= code_of<K>(load1(x + index), e, random) << (4 * k);
  }
  codes[byte] = static_cast<uint8_t>(packed);
}

template <Kind K, typename T>
void encode(const char* name, const T* x, int64_t rows, int64_t cols, const Encoding& e, uint8_t* codes) {
  if (cols % 2 == 0 && are_aligned(x) && reinterpret_cast<uintptr_t>(codes) % 4 == 0) {
    const LaunchShape shape{.blocks = blocks_for(rows * cols, int64_t{kThreads} * kUnit), .threads = kThreads};
    launch(name, encode_even<K, T>, shape, x, rows * cols, e, codes);
  } else {
    const LaunchShape shape{.blocks = blocks_for(rows * packed_row_bytes(cols), kThreads), .threads = kThreads};
    launch(name, encode_any<K, T>, shape, x, rows, cols, e, codes);
  }
}

template <Kind K, typename Args>
void encode(const char* name, const Args& a, const Encoding& e) {
  a.x.bfloat16 ? encode<K>(name, a.x.template as<BFloat16>(), a.rows, a.cols, e, a.codes)
               : encode<K>(name, a.x.template as<float>(), a.rows, a.cols, e, a.codes);
}

void encode_int(const EncodeIntArgs& a) {
  const bool is_unsigned = a.format == Format::uint4;
  const Encoding e{a.inverse_scale, is_unsigned ? 0 : -7, is_unsigned ? 15 : 7, a.key};
  a.rounding == Rounding::nearest ? encode<Kind::int_nearest>("encode_int", a, e)
                                  : encode<Kind::int_stochastic>("encode_int", a, e);
}

void encode_fp4(const EncodeFp4Args& a) {
  const Encoding e{a.inverse_alpha, 0, 0, a.key};
  a.rounding == Rounding::nearest ? encode<Kind::fp4_nearest>("encode_fp4", a, e)
                                  : encode<Kind::fp4_stochastic>("encode_fp4", a, e);
}

__global__ void __launch_bounds__(kThreads)
    decode_codes(const uint8_t* codes, int64_t rows, int64_t cols, Format format, float scale, float* x) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= rows * cols) return;
  const uint32_t code = load_code(codes + index / cols * packed_row_bytes(cols), index % cols);
  x[index] = __fmul_rn(scale, static_cast<float>(luq::kernels::decode(format, code)));
}

void decode(const DecodeArgs& a) {
  const LaunchShape shape{.blocks = blocks_for(a.rows * a.cols, kThreads), .threads = kThreads};
  launch("decode", decode_codes, shape, a.codes, a.rows, a.cols, a.format, a.scale, a.x);
}

}  // namespace

void add_quantize(Kernels& table) {
  table.stats = {stats, "cuda"};
  table.encode_int = {encode_int, "cuda"};
  table.encode_fp4 = {encode_fp4, "cuda"};
  table.decode = {decode, "cuda"};
}

}  // namespace luq::kernels::cuda
