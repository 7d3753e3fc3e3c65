// The moments of batch norm on the way of a forward product: of each output channel the sum of its integer sums and of
// their squares, exact, so that every order of adding them gives the same.
//
// A lane has 4 rows of 8 columns of a strip. The 8 lanes of the same columns halve what they have three times, each
// giving the other's half away: 21 shuffles of a word for a strip. Warps above each other meet in shared memory, and
// the block writes 16 bytes a column; a second kernel adds the tiles of a channel. Instructions: some 200 a strip,
// where a tile along K takes 150 for two. Bytes: 16 a column of a tile, an eighth of a byte a result, instead of the 2
// or 4 that reading the result takes.
//
// If int4 is decoded as 16 times itself, the moments are of sums that are as many times too large, if those fit; the
// last kernel shifts back, exactly.
#pragma once

#include <luq_cuda/ptx.h>

#include "kernels/cuda/qconv_common.h"

namespace luq::kernels::cuda::qconv {

// Into columns (S::kWarpN): what a warp's results give. A lane ends with column l / 4 of the 8 of lanes l % 4.
template <typename S, typename Gather>
__device__ inline void moments_of_warp(const int (&results)[S::kWarpM / 16][S::kWarpN / 8][4], Moment* columns) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  LUQ_UNROLL
  for (int strip = 0; strip < S::kWarpN / 32; ++strip) {
    static_assert(S::kWarpM <= QConvForwardMomentsArgs::kMomentRows);
    int sum[8] = {};  // of the warp's rows at the end
    int64_t square[8] = {};
    LUQ_UNROLL
    for (int k = 0; k < 8; ++k) {
      LUQ_UNROLL
      for (int i = 0; i < S::kWarpM / 16; ++i) {
        LUQ_UNROLL
        for (int h = 0; h < 2; ++h) {
          const int result = Gather::result(results[i], strip, h, k);
          sum[k] += result;
          square[k] += int64_t{result} * result;
        }
      }
    }
    LUQ_UNROLL
    for (int half = 4; half > 0; half /= 2) {
      const bool upper = (lane & half * 4) != 0;
      LUQ_UNROLL
      for (int k = 0; k < half; ++k) {
        const int sum_given = upper ? sum[k] : sum[k + half];
        const int64_t square_given = upper ? square[k] : square[k + half];
        sum[k] = (upper ? sum[k + half] : sum[k]) + __shfl_xor_sync(0xffffffffu, sum_given, half * 4);
        square[k] = (upper ? square[k + half] : square[k]) + __shfl_xor_sync(0xffffffffu, square_given, half * 4);
      }
    }
    columns[strip * 32 + lane % 4 * 8 + lane / 4] = {sum[0], square[0]};
  }
}

// Those of a block, whose results must have been read from shared memory; it is used for `warps`.
template <typename S, typename Gather>
__device__ inline void store_moments(const Gather& gather, const Sink& sink, int m_tile, int n_tile,
                                     const int (&results)[S::kWarpM / 16][S::kWarpN / 8][4],
                                     Moment (&warps)[S::kM / S::kWarpM][S::kN]) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  __syncthreads();
  moments_of_warp<S, Gather>(results, warps[warp / S::kWarpsN] + warp % S::kWarpsN * S::kWarpN);
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  static_assert(S::kN <= S::kThreads);
  if (column >= S::kN) return;
  const auto place = gather.column(n_tile * S::kN + column);
  if (place.offset < 0) return;
  Moment all{};
  for (int i = 0; i < S::kM / S::kWarpM; ++i) all += warps[i][column];
  sink.moments[place.place * sink.moment_tiles + m_tile] = all;
}

// ---- The host's side ------------------------------------------------------------------------------------------------

// The arrays that the moments of the results go to.
struct MomentsOut {
  float *mean, *variance;  // (channels)
};

// The end: adds the tiles of sink.moments, of `rows` results a channel, which are of 2^shift times the sums.
void finish_moments(const Sink& sink, int64_t rows, int shift, const MomentsOut& moments);

// As finish, with moments: results from parts of sums, or whole sums, in memory. sink.moment_tiles is moment_tiles_of
// the rows.
constexpr int kRowsOfTile = 128;
constexpr int64_t moment_tiles_of(int64_t rows) { return blocks_for(rows, kRowsOfTile); }
void finish_with_moments(const Sink& sink, const int* parts, int64_t splits, const MomentsOut& moments);
void finish_with_moments(const Sink& sink, const int64_t* sums, const MomentsOut& moments);

}  // namespace luq::kernels::cuda::qconv
