// The vectors of every instruction set share this.
#pragma once

#include "luq/core/bfloat16.h"

namespace luq::kernels {
namespace {

// A number that a generic lambda takes at compile time.
template <int kValue>
struct Number {
  static constexpr int value = kValue;
};

template <int kCount, int kFirst = 0, typename Run>
[[gnu::always_inline]] inline void for_numbers(Run run) {
  if constexpr (kFirst < kCount) {
    run(Number<kFirst>{});
    for_numbers<kCount, kFirst + 1>(run);
  }
}

// Calls run with a value of the type that floats are stored in.
template <typename Run>
inline void with_type(bool bfloat16, Run run) {
  if (bfloat16) {
    run(BFloat16{});
  } else {
    run(0.0f);
  }
}

inline float as_float(float x) { return x; }
inline float as_float(BFloat16 x) { return to_float(x); }
inline void assign(float& to, float x) { to = x; }
inline void assign(BFloat16& to, float x) { to = to_bfloat16(x); }

}  // namespace
}  // namespace luq::kernels
