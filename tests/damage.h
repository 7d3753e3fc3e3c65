// Random damage to a small file, for readers that must survive it.
#pragma once

#include <string>

#include "luq/core/rng.h"

// Up to three bytes changed, half of them among the first `header_bytes`; a third of the files cut short; some
// extended.
inline std::string damaged(std::string bytes, uint32_t header_bytes, luq::RngStream& random) {
  const uint32_t changes = random.below(4);
  for (uint32_t i = 0; i < changes; ++i) {
    const uint32_t range = random.below(2) == 0 ? header_bytes : static_cast<uint32_t>(bytes.size());
    bytes[random.below(range)] = static_cast<char>(random.bits());
  }
  if (random.below(3) == 0) bytes.resize(random.below(static_cast<uint32_t>(bytes.size() + 1)));
  if (random.below(8) == 0) bytes += std::string(1 + random.below(40), static_cast<char>(random.bits()));
  return bytes;
}
