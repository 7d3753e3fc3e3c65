// Reporting ops to the plan that --dry-run prints.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// Appends an op that multiplies no matrices, on this type, to ctx.plan when it is set. layer: may be empty. The
// kernels' names are Kernel::implementation, "-" where the op runs none.
inline void record_plan(Ctx& ctx, const char* op, const std::string& layer, const Shape& input, const Shape& output,
                        const char* forward_kernel, const char* backward_data_kernel, int64_t parameters = 0,
                        DType dtype = DType::float32) {
  if (ctx.plan == nullptr) return;
  ctx.plan->push_back({.name = layer,
                       .op = op,
                       .input = input,
                       .output = output,
                       .parameters = parameters,
                       .macs = 0,
                       .forward = to_string(dtype),
                       .backward_data = to_string(dtype),
                       .backward_weight = "-",
                       .forward_kernel = forward_kernel,
                       .backward_data_kernel = backward_data_kernel,
                       .backward_weight_kernel = "-"});
}

}  // namespace luq
