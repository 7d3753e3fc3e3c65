// The three 4-bit matmuls on the device: products of int8 on tensor cores (mma.sync m16n8k32), added in int32.
//
// Each is an implicit matrix product, cut into tiles of results that a block owns. Forward: patches of x times rows of
// w. Backward-data: patches of dy times w transposed, a product for each phase of the stride (qconv_plan.h).
// Backward-weight: columns of dy times patches of x, along the pixels. K may be cut into parts whose sums go to scratch
// memory as int32; a second kernel adds them in int64, in order. Parts are also what keeps a sum in int32 when K is
// longer than max_int32_terms.
//
// Operands lie in chunks of 32 codes, 16 bytes, of which every one has a pixel (or a row of w) and a tap. cp.async
// brings chunks to shared memory as they are, or zeros where the tap is outside of the image; kStages - 1 tiles of 64
// codes along K are on their way while one is multiplied. Codes stay packed in shared memory: a warp reads its
// fragments with ldmatrix, 8 codes a word, and decodes them in registers; the order along K is free where both operands
// have the same, so that the two words of a decoded one are the two halves of a fragment. That decodes an element once
// in each warp of a row or a column of warps, 2 to 4 times, and costs less than int8 in shared memory did: its
// bandwidth bounds this kernel, not the decoding. Instructions for 8 codes: 3 for integers, 11 by a table; in
// backward-weight, which transposes too, 3 for uint4, 4 for int4 and 14. So a warp's tile is 32 rows of A, which are
// fp4 in the backward pass, by 64 or, in backward-weight, 128 columns.
//
// int4 is decoded as 16 times its value, the nibble in the upper half of its byte, and so is every other column of
// uint4 in backward-weight; sums are shifted back, exactly.
//
// A lane ends with 8 neighbouring results of a row, since the order of rows and columns within a fragment is free, too:
// it stores 16 bytes of bfloat16, or 32 of float32.
//
// Operands whose groups are not whole chunks, or that are not aligned to 16 bytes, are packed again into scratch memory
// first, with zeros behind each group; narrow groups are merged into a wide one whose weights are 0 between groups;
// backward-data packs w transposed. Bytes: half of what an operand has, read and written once more; for w that is
// little.
//
// Bytes of one block of 128 x 128 and one tile along K: 8 KiB from global memory for 2^20 multiplications.
#pragma once

#include <luq_cuda/ptx.h>

#include <cmath>

#include "kernels/cuda/qconv_moments.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda::qconv {

// How an operand is decoded: integers by their bits, or anything by its table.
enum class Decoder { uint4, int4, table };
constexpr Decoder decoder_of(const CodeTable& table) {
  return table == unsigned_integers() ? Decoder::uint4 : table == signed_integers() ? Decoder::int4 : Decoder::table;
}
// The power of two that decoded values are multiplied by.
constexpr int shift_of(Decoder decoder) { return decoder == Decoder::int4 ? 4 : 0; }

// 8 codes, the first in the lowest bits, as int8, in order. The permutation takes selectors of three bits for a byte,
// and a fourth that makes it all of the byte's sign: the sign of a nibble chooses the half of the table.
__device__ inline void decode_by_table(const Values& values, uint32_t codes, uint32_t& first, uint32_t& second) {
  const uint32_t index = codes & 0x77777777u, signs = codes << 4;
  const uint32_t high0 = luq::device::permute_bytes(codes, signs, 0x9d8c),
                 high1 = luq::device::permute_bytes(codes, signs, 0xbfae);
  first = (luq::device::permute_bytes(values.low[0], values.low[1], index) & ~high0) |
          (luq::device::permute_bytes(values.high[0], values.high[1], index) & high0);
  second = (luq::device::permute_bytes(values.low[0], values.low[1], index >> 16) & ~high1) |
           (luq::device::permute_bytes(values.high[0], values.high[1], index >> 16) & high1);
}

// 8 codes as int8: of integers those at even places and those at odd places; by a table, the first four and the others.
template <Decoder D>
__device__ inline void decode(const Values& values, uint32_t codes, uint32_t& first, uint32_t& second) {
  if constexpr (D == Decoder::table) {
    decode_by_table(values, codes, first, second);
  } else if constexpr (D == Decoder::uint4) {
    first = codes & 0x0f0f0f0fu;
    second = codes >> 4 & 0x0f0f0f0fu;
  } else {
    first = codes << 4 & 0xf0f0f0f0u;
    second = codes & 0xf0f0f0f0u;
  }
}

// A block's tile and its warps'.
template <int BM, int BN, int WM, int WN>
struct Shape {
  static constexpr int kM = BM, kN = BN, kWarpM = WM, kWarpN = WN, kWarpsN = BN / WN;
  static constexpr int kThreads = BM / WM * kWarpsN * 32;
  static constexpr int kItemsM = (BM * 2 + kThreads - 1) / kThreads, kItemsN = (BN * 2 + kThreads - 1) / kThreads;
  static_assert(WM % 32 == 0 && WN % 32 == 0);
  // Blocks that a multiprocessor holds at once, by their registers: a thread has 64 results in 128 of them, or 128 in
  // 255. Two tables want more than that.
  static constexpr int blocks(Decoder a, Decoder b) {
    return (a == Decoder::table && b == Decoder::table ? 256 : WM * WN <= 2048 ? 512 : 256) / kThreads;
  }
};

// A row or a column of the product: its offset in the results, -1 for nowhere; `part` of both must be the same; and its
// place in the sink's vectors, if they are of rows, or of columns.
struct Place {
  int64_t offset;
  int part, place;
};
__device__ inline bool belong(const Place& row, const Place& column) {
  return row.offset >= 0 && column.offset >= 0 && row.part == column.part;
}
__device__ inline int place_of(const Sink& sink, const Place& row, const Place& column) {
  return sink.of_rows != 0 ? row.place : column.place;
}

template <typename S>
union Shared {
  uint4 raw[kStages][(S::kM + S::kN) * 2];  // packed codes, 16 bytes an item: first those of A
  int strips[S::kThreads / 32][16][32];     // results that leave one by one
  Moment moments[S::kM / S::kWarpM][S::kN];
};

// A lane's share of 32 rows of A, or 32 columns of B, and 32 codes along K: packed, 4 words, and decoded, two blocks of
// 16 rows or four blocks of 8 columns, as mma_s8 has them.
using Words = unsigned[4];
using RowBlocks = unsigned[2][4];
using ColumnBlocks = unsigned[4][2];

// ---- Results --------------------------------------------------------------------------------------------------------

using OldEight = Packed<BFloat16, 8>;

// 8 results of a row, the first at `offset`, with the place of their row, or of their first column. old: what is there,
// where they are added to bfloat16; it is on its way early. (For float32 there are not the registers.)
__device__ inline void store_eight(const Sink& sink, int64_t offset, int place, const int (&sum)[8],
                                   const OldEight& old) {
  if (sink.partial != nullptr) {
    for (int k = 0; k < 8; k += 4) {
      *reinterpret_cast<uint4*>(sink.partial + offset + k) =
          make_uint4(static_cast<unsigned>(sum[k]), static_cast<unsigned>(sum[k + 1]),
                     static_cast<unsigned>(sum[k + 2]), static_cast<unsigned>(sum[k + 3]));
    }
    return;
  }
  float value[8];
  if (sink.scales == nullptr) {
    for (int k = 0; k < 8; ++k) value[k] = __fmul_rn(static_cast<float>(sum[k]), sink.scale);
  } else {
    const float* scales = sink.scales + place;
    const int step = sink.of_rows != 0 ? 0 : 1;
    for (int k = 0; k < 8; ++k)
      value[k] = __fmul_rn(static_cast<float>(sum[k]), __fmul_rn(sink.scale, scales[k * step]));
  }
  if (sink.bias != nullptr) {
    for (int k = 0; k < 8; ++k) value[k] = __fadd_rn(value[k], sink.bias[place + k]);
  }
  if (sink.bfloat16 != 0) {
    if (sink.accumulate != 0) {
      for (int k = 0; k < 8; ++k) value[k] = __fadd_rn(value[k], old[k]);
    }
    Packed<BFloat16, 8>::of(value).store(static_cast<BFloat16*>(sink.y) + offset);
  } else {
    if (sink.accumulate != 0) {
      const auto there = Packed<float, 8>::load(static_cast<const float*>(sink.y) + offset);
      for (int k = 0; k < 8; ++k) value[k] = __fadd_rn(value[k], there[k]);
    }
    Packed<float, 8>::of(value).store(static_cast<float*>(sink.y) + offset);
  }
}

// Tiles of the product, parts of K and tiles of each; shift: of the sums, for int4 decoded as 16 times itself, where
// the sink's scale has not got it.
struct Tiling {
  Divisor m_tiles, n_tiles, splits;
  int split_tiles, k_tiles, shift;
};

// A warp's results, where 8 neighbours are stored at once: a lane has 8 columns of each strip of 32.
template <typename S, typename Gather>
__device__ inline void store_eights(const Gather& gather, const Sink& sink, int first_m, int first_n,
                                    const int (&sum)[S::kWarpM / 16][S::kWarpN / 8][4]) {
  constexpr int kStrips = S::kWarpN / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool adds = sink.accumulate != 0 && sink.bfloat16 != 0 && sink.partial == nullptr;
  Place columns[kStrips];
  LUQ_UNROLL
  for (int strip = 0; strip < kStrips; ++strip) columns[strip] = gather.column(first_n + strip * 32 + lane % 4 * 8);
  LUQ_UNROLL
  for (int i = 0; i < S::kWarpM / 16; ++i) {
    Place rows[2];
    OldEight old[2][kStrips];
    LUQ_UNROLL
    for (int h = 0; h < 2; ++h) {
      rows[h] = gather.row(first_m + Gather::row_of(i, h, lane / 4));
      LUQ_UNROLL
      for (int strip = 0; strip < kStrips; ++strip) {
        if (adds && belong(rows[h], columns[strip])) {
          old[h][strip] = OldEight::load(static_cast<const BFloat16*>(sink.y) + rows[h].offset + columns[strip].offset);
        }
      }
    }
    LUQ_UNROLL
    for (int h = 0; h < 2; ++h) {
      LUQ_UNROLL
      for (int strip = 0; strip < kStrips; ++strip) {
        if (!belong(rows[h], columns[strip])) continue;
        int values[8];
        LUQ_UNROLL
        for (int k = 0; k < 8; ++k) values[k] = Gather::result(sum[i], strip, h, k);
        store_eight(sink, rows[h].offset + columns[strip].offset, place_of(sink, rows[h], columns[strip]), values,
                    old[h][strip]);
      }
    }
  }
}

// Any results, one by one: by way of shared memory, so that the loop over rows is short.
template <typename S, typename Gather>
__device__ inline void store_singly(const Gather& gather, const Sink& sink, int first_m, int first_n,
                                    const int (&sum)[S::kWarpM / 16][S::kWarpN / 8][4], int (&strips)[16][32]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  LUQ_UNROLL
  for (int strip = 0; strip < S::kWarpN / 32; ++strip) {
    const Place column = gather.column(first_n + strip * 32 + lane);
    LUQ_UNROLL
    for (int i = 0; i < S::kWarpM / 16; ++i) {
      LUQ_UNROLL
      for (int h = 0; h < 2; ++h) {
        LUQ_UNROLL
        for (int k = 0; k < 8; ++k) {
          strips[h * 8 + lane / 4][lane % 4 * 8 + k] = Gather::result(sum[i], strip, h, k);
        }
      }
      __syncwarp();
      LUQ_UNROLL_NOT
      for (int r = 0; r < 16; ++r) {
        const Place row = gather.row(first_m + Gather::row_of(i, r / 8, r % 8));
        if (!belong(row, column)) continue;
        store_one(sink, row.offset + column.offset, place_of(sink, row, column), strips[r][lane]);
      }
      __syncwarp();
    }
  }
}

// ---- The kernel -----------------------------------------------------------------------------------------------------

// One block: a tile of the results of one group, of one part of K.
template <typename Gather, typename S = typename Gather::Tile>
__global__ void __launch_bounds__(S::kThreads, Gather::kBlocks)
    product(typename Gather::Parameters parameters, Tiling tiling, Sink sink) {
  auto& shared = luq::device::shared_memory<Shared<S>>();
  int block = static_cast<int>(blockIdx.x);
  const int n_tile = tiling.n_tiles.next(block), m_tile = tiling.m_tiles.next(block), split = tiling.splits.next(block);
  const int group = block;
  const int first = split * tiling.split_tiles;
  const int end = first + tiling.split_tiles < tiling.k_tiles ? first + tiling.split_tiles : tiling.k_tiles;
  Gather gather(parameters, group, m_tile, n_tile, first);
  int sum[S::kWarpM / 16][S::kWarpN / 8][4] = {};

  LUQ_UNROLL_NOT
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (first + stage < end) gather.copy(shared.raw[stage]);
    luq::device::commit_copies();
  }
  int stage = 0;
  for (int k = first; k < end; ++k) {
    luq::device::wait_for_copies<kStages - 2>();
    __syncthreads();  // tile k is there, and nobody reads tile k - 1 any more
    const int next = stage == 0 ? kStages - 1 : stage - 1;
    if (k + kStages - 1 < end) gather.copy(shared.raw[next]);
    luq::device::commit_copies();
    LUQ_UNROLL
    for (int step = 0; step < 2; ++step) {
      Words words;
      RowBlocks a[S::kWarpM / 32];
      LUQ_UNROLL
      for (int i = 0; i < S::kWarpM / 32; ++i) {
        gather.load_rows(shared.raw[stage], i, step, words);
        gather.decode_rows(words, a[i]);
      }
      LUQ_UNROLL
      for (int strip = 0; strip < S::kWarpN / 32; ++strip) {
        ColumnBlocks b;
        gather.load_columns(shared.raw[stage], strip, step, words);
        gather.decode_columns(words, b);
        LUQ_UNROLL
        for (int j = 0; j < 4; ++j) {
          LUQ_UNROLL
          for (int i = 0; i < S::kWarpM / 16; ++i) {
            int(&here)[4] = sum[i][strip * 4 + j];
            Gather::multiply(here, a[i / 2][i % 2], b[j]);
          }
        }
      }
    }
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  if (sink.partial != nullptr) sink.partial += split * sink.size;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int first_m = m_tile * S::kM + warp / S::kWarpsN * S::kWarpM;
  const int first_n = n_tile * S::kN + warp % S::kWarpsN * S::kWarpN;
  if (tiling.shift != 0) {
    for (auto& row : sum) {
      for (auto& block : row) {
        for (int& value : block) value >>= tiling.shift;
      }
    }
  }
  if (sink.eights != 0) {
    store_eights<S>(gather, sink, first_m, first_n, sum);
  } else {
    __syncthreads();
    store_singly<S>(gather, sink, first_m, first_n, sum, shared.strips[warp]);
  }
  if constexpr (Gather::kMoments) store_moments<S>(gather, sink, m_tile, n_tile, sum, shared.moments);
}

// ---- The host's side ------------------------------------------------------------------------------------------------

template <typename Gather>
void run_product(const char* name, const typename Gather::Parameters& parameters, const Tiling& tiling, int64_t groups,
                 const Sink& sink) {
  constexpr auto kernel = product<Gather>;
  using S = typename Gather::Tile;
  constexpr auto kBytes = static_cast<int>(sizeof(Shared<S>));
  static_assert(kBytes <= 48 << 10);
  const int64_t blocks = groups * tiling.splits.value * tiling.m_tiles.value * tiling.n_tiles.value;
  launch(name, kernel, {.blocks = blocks, .threads = S::kThreads, .shared_bytes = kBytes}, parameters, tiling, sink);
}

template <template <typename, Decoder, Decoder> typename Gather, Decoder A, Decoder B, typename Parameters>
void run_tile(Tile tile, const char* name, const Parameters& parameters, const Tiling& tiling, int64_t groups,
              const Sink& sink) {
  switch (tile) {
    case Tile::m128n128:
      if constexpr (Parameters::kMayBeWide) {
        run_product<Gather<Shape<128, 128, 32, 128>, A, B>>(name, parameters, tiling, groups, sink);
      }
      return;
    case Tile::m128n64:
      return run_product<Gather<Shape<128, 64, 32, 64>, A, B>>(name, parameters, tiling, groups, sink);
    case Tile::m128n32:
      return run_product<Gather<Shape<128, 32, 32, 32>, A, B>>(name, parameters, tiling, groups, sink);
    case Tile::m64n64:
      return run_product<Gather<Shape<64, 64, 32, 32>, A, B>>(name, parameters, tiling, groups, sink);
  }
}

// Results that are floats at once leave the shift to their scale: both products are rounded alike, as long as the
// smaller scale is a normal number. With a vector of scales, which the host does not read, nobody knows that it is.
inline bool scale_takes(Sink& sink, int shift) {
  const float scale = std::ldexp(sink.scale, -shift);
  if (sink.partial != nullptr || sink.sums != nullptr || sink.scales != nullptr || !std::isnormal(scale)) return false;
  sink.scale = scale;
  return true;
}

inline Tiling tiling_of(Tile tile, int64_t m, int64_t n, int64_t k_tiles, int64_t splits, int shift) {
  return {.m_tiles = Divisor(divide_up(m, tile_m(tile))),
          .n_tiles = Divisor(divide_up(n, tile_n(tile))),
          .splits = Divisor(splits),
          .split_tiles = static_cast<int>(divide_up(k_tiles, splits)),
          .k_tiles = static_cast<int>(k_tiles),
          .shift = shift};
}

}  // namespace luq::kernels::cuda::qconv
