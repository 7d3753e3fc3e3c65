// The three 4-bit matmuls on the device: products of int8 on tensor cores (mma.sync m16n8k32), added in int32.
//
// Each is an implicit matrix product, cut into tiles of results that a block owns. Forward: patches of x times rows of
// w. Backward-data: patches of dy times w transposed, a product for each phase of the stride (qconv_plan.h).
// Backward-weight: columns of dy times patches of x, along the pixels. K may be cut into parts whose sums go to scratch
// memory as int32; a second kernel adds them in int64, in order. Parts are also what keeps a sum in int32 when K is
// longer than max_int32_terms.
//
// Operands lie in chunks of 32 codes, 16 bytes, of which every one has a pixel (or a row of w) and a tap. cp.async
// brings chunks to shared memory as they are, or zeros where the tap is outside of the image; kStages tiles of 64 codes
// along K are on their way. A tile is decoded to int8 while the one before is multiplied, so an element is decoded once
// in a block. Backward-weight transposes four pixels by eight channels in registers before it decodes. Instructions for
// 8 codes: 3 for uint4, 7 for int4, 13 for fp4, and in backward-weight 14 for each; two or four stores of shared
// memory.
//
// Results go through shared memory, so that a lane stores four neighbours: 16 bytes of float32, 8 of bfloat16.
//
// Operands whose groups are not whole chunks, or that are not aligned to 16 bytes, are packed again into scratch memory
// first, with zeros behind each group; narrow groups are merged into a wide one whose weights are 0 between groups;
// backward-data packs w transposed. Bytes: half of what an operand has, read and written once more; for w that is
// little.
//
// Bytes of one block of 128 x 128 and one tile along K: 8 KiB from global memory for 2^20 multiplications.
#pragma once

#include <luq_cuda/ptx.h>

#include "kernels/cuda/qconv_common.h"

namespace luq::kernels::cuda::qconv {

// A tile of int8 has 64 bytes a row, in four pieces of 16. Where piece `piece` of a row lies: rows 2 i and 2 i + 1 fill
// the banks, and neither the 8 rows that ldmatrix reads nor those that one store writes lie in the same ones.
__device__ inline int piece_at(int row, int piece) { return row * 4 + (piece ^ (((row >> 1) ^ (row >> 3)) & 3)); }

// 8 codes, the first in the lowest bits, as int8. The permutation takes selectors of three bits for a byte, and a
// fourth that makes it all of the byte's sign: the sign of a nibble chooses the half of the table.
__device__ inline void decode8(const Values& values, uint32_t codes, uint32_t& first, uint32_t& second) {
  const uint32_t index = codes & 0x77777777u, signs = codes << 4;
  const uint32_t high0 = luq::device::permute_bytes(codes, signs, 0x9d8c),
                 high1 = luq::device::permute_bytes(codes, signs, 0xbfae);
  first = (luq::device::permute_bytes(values.low[0], values.low[1], index) & ~high0) |
          (luq::device::permute_bytes(values.high[0], values.high[1], index) & high0);
  second = (luq::device::permute_bytes(values.low[0], values.low[1], index >> 16) & ~high1) |
           (luq::device::permute_bytes(values.high[0], values.high[1], index >> 16) & high1);
}

// 8 codes as int8, those at even places in one word and those at odd places in another: the order along K is free where
// both operands have the same. Integers need no table; with 0x88 instead of 0 above each byte's code no byte borrows.
__device__ inline void decode8_apart(const Values& values, uint32_t codes, uint32_t& even, uint32_t& odd) {
  constexpr uint32_t kCode = 0x0f0f0f0fu;
  if (values.format == Format::fp4) {
    uint32_t first, second;
    decode8(values, codes, first, second);
    even = luq::device::permute_bytes(first, second, 0x6420);
    odd = luq::device::permute_bytes(first, second, 0x7531);
    return;
  }
  even = codes & kCode;
  odd = codes >> 4 & kCode;
  if (values.format == Format::uint4) return;
  even = ((even ^ 0x88888888u) - 0x08080808u) ^ 0x80808080u;
  odd = ((odd ^ 0x88888888u) - 0x08080808u) ^ 0x80808080u;
}

// A block's tile and its warps'.
template <int BM, int BN, int WM, int WN>
struct Shape {
  static constexpr int kM = BM, kN = BN, kWarpM = WM, kWarpN = WN, kWarpsN = BN / WN;
  static constexpr int kThreads = BM / WM * kWarpsN * 32;
  static constexpr int kItemsM = (BM * 2 + kThreads - 1) / kThreads, kItemsN = (BN * 2 + kThreads - 1) / kThreads;
};

// Of a warp's results, 16 rows of 32 on their way out; rows apart such that neither their stores nor loads meet in a
// bank.
struct Strip {
  int values[16][40];
};

// Where a row or a column of the product belongs: offset -1 is nowhere; `part` of both must be the same.
struct Place {
  int64_t offset;
  int part, channel;
};

template <typename S>
union Shared {
  struct {
    uint4 raw[kStages][(S::kM + S::kN) * 2];  // packed codes, 16 bytes an item: first those of A
    uint4 values[2][(S::kM + S::kN) * 4];     // int8, rows of A, then of B
  } in;
  struct {
    Place rows[S::kM], columns[S::kN];
    Strip strips[S::kThreads / 32];
  } out;
};

template <typename S>
__device__ inline void multiply(const uint4* values, int (&sum)[S::kWarpM / 16][S::kWarpN / 8][4]) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  const int first_m = warp / S::kWarpsN * S::kWarpM, first_n = warp % S::kWarpsN * S::kWarpN;
  LUQ_UNROLL
  for (int step = 0; step < kTileK / 32; ++step) {
    unsigned a[S::kWarpM / 16][4], b[S::kWarpN / 16][4];
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      luq::device::load_matrix_x4(a[i], values + piece_at(first_m + i * 16 + lane % 16, step * 2 + lane / 16));
    }
    for (int j = 0; j < S::kWarpN / 16; ++j) {
      const int row = first_n + j * 16 + lane % 8 + lane / 16 * 8;
      luq::device::load_matrix_x4(b[j], values + S::kM * 4 + piece_at(row, step * 2 + lane / 8 % 2));
    }
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      for (int j = 0; j < S::kWarpN / 8; ++j) {
        const unsigned column[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
        luq::device::mma_s8(sum[i][j], a[i], column, sum[i][j]);
      }
    }
  }
}

// Four neighbours, where the sink allows that.
__device__ inline void store_quad(const Sink& sink, int64_t index, int channel, const int (&sum)[4]) {
  if (sink.partial != nullptr) {
    *reinterpret_cast<uint4*>(sink.partial + index) =
        make_uint4(static_cast<unsigned>(sum[0]), static_cast<unsigned>(sum[1]), static_cast<unsigned>(sum[2]),
                   static_cast<unsigned>(sum[3]));
    return;
  }
  float value[4] = {};
  if (sink.bfloat16 != 0) {
    auto* y = reinterpret_cast<uint2*>(static_cast<BFloat16*>(sink.y) + index);
    if (sink.accumulate != 0) {
      const uint2 old = *y;
      value[0] = bits_float(old.x << 16);
      value[1] = bits_float(old.x & 0xffff0000u);
      value[2] = bits_float(old.y << 16);
      value[3] = bits_float(old.y & 0xffff0000u);
    }
    uint32_t bits[4];
    for (int k = 0; k < 4; ++k) {
      bits[k] = to_bfloat16(finished(sink, channel + k, static_cast<float>(sum[k]), value[k])).bits;
    }
    *y = make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16);
    return;
  }
  auto* y = reinterpret_cast<float4*>(static_cast<float*>(sink.y) + index);
  if (sink.accumulate != 0) {
    const float4 old = *y;
    value[0] = old.x;
    value[1] = old.y;
    value[2] = old.z;
    value[3] = old.w;
  }
  for (int k = 0; k < 4; ++k) value[k] = finished(sink, channel + k, static_cast<float>(sum[k]), value[k]);
  *y = make_float4(value[0], value[1], value[2], value[3]);
}

// A strip of 16 rows of 32, whose places are given: a lane has four neighbours of every fourth row.
__device__ inline void store_strip(const Sink& sink, const Strip& strip, const Place* rows, const Place* columns) {
  const int lane = static_cast<int>(threadIdx.x % 32), first = lane % 8 * 4;
  for (int i = lane / 8; i < 16; i += 4) {
    const Place row = rows[i];
    if (row.offset < 0) continue;
    const uint4 words = *reinterpret_cast<const uint4*>(&strip.values[i][first]);
    const int sum[4] = {static_cast<int>(words.x), static_cast<int>(words.y), static_cast<int>(words.z),
                        static_cast<int>(words.w)};
    if (sink.quads != 0) {
      const Place column = columns[first];
      if (column.offset >= 0 && column.part == row.part) {
        store_quad(sink, row.offset + column.offset, column.channel, sum);
      }
      continue;
    }
    for (int k = 0; k < 4; ++k) {
      const Place column = columns[first + k];
      if (column.offset >= 0 && column.part == row.part) {
        store_one(sink, row.offset + column.offset, column.channel, sum[k]);
      }
    }
  }
}

struct Grid {
  int m_tiles, n_tiles, splits, split_tiles, k_tiles, unused;
};

// One block: a tile of the results of one group, of one part of K.
template <typename S, template <typename> typename Gather>
__global__ void __launch_bounds__(S::kThreads, 512 / S::kThreads)
    product(typename Gather<S>::Parameters parameters, Grid grid, Sink sink) {
  auto& shared = luq::device::shared_memory<Shared<S>>();
  int block = static_cast<int>(blockIdx.x);
  const int n_tile = block % grid.n_tiles;
  block /= grid.n_tiles;
  const int m_tile = block % grid.m_tiles;
  block /= grid.m_tiles;
  const int split = block % grid.splits, group = block / grid.splits;
  const int first = split * grid.split_tiles;
  const int end = first + grid.split_tiles < grid.k_tiles ? first + grid.split_tiles : grid.k_tiles;
  Gather<S> gather(parameters, group, m_tile, n_tile, first);
  int sum[S::kWarpM / 16][S::kWarpN / 8][4] = {};

  // Tile k + kStages is copied and tile k + 1 decoded while tile k is multiplied.
  for (int stage = 0; stage < kStages; ++stage) {
    if (first + stage < end) gather.copy(shared.in.raw[stage]);
    luq::device::commit_copies();
  }
  luq::device::wait_for_copies<kStages - 1>();
  __syncthreads();
  if (first < end) gather.decode(shared.in.raw[0], shared.in.values[0]);
  int stage = 0, half = 0;
  for (int k = first; k < end; ++k) {
    luq::device::wait_for_copies<kStages - 2>();
    __syncthreads();
    if (k + kStages < end) gather.copy(shared.in.raw[stage]);
    luq::device::commit_copies();
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (k + 1 < end) gather.decode(shared.in.raw[stage], shared.in.values[half ^ 1]);
    multiply<S>(shared.in.values[half], sum);
    half ^= 1;
  }

  // Results leave by way of shared memory, so that neighbours are stored together.
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  if (t < S::kM) shared.out.rows[t] = gather.row(m_tile * S::kM + t);
  if (t < S::kN) shared.out.columns[t] = gather.column(n_tile * S::kN + t);
  __syncthreads();
  if (sink.partial != nullptr) sink.partial += split * sink.size;
  static_assert(S::kWarpN == 32 && S::kM <= S::kThreads && S::kN <= S::kThreads);
  const int first_m = warp / S::kWarpsN * S::kWarpM, first_n = warp % S::kWarpsN * S::kWarpN;
  Strip& strip = shared.out.strips[warp];
  LUQ_UNROLL
  for (int i = 0; i < S::kWarpM / 16; ++i) {
    LUQ_UNROLL
    for (int j = 0; j < S::kWarpN / 8; ++j) {
      for (int lower = 0; lower < 2; ++lower) {
        *reinterpret_cast<uint2*>(&strip.values[lane / 4 + lower * 8][j * 8 + lane % 4 * 2]) =
            make_uint2(static_cast<unsigned>(sum[i][j][lower * 2]), static_cast<unsigned>(sum[i][j][lower * 2 + 1]));
      }
    }
    __syncwarp();
    store_strip(sink, strip, shared.out.rows + first_m + i * 16, shared.out.columns + first_n);
    __syncwarp();
  }
}

// ---- The host's side ------------------------------------------------------------------------------------------------

template <typename S, template <typename> typename Gather>
void run_product(const char* name, const typename Gather<S>::Parameters& parameters, const Grid& grid, int64_t groups,
                 const Sink& sink) {
  constexpr auto kernel = product<S, Gather>;
  constexpr auto kBytes = static_cast<int>(sizeof(Shared<S>));
  if (kBytes > 48 << 10) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), name);
  }
  const int64_t blocks = groups * grid.splits * grid.m_tiles * grid.n_tiles;
  launch(name, kernel, {.blocks = blocks, .threads = S::kThreads, .shared_bytes = kBytes}, parameters, grid, sink);
}

template <template <typename> typename Gather, typename Parameters>
void run_tile(Tile tile, const char* name, const Parameters& parameters, const Grid& grid, int64_t groups,
              const Sink& sink) {
  switch (tile) {
    case Tile::m128n128:
      return run_product<Shape<128, 128, 64, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m128n64:
      return run_product<Shape<128, 64, 32, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m128n32:
      return run_product<Shape<128, 32, 32, 32>, Gather>(name, parameters, grid, groups, sink);
    case Tile::m64n64:
      return run_product<Shape<64, 64, 32, 32>, Gather>(name, parameters, grid, groups, sink);
  }
}

inline Grid grid_of(Tile tile, int64_t m, int64_t n, int64_t k_tiles, int64_t splits) {
  return {.m_tiles = static_cast<int>(divide_up(m, tile_m(tile))),
          .n_tiles = static_cast<int>(divide_up(n, tile_n(tile))),
          .splits = static_cast<int>(splits),
          .split_tiles = static_cast<int>(divide_up(k_tiles, splits)),
          .k_tiles = static_cast<int>(k_tiles),
          .unused = 0};
}

}  // namespace luq::kernels::cuda::qconv
