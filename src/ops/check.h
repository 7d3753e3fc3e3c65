// Checks that the ops share.
#pragma once

#include <string>

#include "luq/autograd/tape.h"
#include "luq/core/error.h"

namespace luq {

// Throws `[op] <layer>: expected <what> of dtype float32 or bfloat16, got ...`; layer may be empty.
inline void check_float(const char* op, const std::string& layer, const char* what, const Tensor& tensor) {
  if (tensor.defined() && is_float(tensor.dtype())) return;
  fail("[{}] {}{}expected {} of dtype float32 or bfloat16, got {}", op, layer, layer.empty() ? "" : ": ", what,
       tensor.defined() ? to_string(tensor.dtype()) : "an undefined tensor");
}

}  // namespace luq
