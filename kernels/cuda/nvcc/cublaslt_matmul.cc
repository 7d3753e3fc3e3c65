#include "kernels/cuda/nvcc/cublaslt_matmul.h"

#include "kernels/cuda/nvcc/cudnn_conv.h"
#include "kernels/cuda/nvcc/loaded_libraries.h"
#include "kernels/cuda/runtime.h"

namespace luq::kernels::cuda {
namespace {

// Descriptors that live for a call: making them takes no device.
class Descriptors {
 public:
  Descriptors(const MatmulShape& s, MatmulTypes types) {
    const bool integers = types == MatmulTypes::int8_to_int32;
    const cudaDataType_t in = integers ? CUDA_R_8I : types == MatmulTypes::float32 ? CUDA_R_32F : CUDA_R_16BF;
    const cudaDataType_t scale = integers ? CUDA_R_32I : CUDA_R_32F;
    const cudaDataType_t out = types == MatmulTypes::bfloat16 ? CUDA_R_16BF : scale;
    // Float32 proper: TF32 is a compute type of its own.
    const cublasComputeType_t compute = integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
    check_cublaslt(cublaslt_library().cublasLtMatmulDescCreate(&operation, compute, scale), "cublasLtMatmulDescCreate");
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_a);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_b);
    make(&a, in, s.rows_a(), s.columns_a(), s.lda);
    make(&b, in, s.rows_b(), s.columns_b(), s.ldb);
    make(&d, out, s.m, s.n, s.ldd);
  }
  ~Descriptors() {
    cublaslt_library().cublasLtMatrixLayoutDestroy(d);
    cublaslt_library().cublasLtMatrixLayoutDestroy(b);
    cublaslt_library().cublasLtMatrixLayoutDestroy(a);
    cublaslt_library().cublasLtMatmulDescDestroy(operation);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;

 private:
  void set_transpose(cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_cublaslt(cublaslt_library().cublasLtMatmulDescSetAttribute(operation, which, &op, sizeof op),
                   "cublasLtMatmulDescSetAttribute");
  }
  static void make(cublasLtMatrixLayout_t* layout, cudaDataType_t type, int64_t rows, int64_t columns, int64_t ld) {
    check_cublaslt(cublaslt_library().cublasLtMatrixLayoutCreate(layout, type, static_cast<uint64_t>(rows),
                                                                 static_cast<uint64_t>(columns), ld),
                   "cublasLtMatrixLayoutCreate");
  }
};

class Preference {
 public:
  Preference() {
    check_cublaslt(cublaslt_library().cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  }
  ~Preference() { cublaslt_library().cublasLtMatmulPreferenceDestroy(preference); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t which, T value) {
    check_cublaslt(cublaslt_library().cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value),
                   "cublasLtMatmulPreferenceSetAttribute");
  }

  cublasLtMatmulPreference_t preference = nullptr;
};

}  // namespace

void check_cublaslt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail_call("cublaslt", call, cublaslt_library().cublasLtGetStatusString(status));
}

std::optional<MatmulPlan> plan_matmul(cublasLtHandle_t handle, const MatmulShape& shape, MatmulTypes types) {
  const Descriptors descriptors(shape, types);
  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kMatmulWorkspace));
  // Parts of a sum are added in float32 or int32, in a step of their own.
  preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    preference.set(which, static_cast<uint32_t>(kLibraryAlignment));
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublaslt_library().cublasLtMatmulAlgoGetHeuristic(
      handle, descriptors.operation, descriptors.a, descriptors.b, descriptors.d, descriptors.d, preference.preference,
      1, &result, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return std::nullopt;
  check_cublaslt(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0 || result.state != CUBLAS_STATUS_SUCCESS) return std::nullopt;
  return MatmulPlan{shape, types, result.algo};
}

void run_plan(cublasLtHandle_t handle, const MatmulPlan& plan, const void* a, const void* b, void* d, void* workspace) {
  const Descriptors descriptors(plan.shape, plan.types);
  const float one_float = 1, zero_float = 0;
  const int32_t one_integer = 1, zero_integer = 0;
  const bool integers = plan.types == MatmulTypes::int8_to_int32;
  const void* one = integers ? static_cast<const void*>(&one_integer) : &one_float;
  const void* zero = integers ? static_cast<const void*>(&zero_integer) : &zero_float;
  check_cublaslt(cublaslt_library().cublasLtMatmul(
                     handle, descriptors.operation, one, a, descriptors.a, b, descriptors.b, zero, d, descriptors.d, d,
                     descriptors.d, &plan.algorithm, workspace, static_cast<size_t>(kMatmulWorkspace), stream()),
                 "cublasLtMatmul");
}

}  // namespace luq::kernels::cuda
