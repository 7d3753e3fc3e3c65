// Counter-based random bits: Philox 4x32 with 7 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A number depends on its key and its index alone, so results are the same for any number of threads,
// any instruction set and any device.
#pragma once

#include <cstdint>
#include <string_view>

#include "luq/core/host_device.h"

namespace luq {

// One stream of random bits. k0, k1: Philox key, from the run's seed and the stream's name. c2, c3: upper half of the
// 128-bit counter: the global step, and micro_batch * 65536 + sample. The lower half is the block number.
struct RngKey {
  uint32_t k0 = 0, k1 = 0, c2 = 0, c3 = 0;
};

struct PhiloxBlock {
  uint32_t word[4];
};

// The block with number `block` of the stream.
LUQ_HOST_DEVICE inline PhiloxBlock philox(const RngKey& key, uint64_t block) {
  uint32_t c[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), key.c2, key.c3};
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 7; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[0] = n0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = n2;
    c[3] = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c[0], c[1], c[2], c[3]}};
}

// 16 random bits for the logical element `index`: half-word index % 8 of block index / 8, low half of a word first.
LUQ_HOST_DEVICE inline uint32_t random16(const PhiloxBlock& block, int index_in_block) {
  return (block.word[index_in_block >> 1] >> ((index_in_block & 1) * 16)) & 0xffffu;
}

// 64 bits from a 64-bit value (the finaliser of splitmix64); a bijection.
LUQ_HOST_DEVICE inline uint64_t mix64(uint64_t z) {
  z += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// The key of the stream `name` (a layer's name and the role, for example "layer1.0.conv1:gradient") at a step.
// micro_batch and sample are below 65536; step is taken modulo 2^32.
inline RngKey make_rng_key(uint64_t seed, std::string_view name, uint64_t step = 0, uint32_t micro_batch = 0,
                           uint32_t sample = 0) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char character : name) hash = (hash ^ static_cast<uint8_t>(character)) * 0x100000001b3ull;
  const uint64_t key = mix64(mix64(seed) ^ hash);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(step),
          (micro_batch << 16) | (sample & 0xffffu)};
}

// A sequential reader over one stream, for the host: augmentation, initialisation, shuffling.
class RngStream {
 public:
  explicit RngStream(const RngKey& key) : key_(key) {}
  uint32_t bits() {
    if (position_ % 4 == 0) block_ = philox(key_, position_ / 4);
    return block_.word[position_++ % 4];
  }
  // Uniform in [0, 1), 24 bits.
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }
  // Uniform in 0..bound-1 for 0 < bound < 2^32, bias below 2^-32.
  uint32_t below(uint32_t bound) {
    const uint64_t high = bits();
    const uint64_t wide = (high << 32) | bits();
    return static_cast<uint32_t>((static_cast<unsigned __int128>(wide) * bound) >> 64);
  }

 private:
  RngKey key_;
  PhiloxBlock block_{};
  uint64_t position_ = 0;
};

}  // namespace luq
