#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "kernels/cuda/nvcc/loaded_libraries.h"
#include "kernels/cuda/runtime.h"
#include "luq/core/bfloat16.h"
#include "luq/core/error.h"
#include "luq/core/tensor.h"
#include "tools/luqbench/peers.h"

namespace luq::bench {
namespace {

using kernels::cuda::cublaslt_library;
using kernels::cuda::CublasLtFunctions;
using kernels::cuda::stream;

constexpr size_t kWorkspaceBytes = size_t{64} << 20;
constexpr int kProposals = 16, kRuns = 5;

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail("[luqbench] {}: {}", call, cublaslt_library().cublasLtGetStatusString(status));
}

template <typename T, auto destroy>
struct Destroy {
  void operator()(std::remove_pointer_t<T>* handle) const { (cublaslt_library().*destroy)(handle); }
};
template <typename T, auto destroy>
using Handle = std::unique_ptr<std::remove_pointer_t<T>, Destroy<T, destroy>>;
using Description = Handle<cublasLtMatmulDesc_t, &CublasLtFunctions::cublasLtMatmulDescDestroy>;
using Layout = Handle<cublasLtMatrixLayout_t, &CublasLtFunctions::cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, &CublasLtFunctions::cublasLtMatmulPreferenceDestroy>;

Layout layout(cudaDataType_t type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublaslt_library().cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows),
                                                      static_cast<uint64_t>(columns), rows),
        "cublasLtMatrixLayoutCreate");
  return Layout(made);
}

// D = A^T B, columns of `terms` elements each, as every int8 kernel of cuBLASLt wants it.
struct Product {
  cublasLtHandle_t library = nullptr;
  Description description;
  Layout a, b, d;
  Tensor a_values, b_values, d_values, workspace;
  cublasLtMatmulAlgo_t algorithm{};
  bool integers = false;

  cublasStatus_t run() const {
    const int32_t one = 1, zero = 0;
    const float one_float = 1, zero_float = 0;
    const void* alpha = integers ? static_cast<const void*>(&one) : &one_float;
    const void* beta = integers ? static_cast<const void*>(&zero) : &zero_float;
    auto* result = const_cast<void*>(d_values.raw());
    return cublaslt_library().cublasLtMatmul(library, description.get(), alpha, a_values.raw(), a.get(), b_values.raw(),
                                             b.get(), beta, result, d.get(), result, d.get(), &algorithm,
                                             const_cast<void*>(workspace.raw()), kWorkspaceBytes, stream());
  }
};

double seconds_of(const Product& product) {
  cudaEvent_t begin = nullptr, end = nullptr;
  kernels::cuda::check(cudaEventCreate(&begin), "cudaEventCreate");
  kernels::cuda::check(cudaEventCreate(&end), "cudaEventCreate");
  float milliseconds = std::numeric_limits<float>::infinity();
  if (product.run() == CUBLAS_STATUS_SUCCESS) {
    kernels::cuda::check(cudaEventRecord(begin, stream()), "cudaEventRecord");
    for (int i = 0; i < kRuns; ++i) check(product.run(), "cublasLtMatmul");
    kernels::cuda::check(cudaEventRecord(end, stream()), "cudaEventRecord");
    kernels::cuda::check(cudaEventSynchronize(end), "cudaEventSynchronize");
    kernels::cuda::check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return static_cast<double>(milliseconds) * 1e-3 / kRuns;
}

// Elements of A are 1, those of B are i % 3 in column i: column i of the result is terms * (i % 3).
template <typename T>
Tensor columns_of(int64_t terms, int64_t columns, int period, DType dtype) {
  Tensor values = Tensor::empty({columns, terms * static_cast<int64_t>(sizeof(T)) / size_of(dtype)}, dtype);
  auto* to = static_cast<T*>(values.raw());
  for (int64_t column = 0; column < columns; ++column) {
    T value;
    if constexpr (std::is_same_v<T, BFloat16>) {
      value = to_bfloat16(period == 0 ? 1.0f : static_cast<float>(column % period));
    } else {
      value = static_cast<T>(period == 0 ? 1 : column % period);
    }
    std::fill_n(to + column * terms, terms, value);
  }
  return values;
}

template <typename T, typename Result>
void check_result(const Product& product, int64_t rows, int64_t columns, int64_t terms) {
  check(product.run(), "cublasLtMatmul");
  const Tensor here = product.d_values.to({});
  const auto* result = static_cast<const Result*>(here.raw());
  for (int64_t column = 0; column < columns; column += std::max<int64_t>(columns / 7, 1)) {
    for (int64_t row = 0; row < rows; row += std::max<int64_t>(rows / 7, 1)) {
      double got = 0;
      if constexpr (std::is_same_v<Result, BFloat16>) {
        got = static_cast<double>(to_float(result[column * rows + row]));
      } else {
        got = static_cast<double>(result[column * rows + row]);
      }
      const double expected = static_cast<double>(terms * (column % 3));
      if (std::fabs(got - expected) > (std::is_same_v<Result, BFloat16> ? expected / 128 : 0)) {
        fail("[luqbench] cublasLtMatmul of {}x{}x{}: got {}, expected {}: not timed", rows, columns, terms, got,
             expected);
      }
    }
  }
}

template <typename T, typename Result>
Peer matmul(int64_t rows, int64_t columns, int64_t terms, cublasComputeType_t compute, cudaDataType_t scale_type,
            cudaDataType_t type, cudaDataType_t result_type) {
  static const cublasLtHandle_t library = [] {
    cublasLtHandle_t made = nullptr;
    check(cublaslt_library().cublasLtCreate(&made), "cublasLtCreate");
    return made;
  }();
  const Device device{DeviceType::cuda, 0};
  auto product = std::make_shared<Product>();
  product->library = library;
  product->integers = std::is_integral_v<Result>;
  cublasLtMatmulDesc_t description = nullptr;
  check(cublaslt_library().cublasLtMatmulDescCreate(&description, compute, scale_type), "cublasLtMatmulDescCreate");
  product->description.reset(description);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(cublaslt_library().cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                          sizeof transposed),
        "cublasLtMatmulDescSetAttribute");
  product->a = layout(type, terms, rows);
  product->b = layout(type, terms, columns);
  product->d = layout(result_type, rows, columns);
  const DType dtype = std::is_same_v<T, BFloat16> ? DType::bfloat16 : DType::uint8;
  product->a_values = columns_of<T>(terms, rows, 0, dtype).to(device);
  product->b_values = columns_of<T>(terms, columns, 3, dtype).to(device);
  product->d_values =
      Tensor::zeros({columns, rows}, std::is_same_v<Result, BFloat16> ? DType::bfloat16 : DType::int32, device);
  product->workspace = Tensor::empty({static_cast<int64_t>(kWorkspaceBytes)}, DType::uint8, device);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublaslt_library().cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const Preference owner(preference);
  check(cublaslt_library().cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                &kWorkspaceBytes, sizeof kWorkspaceBytes),
        "cublasLtMatmulPreferenceSetAttribute");
  std::vector<cublasLtMatmulHeuristicResult_t> proposals(kProposals);
  int found = 0;
  const cublasStatus_t status = cublaslt_library().cublasLtMatmulAlgoGetHeuristic(
      library, description, product->a.get(), product->b.get(), product->d.get(), product->d.get(), preference,
      kProposals, proposals.data(), &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE || found == 0) return nullptr;
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  double best = std::numeric_limits<double>::infinity();
  cublasLtMatmulAlgo_t fastest{};
  for (int i = 0; i < found; ++i) {
    product->algorithm = proposals[static_cast<size_t>(i)].algo;
    if (const double seconds = seconds_of(*product); seconds < best) {
      best = seconds;
      fastest = product->algorithm;
    }
  }
  if (!std::isfinite(best)) return nullptr;
  product->algorithm = fastest;
  check_result<T, Result>(*product, rows, columns, terms);
  return [product] { check(product->run(), "cublasLtMatmul"); };
}

}  // namespace

Peer cublaslt_int8_matmul(int64_t rows, int64_t columns, int64_t terms) {
  // The int8 kernels take sizes that are multiples of 4.
  const auto up = [](int64_t size) { return (size + 3) / 4 * 4; };
  return matmul<int8_t, int32_t>(up(rows), up(columns), up(terms), CUBLAS_COMPUTE_32I, CUDA_R_32I, CUDA_R_8I,
                                 CUDA_R_32I);
}

Peer cublaslt_bfloat16_matmul(int64_t rows, int64_t columns, int64_t terms) {
  return matmul<BFloat16, BFloat16>(rows, columns, terms, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF);
}

}  // namespace luq::bench
