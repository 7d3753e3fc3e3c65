// Cross-entropy: a warp has a row of up to 256 classes, a block of 256 threads a longer one. Three walks over the row,
// of which the first comes from memory and the others from L1: the first maximum; the sum of exponentials; the
// gradient. Bytes: 4 a logit, and 4 more for the gradient.
//
// In float32, with care for what cancels. Everything is relative to the largest logit z: a row's log of the sum is
// log1p(rest), where rest is the sum without the maximum itself, so that a loss near 0 keeps its digits; the gradient
// at the maximum is (1 - target) - rest / (1 + rest). A NaN, or an infinite largest logit, makes the row's results NaN.
//
// Right rows are counted with integer additions in device memory, which come out the same in any order.
#include <luq_cuda/ptx.h>

#include "kernels/cuda/exp.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kWarp = 32;

// CrossEntropyArgs, but for what the host wants back.
struct Loss {
  const float* logits;
  const int32_t *labels, *other_labels;
  const float* label_weight;
  float *loss, *dlogits;
  unsigned long long* correct;
  int64_t rows;
  int classes;
  float smooth, sharp, gradient_scale;  // of a target: s / classes and 1 - s
};

struct LossShared {
  float values[2][kThreads / kWarp];
  int index[kThreads / kWarp];
};

// The larger, and of equal ones the first.
__device__ void keep_larger(float& value, int& index, float other, int other_index) {
  if (other > value || (other == value && other_index < index)) {
    value = other;
    index = other_index;
  }
}

// kRowThreads: 32, or the whole block.
template <int kRowThreads>
__global__ void __launch_bounds__(kThreads) cross_entropy_rows(Loss a) {
  auto& shared = luq::device::shared_memory<LossShared>();
  const int thread = static_cast<int>(threadIdx.x) % kRowThreads, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kRowThreads) + static_cast<int>(threadIdx.x) / kRowThreads;
  if (row >= a.rows) return;  // a whole warp, or nobody
  const float* z = a.logits + row * a.classes;

  float largest = -INFINITY;
  int best = 0x7fffffff;
  for (int k = thread; k < a.classes; k += kRowThreads) keep_larger(largest, best, z[k], k);
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, largest, apart);
    keep_larger(largest, best, other, __shfl_xor_sync(0xffffffffu, best, apart));
  }
  if (kRowThreads > kWarp) {
    if (lane == 0) {
      shared.values[0][warp] = largest;
      shared.index[warp] = best;
    }
    __syncthreads();
    for (int w = 0; w < kRowThreads / kWarp; ++w) keep_larger(largest, best, shared.values[0][w], shared.index[w]);
    __syncthreads();
  }
  if (z[0] != z[0]) {  // nothing is larger than a NaN
    largest = z[0];
    best = 0;
  }

  float rest = 0, differences = 0;
  for (int k = thread; k < a.classes; k += kRowThreads) {
    const float difference = z[k] - largest;
    rest += k == best ? 0.0f : exp_of(difference);
    differences += difference;
  }
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    rest += __shfl_xor_sync(0xffffffffu, rest, apart);
    differences += __shfl_xor_sync(0xffffffffu, differences, apart);
  }
  if (kRowThreads > kWarp) {
    if (lane == 0) {
      shared.values[0][warp] = rest;
      shared.values[1][warp] = differences;
    }
    __syncthreads();
    rest = differences = 0;
    for (int w = 0; w < kRowThreads / kWarp; ++w) {
      rest += shared.values[0][w];
      differences += shared.values[1][w];
    }
  }
  rest += largest - largest;  // 0, or NaN

  const int label = a.labels[row], other = a.other_labels != nullptr ? a.other_labels[row] : -1;
  const float weight = a.other_labels != nullptr ? a.label_weight[row] : 1.0f;
  const float at_label = weight * a.sharp, at_other = a.other_labels != nullptr ? (1.0f - weight) * a.sharp : 0.0f;
  if (thread == 0) {
    if (a.correct != nullptr && best == label) atomicAdd(a.correct, 1ull);
    if (a.loss != nullptr) {
      const float log_total = log1pf(rest);
      float loss = 0;  // a target of 0 adds nothing, whatever the logit
      if (a.smooth != 0) loss += a.smooth * (static_cast<float>(a.classes) * log_total - differences);
      if (at_label != 0) loss += at_label * (log_total - (z[label] - largest));
      if (at_other != 0) loss += at_other * (log_total - (z[other] - largest));
      a.loss[row] = rest != rest ? rest : loss;
    }
  }
  if (a.dlogits == nullptr) return;
  const float inverse = 1.0f / (1.0f + rest);
  float* dz = a.dlogits + row * a.classes;
  for (int k = thread; k < a.classes; k += kRowThreads) {
    const float target = a.smooth + (k == label ? at_label : 0.0f) + (k == other ? at_other : 0.0f);
    const float excess = k == best ? (1.0f - target) - rest * inverse : exp_of(z[k] - largest) * inverse - target;
    dz[k] = excess * a.gradient_scale;
  }
}

void cross_entropy(const CrossEntropyArgs& a) {
  unsigned long long* correct = nullptr;
  if (a.correct != nullptr) {
    correct = scratch_of<unsigned long long>(1);
    check(cudaMemsetAsync(correct, 0, sizeof *correct, stream()), "cross_entropy");
  }
  const double smoothing = static_cast<double>(a.label_smoothing);
  const Loss loss{.logits = a.logits,
                  .labels = a.labels,
                  .other_labels = a.other_labels,
                  .label_weight = a.label_weight,
                  .loss = a.loss,
                  .dlogits = a.dlogits,
                  .correct = correct,
                  .rows = a.rows,
                  .classes = static_cast<int>(a.classes),
                  .smooth = static_cast<float>(smoothing / static_cast<double>(a.classes)),
                  .sharp = static_cast<float>(1 - smoothing),
                  .gradient_scale = a.gradient_scale};
  const bool by_warp = a.classes <= 256;
  const LaunchShape shape{.blocks = blocks_for(a.rows, by_warp ? kThreads / kWarp : 1),
                          .threads = kThreads,
                          .shared_bytes = sizeof(LossShared)};
  launch("cross_entropy", by_warp ? cross_entropy_rows<kWarp> : cross_entropy_rows<kThreads>, shape, loss);
  if (a.correct != nullptr) *a.correct = static_cast<int64_t>(read_back(correct, "cross_entropy"));
}

}  // namespace

void add_loss(Kernels& table) { table.cross_entropy = {cross_entropy, "cuda"}; }

}  // namespace luq::kernels::cuda
