// Statistics, encoders and decoder in vectors of any width: one pass each, and the same bits as ref.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// Packed codes are flat wherever rows have an even number of columns, and then whole tensors are one row; tensors with
// odd rows take the scalar functions of numerics.h. Threads get ranges that begin at multiples of kRange elements.
//
// Random bits: a batch of kLanes Philox blocks is computed at once, one block a lane. Lane 4 q + i computes block
// (kLanes / 4) i + q, so that a 4x4 transposition of words inside 128-bit lanes leaves vector i with kLanes / 4
// consecutive blocks: 2 kLanes consecutive 16-bit numbers in memory order. LUQ works on elements of even and of odd
// index apart, as a word of random bits holds the numbers of two neighbours and a byte of codes holds both their codes.
// Cost per element: about 0.7 instructions for the generator, 0.8 for the rest, on 512-bit vectors; statistics and
// integer codes are bound by reading x. A batch writes a whole cache line at once and asks for memory ahead of what it
// reads. Codes that are too many to stay in a cache are written past them.

#include "kernels/cpu/stats_impl.h"

constexpr int64_t kRange = 8192;
constexpr int64_t kStreamBytes = 8 << 20;  // of codes, beyond which they are written past the caches
// Bytes ahead of those being read that memory is asked for: from far to the second cache, from near to the first.
constexpr int64_t kFar = 12288, kNear = 4096;

// For `count` elements from x.
template <int64_t count, typename T>
[[gnu::always_inline]] inline void ask_ahead(const T* x) {
  const char* at = reinterpret_cast<const char*>(x);
#pragma GCC unroll 8
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) {
    Simd::prefetch_far(at + kFar + i);
    Simd::prefetch(at + kNear + i);
  }
}

template <typename T>
struct StoredValues {
  using Type = T;
  const T* x;
  [[gnu::always_inline]] Pair<T> operator()(int64_t i, int64_t count) const {
    ask_ahead<kPair>(x + i);
    return Pair<T>::load(x + i, count);
  }
};

void stats(const StatsArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    const auto* x = a.x.as<decltype(type)>();
    *a.stats = chunk_statistics(a.count, [x](int64_t begin) { return StoredValues<decltype(type)>{x + begin}; });
  });
}

// ---- Random bits --------------------------------------------------------------------------------------------------

constexpr int64_t kBatch = 8 * Simd::kLanes;  // elements that one batch of blocks serves

struct RandomBatch {
  typename Simd::Int words[4];  // words[i]: 16-bit numbers 2 kLanes i .. 2 kLanes (i + 1) - 1, in memory order
};

// The generator for one key. Of the counter only the first word varies: half of the first two rounds is the same for
// every block, and computed once. The words of the key lie in memory as vectors.
class RandomBatches {
 public:
  explicit RandomBatches(const RngKey& key) {
    for (uint32_t round = 0; round < kRounds; ++round) {
      k0_[round] = Simd::set_int(key.k0 + round * 0x9E3779B9u);
      k1_[round] = Simd::set_int(key.k1 + round * 0xBB67AE85u);
    }
    const uint64_t first = uint64_t{kFactor1} * key.c2;
    const uint64_t second = uint64_t{kFactor0} * (static_cast<uint32_t>(first >> 32) ^ key.k0);
    k1_[0] = Simd::xor_int(k1_[0], Simd::set_int(key.c3));
    k0_[1] = Simd::xor_int(k0_[1], Simd::set_int(static_cast<uint32_t>(first)));
    k1_[1] = Simd::xor_int(k1_[1], Simd::set_int(static_cast<uint32_t>(second >> 32)));
    c3_ = Simd::set_int(static_cast<uint32_t>(second));
  }

  // Blocks under way, after rounds 0 and 1.
  struct State {
    typename Simd::Int c0, c1, c2, c3;
  };
  // Those of the numbers of elements index, a multiple of 8, onwards; index / 8 + kLanes must not pass 2^32.
  [[gnu::always_inline]] State begin(int64_t index) const {
    Int high0, low0, high1, low1;
    const Int counter = Simd::set_int(static_cast<uint32_t>(index / 8));
    Simd::multiply(Simd::add_int(counter, Simd::block_order()), kFactor0, high0, low0);
    Simd::multiply(Simd::xor_int(high0, k1_[0]), kFactor1, high1, low1);
    return {Simd::xor_int(high1, k0_[1]), low1, Simd::xor_int(low0, k1_[1]), c3_};
  }
  static constexpr int kRounds = 7;
  template <int kRound>
  [[gnu::always_inline]] void round(State& s) const {
    Int high0, low0, high1, low1;
    Simd::multiply(s.c0, kFactor0, high0, low0);
    Simd::multiply(s.c2, kFactor1, high1, low1);
    s = {Simd::xor_int(high1, s.c1, k0_[kRound]), low1, Simd::xor_int(high0, s.c3, k1_[kRound]), low0};
  }
  [[gnu::always_inline]] static RandomBatch end(const State& s) {
    RandomBatch batch;
    Simd::transpose(s.c0, s.c1, s.c2, s.c3, batch.words);
    return batch;
  }
  [[gnu::always_inline]] RandomBatch at(int64_t index) const {
    State state = begin(index);
    for_numbers<kRounds, 2>([&](auto number) __attribute__((always_inline)) { round<number.value>(state); });
    return end(state);
  }

 private:
  static constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u;
  typename Simd::Int k0_[kRounds], k1_[kRounds];  // with what else is the same for every block
  typename Simd::Int c3_;                         // before round 2
};

uint32_t random_of(const RngKey& key, int64_t index) {
  return random16(philox(key, static_cast<uint64_t>(index) / 8), static_cast<int>(index % 8));
}

void random_bits(const RandomBitsArgs& a) {
  const RandomBatches batches(a.key);
  uint32_t all = 0;
#pragma omp parallel for schedule(static) reduction(^ : all) if (a.count > kSmall)
  for (int64_t begin = 0; begin < a.count; begin += kRange) {
    const int64_t end = smaller(begin + kRange, a.count);
    typename Simd::Int words = Simd::zero_int();
    int64_t i = begin;
    for (; i + kBatch <= end; i += kBatch) {
      const RandomBatch batch = batches.at(i);
      for (int v = 0; v < 4; ++v) words = Simd::xor_int(words, batch.words[v]);
    }
    uint32_t lanes[Simd::kLanes];
    Simd::store_int(lanes, words);
    for (int lane = 0; lane < Simd::kLanes; ++lane) all ^= lanes[lane];
    for (; i < end; ++i) all ^= random_of(a.key, i) << (16 * (i % 2));
  }
  *a.all = all;
}

// ---- Encoders -----------------------------------------------------------------------------------------------------

// Scalar codes of a range of one row that starts at an even column.
template <typename Code>
void pack_scalar(int64_t first_index, int64_t count, uint8_t* out, Code code) {
  for (int64_t i = 0; i < count; i += 2) {
    uint32_t packed = code(first_index + i);
    if (i + 1 < count) packed |= code(first_index + i + 1) << 4;
    out[i / 2] = static_cast<uint8_t>(packed);
  }
}

// batches(index) makes what then gives, called with the indices of one batch after another from there, a vector of
// codes each; what is left takes the scalar code(index).
template <typename Batches, typename Code>
void encode_all(int64_t rows, int64_t cols, uint8_t* codes, Batches batches, Code code) {
  if (cols % 2 != 0 && rows > 1) {
#pragma omp parallel for schedule(static) if (rows * cols > kSmall)
    for (int64_t row = 0; row < rows; ++row) pack_scalar(row * cols, cols, codes + row * packed_row_bytes(cols), code);
    return;
  }
  const int64_t count = rows * cols;
  const bool stream = count / 2 > kStreamBytes && reinterpret_cast<uintptr_t>(codes) % sizeof(Simd::Int) == 0;
#pragma omp parallel if (count > kSmall)
  {
#pragma omp for schedule(static) nowait
    for (int64_t begin = 0; begin < count; begin += kRange) {
      const int64_t end = smaller(begin + kRange, count);
      int64_t i = begin;
      auto vector = batches(begin);
      if (stream) {
        for (; i + kBatch <= end; i += kBatch) Simd::stream_int(codes + i / 2, vector(i));
      } else {
        for (; i + kBatch <= end; i += kBatch) Simd::store_int(codes + i / 2, vector(i));
      }
      if (i < end) pack_scalar(i, end - i, codes + i / 2, code);
    }
    if (stream) Simd::finish_streams();
  }
}

// Codes of kBatch elements from vectors of values, with random numbers: value(x, 16 random bits per lane).
template <typename T, typename Value>
[[gnu::always_inline]] inline Int encode_random(const T* x, const RandomBatch& batch, Value value) {
  ask_ahead<kBatch>(x);
  typename Simd::Int values[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const T* from = x + 2 * i * Simd::kLanes;
    values[2 * i] = value(Simd::load(from), Simd::low_half(batch.words[i]));
    values[2 * i + 1] = value(Simd::load(from + Simd::kLanes), Simd::high_half(batch.words[i]));
  }
  return Simd::codes_of(values);
}

template <typename T, typename Value>
[[gnu::always_inline]] inline Int encode_plain(const T* x, Value value) {
  ask_ahead<kBatch>(x);
  typename Simd::Int values[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) values[i] = value(Simd::load(x + i * Simd::kLanes));
  return Simd::codes_of(values);
}

// numerics.h's power_code. Half of its s is the larger of (1 + r) / 2 and r; the exponent of that less 126, after the
// random bits have carried into it, is the code of the magnitude.
class PowerEncoder {
 public:
  PowerEncoder(float inverse, int magnitudes)
      : inverse_(Simd::set(inverse)), most_(Simd::set_int(0x01000100u | static_cast<uint32_t>(magnitudes) * 0x10001u)) {
    uint8_t codes[16];
    for (uint8_t code = 0; code < 16; ++code) codes[code] = code == 8 ? 0 : code;
    no_negative_zero_ = Simd::repeat16(codes);
  }

  // Codes of kBatch elements; words[i]: the random numbers of 2 kLanes of them. Between its parts it calls between(part
  // number), of the parts 0 to 3: what that does is independent, so that the CPU has something to do while one waits.
  template <typename T, typename Between>
  [[gnu::always_inline]] Int batch(const T* x, const Int* words, Between between) const {
    ask_ahead<kBatch>(x);
    Int codes[4];
    for_numbers<4>([&](auto i) __attribute__((always_inline)) {
      codes[i.value] = signed_codes(x + 2 * i.value * Simd::kLanes, words[i.value]);
      between(i);
    });
    Int pairs[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Int bytes = Simd::look_up_bytes(no_negative_zero_, Simd::words_to_bytes(codes[2 * i], codes[2 * i + 1]));
      pairs[i] = Simd::multiply_add_bytes(bytes, Simd::set_int(0x10011001u));
    }
    return Simd::bytes_in_order(Simd::words_to_bytes(pairs[0], pairs[1]));
  }

 private:
  // Codes of 2 kLanes elements in words, 8 among them. `random`: of even elements in the low words, of odd in the high.
  template <typename T>
  [[gnu::always_inline]] Int signed_codes(const T* x, Int random) const {
    Float even, odd;
    Simd::split(x, even, odd);
    const Int low = Simd::template shift_right<23>(carried(even, Simd::template shift_left<7>(random)));
    const Int high = Simd::template shift_right<7>(carried(odd, Simd::template shift_right<9>(random)));
    // In words: the sign in bit 8, and a magnitude that may be too large below it.
    const Int parts = Simd::min_bytes(Simd::choose(low, high, Simd::set_int(0xffff0000u)), most_);
    return Simd::multiply_add_bytes(parts, Simd::set_int(0x08010801u));
  }

  // The sign, then the magnitude's code in 8 bits, then what is left of the sum. `random`: in bits 7 to 22.
  [[gnu::always_inline]] Int carried(Float x, Int random) const {
    const Int addend = Simd::or_masked(Simd::set_int(64u - (126u << 23)), random, Simd::set_int(0x7fff80u));
    return Simd::add_int(Simd::bits(Simd::half_s(x, inverse_)), addend);
  }

  Float inverse_;
  Int most_;  // in words: a sign of 1, and the largest magnitude's code
  Int no_negative_zero_;
};

// Encodes a batch while it generates the random numbers of the next.
template <typename T>
struct LuqBatches {
  const T* x;
  const PowerEncoder& encoder;
  const RandomBatches& batches;
  RandomBatch random;

  [[gnu::always_inline]] Int operator()(int64_t i) {
    RandomBatches::State next = batches.begin(i + kBatch);
    batches.template round<2>(next);
    const Int codes = encoder.batch(
        x + i,
        random.words, [&](auto part) __attribute__((always_inline)) { batches.template round<part.value + 3>(next); });
    random = RandomBatches::end(next);
    return codes;
  }
};

bool indices_fit(int64_t count) { return (count + kBatch) / 8 + Simd::kLanes < int64_t{1} << 32; }

template <typename T>
void encode_integers(const EncodeArgs& a) {
  const T* x = a.x.as<T>();
  const int low = a.grid.low, high = a.grid.high;
  const auto inverse = Simd::set(a.inverse_scale);
  const auto lowest = Simd::set(static_cast<float>(low)), highest = Simd::set(static_cast<float>(high));
  const auto clamp = [&](typename Simd::Float value) {
    return Simd::min(Simd::max(Simd::mul(value, inverse), lowest), highest);
  };
  if (a.rounding == Rounding::nearest) {
    const auto rounded = [&](typename Simd::Float value) { return Simd::round(clamp(value)); };
    encode_all(
        a.rows, a.cols, a.codes,
        [&](int64_t) {
          return [&](int64_t i) __attribute__((always_inline)) { return encode_plain(x + i, rounded); };
        },
        [&](int64_t i) { return integer_code(integer_nearest(as_float(x[i]), a.inverse_scale, low, high)); });
    return;
  }
  const RandomBatches batches(a.key);
  const auto rounded = [&](typename Simd::Float from, typename Simd::Int random) {
    const auto scaled = clamp(from);
    const auto whole = Simd::floor(scaled);
    const auto fraction = Simd::mul(Simd::sub(scaled, whole), Simd::set(65536.0f));
    return Simd::add_where_greater(Simd::round(whole), fraction, Simd::to_float(random));
  };
  encode_all(
      a.rows, a.cols, a.codes,
      [&](int64_t) {
        return [&](int64_t i) __attribute__((always_inline)) { return encode_random(x + i, batches.at(i), rounded); };
      },
      [&](int64_t i) {
        return integer_code(integer_stochastic(as_float(x[i]), a.inverse_scale, low, high, random_of(a.key, i)));
      });
}

template <typename T>
void encode_powers(const EncodeArgs& a) {
  const T* x = a.x.as<T>();
  const PowerEncoder encoder(a.inverse_scale, a.grid.magnitudes);
  const auto scalar = [&](int64_t i) {
    return power_code(as_float(x[i]), a.inverse_scale, a.grid.magnitudes,
                      a.rounding == Rounding::nearest ? kNearestBits : random_of(a.key, i));
  };
  if (a.rounding == Rounding::nearest) {
    const auto half = Simd::set_int(kNearestBits * 0x10001u);
    const typename Simd::Int halves[4] = {half, half, half, half};
    const auto nearest = [&](int64_t) {
      return [&](int64_t i) __attribute__((always_inline)) {
        return encoder.batch(x + i, halves, [](auto) {});
      };
    };
    encode_all(a.rows, a.cols, a.codes, nearest, scalar);
    return;
  }
  const RandomBatches batches(a.key);
  const auto luq = [&](int64_t begin) { return LuqBatches<T>{x, encoder, batches, batches.at(begin)}; };
  encode_all(a.rows, a.cols, a.codes, luq, scalar);
}

void encode(const EncodeArgs& a) {
  const bool in_vectors = a.grid.kind == GridKind::uniform || a.grid.kind == GridKind::powers_of_2;
  if (!in_vectors || (a.rounding == Rounding::stochastic && !indices_fit(a.rows * a.cols))) return ref_encode(a);
  with_type(a.x.bfloat16, [&](auto type) {
    a.grid.kind == GridKind::uniform ? encode_integers<decltype(type)>(a) : encode_powers<decltype(type)>(a);
  });
}

void decode_codes(const DecodeArgs& a) {
  float values[16];
  for (uint32_t code = 0; code < 16; ++code) values[code] = a.scale * static_cast<float>(decode(a.table, code));
  const auto lookup = Simd::lookup(values);
  const bool flat = a.cols % 2 == 0 || a.rows == 1;
  const int64_t rows = flat ? 1 : a.rows, cols = flat ? a.rows * a.cols : a.cols;
  const int64_t row_bytes = packed_row_bytes(cols), ranges = (cols + kRange - 1) / kRange;
#pragma omp parallel for schedule(static) if (rows * cols > kSmall)
  for (int64_t task = 0; task < rows * ranges; ++task) {
    const int64_t row = task / ranges, begin = task % ranges * kRange, end = smaller(begin + kRange, cols);
    const uint8_t* codes = a.codes + row * row_bytes;
    float* x = a.x + row * cols;
    int64_t i = begin;
    if (a.accumulate) {
      for (; i + Simd::kLanes <= end; i += Simd::kLanes) {
        Simd::store(x + i, Simd::add(Simd::load(x + i), Simd::decode(codes + i / 2, lookup)));
      }
      for (; i < end; ++i) x[i] += values[load_code(codes, i)];
      continue;
    }
    for (; i + Simd::kLanes <= end; i += Simd::kLanes) Simd::store(x + i, Simd::decode(codes + i / 2, lookup));
    for (; i < end; ++i) x[i] = values[load_code(codes, i)];
  }
}
