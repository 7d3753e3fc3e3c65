#include "kernels/cuda/nvcc/cudnn_conv.h"

#include <array>
#include <string>
#include <vector>

#include "kernels/cuda/nvcc/loaded_libraries.h"
#include "kernels/cuda/runtime.h"

namespace luq::kernels::cuda {
namespace {

// The most that an engine may ask for: enough for copies of the operands in another layout, without which some of
// float32 are hundreds of times slower.
int64_t most_workspace(const ConvShape& s) { return (int64_t{256} << 20) + 8 * (s.x_size() + s.w_size() + s.y_size()); }

constexpr int64_t kX = 'x', kW = 'w', kY = 'y';  // names of the operands

void destroy(void* descriptor) { cudnn_library().cudnnBackendDestroyDescriptor(descriptor); }

void* create(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t descriptor = nullptr;
  check_cudnn(cudnn_library().cudnnBackendCreateDescriptor(type, &descriptor), "cudnnBackendCreateDescriptor");
  return descriptor;
}

// CUDNN_STATUS_NOT_SUPPORTED_... are 3000 to 3999.
bool is_unsupported(cudnnStatus_t status) { return status / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000; }

CudnnDescriptor tensor(int64_t name, const TensorLayout& layout, bool bfloat16) {
  CudnnDescriptor t(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, name);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, bfloat16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, layout.extents.data(), 4);
  t.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, layout.strides.data(), 4);
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, kLibraryAlignment);
  t.finalize();
  return t;
}

CudnnDescriptor convolution(const ConvLayout& layout) {
  CudnnDescriptor c(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  c.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  c.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION);
  c.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, int64_t{2});
  c.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, layout.pads.data(), 2);
  c.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, layout.pads.data(), 2);
  c.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, layout.strides.data(), 2);
  c.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, layout.dilations.data(), 2);
  c.finalize();
  return c;
}

// The names that cuDNN has for a pass and for its operands.
struct PassNames {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t x, w, y, convolution, alpha, beta;
};

PassNames names_of(ConvPass pass) {
  switch (pass) {
    case ConvPass::forward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case ConvPass::backward_data:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
}

bool may_run(const CudnnDescriptor& engine, bool bfloat16) {
  std::array<cudnnBackendNumericalNote_t, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> notes{};
  int64_t count = 0;
  check_cudnn(cudnn_library().cudnnBackendGetAttribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                       CUDNN_TYPE_NUMERICAL_NOTE, static_cast<int64_t>(notes.size()),
                                                       &count, notes.data()),
              "cudnnBackendGetAttribute");
  for (int64_t i = 0; i < count; ++i) {
    switch (notes[static_cast<size_t>(i)]) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
        return false;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:  // of float32: TF32
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
        if (!bfloat16) return false;
        break;
      default:
        break;
    }
  }
  return true;
}

// The engines that the heuristics propose, the best first.
std::vector<CudnnDescriptor> proposals(const CudnnTarget& target, const CudnnDescriptor& graph,
                                       cudnnBackendHeurMode_t mode) {
  CudnnDescriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
  if (target.device != nullptr) {
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, target.device);
  }
  if (!heuristics.finalize()) return {};
  int64_t count = 0;
  check_cudnn(cudnn_library().cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr),
              "cudnnBackendGetAttribute");
  std::vector<CudnnDescriptor> configurations;
  std::vector<cudnnBackendDescriptor_t> pointers;
  for (int64_t i = 0; i < count; ++i) {
    configurations.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    pointers.push_back(configurations.back().get());
  }
  int64_t found = 0;
  check_cudnn(cudnn_library().cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, count, &found, pointers.data()),
              "cudnnBackendGetAttribute");
  configurations.erase(configurations.begin() + found, configurations.end());
  return configurations;
}

std::optional<CudnnPlan> plan_of(const CudnnTarget& target, const CudnnDescriptor& configuration,
                                 const CudnnProblem& problem) {
  CudnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t pointer = engine.get();
  int64_t count = 0;
  check_cudnn(cudnn_library().cudnnBackendGetAttribute(configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &pointer),
              "cudnnBackendGetAttribute");
  if (!may_run(engine, problem.bfloat16)) return std::nullopt;
  CudnnDescriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (target.device != nullptr) {
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, target.device);
  } else {
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, target.handle);
  }
  if (!plan.finalize()) return std::nullopt;
  int64_t bytes = 0;
  check_cudnn(cudnn_library().cudnnBackendGetAttribute(plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                       CUDNN_TYPE_INT64, 1, &count, &bytes),
              "cudnnBackendGetAttribute");
  if (bytes > most_workspace(problem.shape)) return std::nullopt;
  return CudnnPlan{std::move(plan), bytes};
}

}  // namespace

void check_cudnn(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> text{};
  cudnn_library().cudnnGetLastErrorString(text.data(), text.size());
  fail_call("cudnn", call, std::string(cudnn_library().cudnnGetErrorString(status)) + ": " + text.data());
}

CudnnDescriptor::CudnnDescriptor(cudnnBackendDescriptorType_t type) : descriptor_(create(type), destroy) {}

void CudnnDescriptor::set(cudnnBackendAttributeName_t name, const CudnnDescriptor& other) {
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, other.get());
}

void CudnnDescriptor::set_bytes(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const void* values,
                                int64_t count) {
  check_cudnn(cudnn_library().cudnnBackendSetAttribute(get(), name, type, count, values), "cudnnBackendSetAttribute");
}

bool CudnnDescriptor::finalize() {
  const cudnnStatus_t status = cudnn_library().cudnnBackendFinalize(get());
  if (is_unsupported(status)) return false;
  check_cudnn(status, "cudnnBackendFinalize");
  return true;
}

std::optional<CudnnPlan> plan_convolution(const CudnnTarget& target, const CudnnProblem& problem) {
  const ConvLayout layout = conv_layout(problem.shape);
  const PassNames names = names_of(problem.pass);
  const auto operand = [&problem](ConvPass written_by) {
    return problem.bfloat16 && !(problem.float_result && problem.pass == written_by);
  };
  const CudnnDescriptor x = tensor(kX, layout.x, operand(ConvPass::backward_data));
  const CudnnDescriptor w = tensor(kW, layout.w, operand(ConvPass::backward_weight));
  const CudnnDescriptor y = tensor(kY, layout.y, operand(ConvPass::forward));
  const CudnnDescriptor conv = convolution(layout);
  CudnnDescriptor operation(names.operation);
  operation.set(names.x, x);
  operation.set(names.w, w);
  operation.set(names.y, y);
  operation.set(names.convolution, conv);
  operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1.0f);
  operation.set(names.beta, CUDNN_TYPE_FLOAT, 0.0f);
  CudnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (!operation.finalize()) return std::nullopt;
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  if (target.handle != nullptr) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, target.handle);
  if (!graph.finalize()) return std::nullopt;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_B, CUDNN_HEUR_MODE_FALLBACK}) {
    for (const CudnnDescriptor& configuration : proposals(target, graph, mode)) {
      if (std::optional<CudnnPlan> plan = plan_of(target, configuration, problem)) return plan;
    }
  }
  return std::nullopt;
}

void run_plan(cudnnHandle_t handle, const CudnnPlan& plan, const void* x, const void* w, const void* y,
              void* workspace) {
  const std::array<const void*, 3> pointers{x, w, y};
  const std::array<int64_t, 3> names{kX, kW, kY};
  CudnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, names.data(), 3);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.data(), 3);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
  check_cudnn(cudnn_library().cudnnBackendFinalize(pack.get()), "cudnnBackendFinalize");
  check_cudnn(cudnn_library().cudnnBackendExecute(handle, plan.plan.get(), pack.get()), "cudnnBackendExecute");
}

}  // namespace luq::kernels::cuda
