// Float convolutions by cublasLt where they are matrix products and by cuDNN otherwise. What a library does not
// support, or cannot in one order of sums, and operands that are not at multiples of 16 bytes, run on the plain
// kernels of conv.cu, on the same device.
//
// Beside bfloat16 the weights are rounded to it in scratch memory. A bias is added to sums of float32, and the gradient
// of the weights is one: cublasLt gives these. cuDNN may give bfloat16 alone; then a result with a bias is rounded
// twice, and the gradient of the weights once, as in PyTorch's mixed precision.
#include <fmt/format.h>
#include <luq_cuda/libraries.h>

#include <array>
#include <cstring>
#include <map>

#include "kernels/cuda/int8_matmul.h"
#include "kernels/cuda/nvcc/bias.h"
#include "kernels/cuda/nvcc/cublaslt_matmul.h"
#include "kernels/cuda/nvcc/cudnn_conv.h"
#include "kernels/cuda/nvcc/loaded_libraries.h"
#include "kernels/cuda/runtime.h"

namespace luq::kernels::cuda {
namespace {

cublasLtHandle_t cublaslt() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t created = nullptr;
    check_cublaslt(cublaslt_library().cublasLtCreate(&created), "cublasLtCreate");
    return created;
  }();
  return handle;
}

cudnnHandle_t cudnn() {
  static const cudnnHandle_t handle = [] {
    cudnnHandle_t created = nullptr;
    check_cudnn(cudnn_library().cudnnCreate(&created), "cudnnCreate");
    check_cudnn(cudnn_library().cudnnSetStream(created, stream()), "cudnnSetStream");
    return created;
  }();
  return handle;
}

Kernels plain;  // the table before add_libraries

struct Problem {
  ConvPass pass;
  ConvShape shape;
  bool bfloat16;      // operands
  bool wants_floats;  // the result in float32 all the same, if it can be had
  friend auto operator<=>(const Problem&, const Problem&) = default;
};

struct Plan {
  std::optional<MatmulPlan> matmul;
  std::optional<CudnnPlan> conv;
  bool gives_bfloat16 = false;
  explicit operator bool() const { return matmul || conv; }
  int64_t workspace_bytes() const { return matmul ? kMatmulWorkspace : conv->workspace_bytes; }
};

Plan find_plan(const Problem& p, bool float_result) {
  Plan plan;
  plan.gives_bfloat16 = p.bfloat16 && !float_result;
  if (is_matmul(p.shape)) {
    const MatmulTypes types = !p.bfloat16    ? MatmulTypes::float32
                              : float_result ? MatmulTypes::bfloat16_to_float32
                                             : MatmulTypes::bfloat16;
    plan.matmul = plan_matmul(cublaslt(), matmul_shape(p.pass, p.shape), types);
  } else {
    plan.conv = plan_convolution({.handle = cudnn()}, {p.pass, p.shape, p.bfloat16, float_result});
  }
  return plan;
}

// Found once for each problem: heuristics take milliseconds, and engines may be compiled.
const Plan& plan_for(const Problem& p) {
  static std::map<Problem, Plan> plans;
  const auto found = plans.find(p);
  if (found != plans.end()) return found->second;
  Plan plan = find_plan(p, p.wants_floats);
  if (!plan && p.wants_floats) plan = find_plan(p, false);
  return plans.emplace(p, std::move(plan)).first->second;
}

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % kLibraryAlignment != 0) return false;
  }
  return true;
}

bool is_empty(const ConvShape& s) { return s.x_size() == 0 || s.y_size() == 0 || s.w_size() == 0; }

int64_t rounded(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The scratch memory of a call: the library's workspace, weights of bfloat16, results that are not the caller's.
struct Pieces {
  char* workspace;
  BFloat16* weights;
  char* results;
};

Pieces pieces(int64_t workspace_bytes, int64_t weights, int64_t result_bytes) {
  const int64_t first = rounded(workspace_bytes), second = rounded(weights * 2);
  auto* memory = static_cast<char*>(scratch(first + second + result_bytes));
  return {memory, reinterpret_cast<BFloat16*>(memory + first), memory + first + second};
}

// The weights of float32, or rounded to `narrow`.
const void* weights_of(const float* w, int64_t count, bool bfloat16, BFloat16* narrow) {
  if (!bfloat16) return w;
  plain.convert.run({w, count, narrow});
  return narrow;
}

void conv_forward(const ConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const bool bfloat16 = a.x.bfloat16, wants_floats = bfloat16 && a.bias != nullptr;
  if (is_empty(s) || !aligned({a.x.data, a.w, a.y.data})) return plain.conv_forward.run(a);
  const Plan& plan = plan_for({ConvPass::forward, s, bfloat16, wants_floats});
  if (!plan) return plain.conv_forward.run(a);
  const bool has_sums = wants_floats && !plan.gives_bfloat16;
  const Pieces memory = pieces(plan.workspace_bytes(), bfloat16 ? s.w_size() : 0, has_sums ? s.y_size() * 4 : 0);
  const void* w = weights_of(a.w, s.w_size(), bfloat16, memory.weights);
  const Floats y = has_sums ? Floats(reinterpret_cast<float*>(memory.results)) : a.y;
  if (plan.matmul) {
    run_plan(cublaslt(), *plan.matmul, w, a.x.data, y.data, memory.workspace);
  } else {
    run_plan(cudnn(), *plan.conv, a.x.data, w, y.data, memory.workspace);
  }
  if (a.bias != nullptr) add_bias(y, a.bias, s.y_size(), s.o, a.y);
}

void conv_backward_data(const ConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const bool bfloat16 = a.dy.bfloat16;
  if (is_empty(s) || !aligned({a.dy.data, a.w, a.dx.data})) return plain.conv_backward_data.run(a);
  const Plan& plan = plan_for({ConvPass::backward_data, s, bfloat16, false});
  if (!plan) return plain.conv_backward_data.run(a);
  const Pieces memory = pieces(plan.workspace_bytes(), bfloat16 ? s.w_size() : 0, 0);
  const void* w = weights_of(a.w, s.w_size(), bfloat16, memory.weights);
  if (plan.matmul) {
    run_plan(cublaslt(), *plan.matmul, w, a.dy.data, a.dx.data, memory.workspace);
  } else {
    run_plan(cudnn(), *plan.conv, a.dx.data, w, a.dy.data, memory.workspace);
  }
}

void conv_backward_weight(const ConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  const bool bfloat16 = a.dy.bfloat16;
  if (is_empty(s) || !aligned({a.dy.data, a.x.data, a.dw})) return plain.conv_backward_weight.run(a);
  const Plan& plan = plan_for({ConvPass::backward_weight, s, bfloat16, bfloat16});
  if (!plan) return plain.conv_backward_weight.run(a);
  const bool narrow = plan.gives_bfloat16;
  const Pieces memory = pieces(plan.workspace_bytes(), 0, narrow ? s.w_size() * 2 : 0);
  void* dw = narrow ? memory.results : static_cast<void*>(a.dw);
  if (plan.matmul) {
    run_plan(cublaslt(), *plan.matmul, a.x.data, a.dy.data, dw, memory.workspace);
  } else {
    run_plan(cudnn(), *plan.conv, a.x.data, dw, a.dy.data, memory.workspace);
  }
  if (narrow) plain.convert.run({reinterpret_cast<const BFloat16*>(memory.results), s.w_size(), a.dw});
}

// The plan for padded operands, whose extents say all.
const std::optional<MatmulPlan>& int8_plan(const MatmulShape& shape) {
  static std::map<std::array<int64_t, 3>, std::optional<MatmulPlan>> plans;
  const std::array<int64_t, 3> extents{shape.m, shape.n, shape.k};
  const auto found = plans.find(extents);
  if (found != plans.end()) return found->second;
  return plans.emplace(extents, plan_matmul(cublaslt(), shape, MatmulTypes::int8_to_int32)).first->second;
}

bool takes_int8(const MatmulShape& shape) { return int8_plan(shape).has_value(); }

void multiply_int8(const MatmulShape& shape, const int8_t* a, const int8_t* b, int* d, void* workspace) {
  run_plan(cublaslt(), *int8_plan(shape), a, b, d, workspace);
}

}  // namespace

void add_cublaslt_int8(Kernels& table) {
  add_int8_matmuls(
      table, {.takes = takes_int8, .multiply = multiply_int8, .workspace_bytes = kMatmulWorkspace, .name = "cublaslt"});
}

void add_libraries(Kernels& table) {
  plain = table;
  table.conv_forward = {conv_forward, "cudnn"};
  table.conv_backward_data = {conv_backward_data, "cudnn"};
  table.conv_backward_weight = {conv_backward_weight, "cudnn"};
}

void open_libraries() {
  // cublasLt before cuDNN, which loads it too, and takes the one that is there.
  const std::string first = why_unusable(cublaslt_facts()), second = why_unusable(cudnn_facts());
  if (!first.empty() && !second.empty()) fail_unusable(first + "; " + second);
  cublaslt();
  cudnn();
}

std::string library_versions() {
  return fmt::format("; {}, {}", found_text(cudnn_facts()), found_text(cublaslt_facts()));
}

}  // namespace luq::kernels::cuda
