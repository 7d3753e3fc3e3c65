// Noticing tensors of denormal values, below 2^-126 in magnitude, with which processors compute up to a hundred times
// slower than with others.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "luq/core/tensor.h"

namespace luq {

// Looks at some values of each tensor that it is shown, the same ones every time, changes nothing, and keeps the name
// of the first tensor that is full of denormal values.
class DenormalWatch {
 public:
  static constexpr int64_t kMostValues = 512;  // that are looked at in a tensor, in runs of 32, evenly spread

  // Full: of the values looked at that are not 0, at least a quarter and at least 16 are denormal. Float32 or bfloat16
  // in the host's memory; anything else is passed over. The name is kept as "kind name".
  void look(std::string_view kind, std::string_view name, const Tensor& tensor);

  bool found() const { return !what_.empty(); }
  const std::string& what() const { return what_; }

 private:
  std::string what_;
};

}  // namespace luq
