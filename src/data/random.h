// Random numbers of the loader, each kind of choice from a stream of its own.
#pragma once

#include <cmath>
#include <numbers>
#include <string_view>

#include "luq/core/rng.h"
#include "luq/data/transform.h"

namespace luq {

inline RngStream image_stream(const ImageKey& key, std::string_view name) {
  return RngStream(make_rng_key(key.seed, name, static_cast<uint64_t>(key.epoch),
                                static_cast<uint32_t>(key.index >> 16), static_cast<uint32_t>(key.index & 0xffff)));
}

inline double uniform(RngStream& random, double low, double high) {
  return low + (high - low) * static_cast<double>(random.uniform());
}

// Standard normal (Box and Muller 1958).
inline double normal(RngStream& random) {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(random.uniform())));
  return radius * std::cos(2.0 * std::numbers::pi * static_cast<double>(random.uniform()));
}

// As Python's round: ties to even.
inline int64_t round_to_even(double x) { return static_cast<int64_t>(std::nearbyint(x)); }

}  // namespace luq
