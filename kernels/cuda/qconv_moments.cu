#include "kernels/cuda/qconv_moments.h"

namespace luq::kernels::cuda::qconv {
namespace {

constexpr int kColumns = 32, kLanes = kThreads / kColumns;

struct MomentShared {
  Moment at[kLanes][kColumns];
};

// As add_parts, of kRowsOfTile rows and kColumns channels a block. Sum: int for parts, int64_t for whole sums.
template <typename Sum, bool kScales>
__global__ void __launch_bounds__(kThreads) add_parts_with_moments(Sink sink, const Sum* parts, int64_t splits) {
  auto& shared = luq::device::shared_memory<MomentShared>();
  const int lane = static_cast<int>(threadIdx.x) / kColumns, column = static_cast<int>(threadIdx.x) % kColumns;
  const int64_t channel = int64_t{blockIdx.x} / sink.moment_tiles * kColumns + column;
  const int64_t tile = int64_t{blockIdx.x} % sink.moment_tiles, channels = sink.places;
  if (!kScales) sink.scales = nullptr;
  Moment all{};
  if (channel < channels) {
    for (int row = lane; row < kRowsOfTile; row += kLanes) {
      const int64_t index = (tile * kRowsOfTile + row) * channels + channel;
      if (index >= sink.size) break;
      int64_t sum = 0;
      for (int64_t split = 0; split < splits; ++split) sum += parts[split * sink.size + index];
      store(sink, index, channel, sum);
      all += Moment{sum, sum * sum};
    }
  }
  shared.at[lane][column] = all;
  __syncthreads();
  if (lane != 0 || channel >= channels) return;
  for (int i = 1; i < kLanes; ++i) all += shared.at[i][column];
  sink.moments[channel * sink.moment_tiles + tile] = all;
}

struct AddMomentsShared {
  Moment at[kThreads];
};

// A block adds the tiles of a channel.
__global__ void __launch_bounds__(kThreads) add_moments(const Moment* parts, int64_t tiles, int64_t rows, float scale,
                                                        const float* scales, int shift, float* mean, float* variance) {
  auto& shared = luq::device::shared_memory<AddMomentsShared>();
  const int64_t channel = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const float step = result_scale(scale, scales, channel);
  Moment all{};
  for (int64_t tile = thread; tile < tiles; tile += kThreads) all += parts[channel * tiles + tile];
  shared.at[thread] = all;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) shared.at[thread] += shared.at[thread + half];
  }
  if (thread == 0)
    moments_of_sums(shared.at[0].sum >> shift, shared.at[0].square >> 2 * shift, rows, step, mean + channel,
                    variance + channel);
}

template <typename Sum>
void add_and_finish(const Sink& sink, const Sum* parts, int64_t splits, const MomentsOut& moments) {
  const LaunchShape shape{.blocks = blocks_for(sink.places, kColumns) * sink.moment_tiles,
                          .threads = kThreads,
                          .shared_bytes = sizeof(MomentShared)};
  launch("qconv_forward, parts",
         sink.scales != nullptr ? add_parts_with_moments<Sum, true> : add_parts_with_moments<Sum, false>, shape, sink,
         parts, splits);
  finish_moments(sink, sink.size / sink.places, 0, moments);
}

}  // namespace

void finish_moments(const Sink& sink, int64_t rows, int shift, const MomentsOut& moments) {
  launch("qconv_forward, moments", add_moments,
         {.blocks = sink.places, .threads = kThreads, .shared_bytes = sizeof(AddMomentsShared)}, sink.moments,
         sink.moment_tiles, rows, sink.scale, sink.scales, shift, moments.mean, moments.variance);
}

void finish_with_moments(const Sink& sink, const int* parts, int64_t splits, const MomentsOut& moments) {
  add_and_finish(sink, parts, splits, moments);
}

void finish_with_moments(const Sink& sink, const int64_t* sums, const MomentsOut& moments) {
  add_and_finish(sink, sums, 1, moments);
}

}  // namespace luq::kernels::cuda::qconv
