// SGD and AdamW: one pass, four weights a thread, in the order of operations of the reference and without fused
// multiply-adds, so that a weight is the same, to the bit, in every table. Bytes a weight: SGD 20 (12 without
// velocity), AdamW 28; two divisions and a square root for AdamW.
#include <cmath>

#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kWeights = 4;

struct Sgd {
  float* w;
  const float* gradient;
  float* velocity;
  float lr, momentum;
  int nesterov;  // 0 or 1
  float weight_decay;
  int first_step;  // 0 or 1
  float gradient_scale;

  __device__ void at(int64_t i, int here, bool whole) const {
    float weight[kWeights], step[kWeights], v[kWeights];
    load_some(w + i, here, whole, weight);
    load_some(gradient + i, here, whole, step);
    for (int k = 0; k < kWeights; ++k) {
      step[k] = __fadd_rn(__fmul_rn(gradient_scale, step[k]), __fmul_rn(weight_decay, weight[k]));
    }
    if (velocity != nullptr) {
      if (first_step != 0) {
        for (int k = 0; k < kWeights; ++k) v[k] = step[k];
      } else {
        load_some(velocity + i, here, whole, v);
        for (int k = 0; k < kWeights; ++k) v[k] = __fadd_rn(__fmul_rn(momentum, v[k]), step[k]);
      }
      store_some(velocity + i, here, whole, v);
      for (int k = 0; k < kWeights; ++k) {
        step[k] = nesterov != 0 ? __fadd_rn(step[k], __fmul_rn(momentum, v[k])) : v[k];
      }
    }
    for (int k = 0; k < kWeights; ++k) weight[k] = __fadd_rn(weight[k], -__fmul_rn(lr, step[k]));
    store_some(w + i, here, whole, weight);
  }
};

struct AdamW {
  float* w;
  const float* gradient;
  float *m, *v;
  float keep, step_size, root, to_m, beta2, to_v, eps, gradient_scale;

  __device__ void at(int64_t i, int here, bool whole) const {
    float weight[kWeights], g[kWeights], mean[kWeights], square[kWeights];
    load_some(w + i, here, whole, weight);
    load_some(gradient + i, here, whole, g);
    load_some(m + i, here, whole, mean);
    load_some(v + i, here, whole, square);
    for (int k = 0; k < kWeights; ++k) {
      const float scaled = __fmul_rn(gradient_scale, g[k]);
      mean[k] = __fadd_rn(mean[k], __fmul_rn(to_m, __fadd_rn(scaled, -mean[k])));
      square[k] = __fadd_rn(__fmul_rn(beta2, square[k]), __fmul_rn(__fmul_rn(to_v, scaled), scaled));
      const float step = __fmul_rn(step_size, mean[k]) / __fadd_rn(sqrtf(square[k]) / root, eps);
      weight[k] = __fadd_rn(__fmul_rn(keep, weight[k]), -step);
    }
    store_some(m + i, here, whole, mean);
    store_some(v + i, here, whole, square);
    store_some(w + i, here, whole, weight);
  }
};

template <typename Op>
void run(const char* name, const Op& op, int64_t count, bool aligned) {
  const LaunchShape shape{.blocks = blocks_for(count, int64_t{kThreads} * kWeights), .threads = kThreads};
  launch(name, aligned ? each_unit<kWeights, true, Op> : each_unit<kWeights, false, Op>, shape, op, count);
}

void sgd(const SgdArgs& a) {
  const Sgd op{.w = a.w,
               .gradient = a.gradient,
               .velocity = a.velocity,
               .lr = a.lr,
               .momentum = a.momentum,
               .nesterov = a.nesterov ? 1 : 0,
               .weight_decay = a.weight_decay,
               .first_step = a.first_step ? 1 : 0,
               .gradient_scale = a.gradient_scale};
  run("sgd", op, a.count, are_aligned(a.w, a.gradient, a.velocity));
}

// The factors of a step are computed in double and rounded once, as ref does.
void adamw(const AdamWArgs& a) {
  const double b1 = static_cast<double>(a.beta1), b2 = static_cast<double>(a.beta2), rate = static_cast<double>(a.lr);
  const double step = static_cast<double>(a.step);
  const AdamW op{.w = a.w,
                 .gradient = a.gradient,
                 .m = a.m,
                 .v = a.v,
                 .keep = static_cast<float>(1 - rate * static_cast<double>(a.weight_decay)),
                 .step_size = static_cast<float>(rate / (1 - std::pow(b1, step))),
                 .root = static_cast<float>(std::sqrt(1 - std::pow(b2, step))),
                 .to_m = static_cast<float>(1 - b1),
                 .beta2 = a.beta2,
                 .to_v = static_cast<float>(1 - b2),
                 .eps = a.eps,
                 .gradient_scale = a.gradient_scale};
  run("adamw", op, a.count, are_aligned(a.w, a.gradient, a.m, a.v));
}

}  // namespace

void add_optimizer(Kernels& table) {
  table.sgd = {sgd, "cuda"};
  table.adamw = {adamw, "cuda"};
}

}  // namespace luq::kernels::cuda
