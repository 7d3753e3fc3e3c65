// Matrix products by cublasLt.
#pragma once

#include <cublasLt.h>

#include <optional>

#include "kernels/cuda/library_shapes.h"

namespace luq::kernels::cuda {

constexpr int64_t kMatmulWorkspace = int64_t{32} << 20;  // what cublasLt wants on Hopper

// The type of the operands, and of the result if it is another.
enum class MatmulTypes { float32, bfloat16, bfloat16_to_float32, int8_to_int32 };

struct MatmulPlan {
  MatmulShape shape;
  MatmulTypes types;
  cublasLtMatmulAlgo_t algorithm;
};

// The first algorithm of the heuristics whose sums have one order. Nothing where there is none.
std::optional<MatmulPlan> plan_matmul(cublasLtHandle_t handle, const MatmulShape& shape, MatmulTypes types);

// d = op(a) op(b); the workspace has kMatmulWorkspace bytes.
void run_plan(cublasLtHandle_t handle, const MatmulPlan& plan, const void* a, const void* b, void* d, void* workspace);

void check_cublaslt(cublasStatus_t status, const char* call);

}  // namespace luq::kernels::cuda
