// Statistics, encoders and decoder in vectors of any width: one pass each, and the same bits as ref.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// Packed codes are flat wherever rows have an even number of columns, and then whole tensors are one row; tensors with
// odd rows take the scalar functions of numerics.h. Threads get ranges that begin at multiples of kRange elements.
//
// Random bits: a batch of kLanes Philox blocks is computed at once, one block a lane. Lane 4 q + i computes block
// (kLanes / 4) i + q, so that a 4x4 transposition of words inside 128-bit lanes leaves vector i with kLanes / 4
// consecutive blocks: 2 kLanes consecutive 16-bit numbers in memory order. Cost per element: about 0.7 instructions for
// the generator, 1 for the rest, on 512-bit vectors; statistics and integer codes are bound by reading x.

#include "kernels/cpu/stats_impl.h"

constexpr int64_t kRange = 8192;
constexpr int64_t kAhead = 2048;  // bytes that the statistics ask memory for before they read them

template <typename T>
struct StoredValues {
  const T* x;
  typename Simd::Float full(int64_t i) const {
    Simd::prefetch(x + i + kAhead / static_cast<int64_t>(sizeof(T)));
    return Simd::load(x + i);
  }
  typename Simd::Float part(int64_t i, int64_t count) const { return Simd::load(x + i, count); }
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

// The numbers of elements 8 * first_block onwards; first_block + kLanes must not pass 2^32.
RandomBatch random_batch(const RngKey& key, uint32_t first_block) {
  typename Simd::Int c0 = Simd::add_int(Simd::set_int(first_block), Simd::block_order());
  typename Simd::Int c1 = Simd::zero_int();
  typename Simd::Int c2 = Simd::set_int(key.c2), c3 = Simd::set_int(key.c3);
  uint32_t k0 = key.k0, k1 = key.k1;
  for (int round = 0; round < 7; ++round) {
    typename Simd::Int high0, low0, high1, low1;
    Simd::multiply(c0, 0xD2511F53u, high0, low0);
    Simd::multiply(c2, 0xCD9E8D57u, high1, low1);
    c0 = Simd::xor_int(high1, c1, Simd::set_int(k0));
    c1 = low1;
    c2 = Simd::xor_int(high0, c3, Simd::set_int(k1));
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  RandomBatch batch;
  Simd::transpose(c0, c1, c2, c3, batch.words);
  return batch;
}

uint32_t random_of(const RngKey& key, int64_t index) {
  return random16(philox(key, static_cast<uint64_t>(index) / 8), static_cast<int>(index % 8));
}

void random_bits(const RandomBitsArgs& a) {
  uint32_t all = 0;
#pragma omp parallel for schedule(static) reduction(^ : all) if (a.count > kSmall)
  for (int64_t begin = 0; begin < a.count; begin += kRange) {
    const int64_t end = smaller(begin + kRange, a.count);
    typename Simd::Int words = Simd::zero_int();
    int64_t i = begin;
    for (; i + kBatch <= end; i += kBatch) {
      const RandomBatch batch = random_batch(a.key, static_cast<uint32_t>(i / 8));
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

// Runs vector(index, out) on whole batches and scalar codes on the rest. Code: scalar code of an index.
template <typename Vector, typename Code>
void encode(int64_t rows, int64_t cols, uint8_t* codes, Vector vector, Code code) {
  if (cols % 2 != 0 && rows > 1) {
#pragma omp parallel for schedule(static) if (rows * cols > kSmall)
    for (int64_t row = 0; row < rows; ++row) pack_scalar(row * cols, cols, codes + row * packed_row_bytes(cols), code);
    return;
  }
  const int64_t count = rows * cols;
#pragma omp parallel for schedule(static) if (count > kSmall)
  for (int64_t begin = 0; begin < count; begin += kRange) {
    const int64_t end = smaller(begin + kRange, count);
    int64_t i = begin;
    for (; i + kBatch <= end; i += kBatch) vector(i, codes + i / 2);
    if (i < end) pack_scalar(i, end - i, codes + i / 2, code);
  }
}

// Codes of kBatch elements from vectors of kLanes, with random numbers: code(x, 16 random bits per lane).
template <typename T, typename Code>
void encode_random(const T* x, const RngKey& key, int64_t index, uint8_t* out, Code code) {
  const RandomBatch batch = random_batch(key, static_cast<uint32_t>(index / 8));
  for (int i = 0; i < 4; ++i) {
    const int64_t at = 2 * i * Simd::kLanes;
    Simd::store_codes(out + at / 2, code(Simd::load(x + at), Simd::low_half(batch.words[i])));
    Simd::store_codes(out + at / 2 + Simd::kLanes / 2,
                      code(Simd::load(x + at + Simd::kLanes), Simd::high_half(batch.words[i])));
  }
}

// LUQ codes of kBatch elements.
template <typename T>
void encode_luq(const T* x, const RngKey& key, int64_t index, typename Simd::Float inverse, uint8_t* out) {
  const RandomBatch batch = random_batch(key, static_cast<uint32_t>(index / 8));
  for (int i = 0; i < 4; ++i) {
    const T* from = x + 2 * i * Simd::kLanes;
    Simd::store_fp4(out + i * Simd::kLanes, Simd::load(from), Simd::load(from + Simd::kLanes), inverse, batch.words[i]);
  }
}

template <typename T, typename Code>
void encode_plain(const T* x, uint8_t* out, Code code) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    Simd::store_codes(out + i * Simd::kLanes / 2, code(Simd::load(x + i * Simd::kLanes)));
  }
}

bool indices_fit(int64_t count) { return count / 8 + Simd::kLanes < int64_t{1} << 32; }

template <typename T>
void encode_int_from(const EncodeIntArgs& a) {
  const T* x = a.x.as<T>();
  const int low = a.format == Format::uint4 ? 0 : -7, high = a.format == Format::uint4 ? 15 : 7;
  const auto inverse = Simd::set(a.inverse_scale);
  const auto lowest = Simd::set(static_cast<float>(low)), highest = Simd::set(static_cast<float>(high));
  const auto clamp = [&](typename Simd::Float value) {
    return Simd::min(Simd::max(Simd::mul(value, inverse), lowest), highest);
  };
  if (a.rounding == Rounding::nearest) {
    const auto code = [&](typename Simd::Float value) {
      return Simd::and_int(Simd::round(clamp(value)), Simd::set_int(15));
    };
    encode(
        a.rows, a.cols, a.codes, [&](int64_t i, uint8_t* out) { encode_plain(x + i, out, code); },
        [&](int64_t i) { return int4_code(int4_value_nearest(as_float(x[i]), a.inverse_scale, low, high)); });
    return;
  }
  if (!indices_fit(a.rows * a.cols)) return ref_encode_int(a);
  const auto code = [&](typename Simd::Float from, typename Simd::Int random) {
    const auto scaled = clamp(from);
    const auto whole = Simd::floor(scaled);
    const auto fraction = Simd::mul(Simd::sub(scaled, whole), Simd::set(65536.0f));
    const auto value = Simd::add_where_greater(Simd::round(whole), fraction, Simd::to_float(random));
    return Simd::and_int(value, Simd::set_int(15));
  };
  encode(
      a.rows, a.cols, a.codes, [&](int64_t i, uint8_t* out) { encode_random(x + i, a.key, i, out, code); },
      [&](int64_t i) {
        return int4_code(int4_value_stochastic(as_float(x[i]), a.inverse_scale, low, high, random_of(a.key, i)));
      });
}

void encode_int(const EncodeIntArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) { encode_int_from<decltype(type)>(a); });
}

template <typename T>
void encode_fp4_from(const EncodeFp4Args& a) {
  const T* x = a.x.as<T>();
  const auto inverse = Simd::set(a.inverse_alpha);
  const auto scalar = [&](int64_t i) {
    return fp4_code(as_float(x[i]), a.inverse_alpha,
                    a.rounding == Rounding::nearest ? kNearestBits : random_of(a.key, i));
  };
  if (a.rounding == Rounding::nearest) {
    const auto nearest = [&](int64_t i, uint8_t* out) {
      const auto half = Simd::set_int(kNearestBits * 0x10001u);
      for (int64_t at = i; at < i + kBatch; at += 2 * Simd::kLanes, out += Simd::kLanes) {
        Simd::store_fp4(out, Simd::load(x + at), Simd::load(x + at + Simd::kLanes), inverse, half);
      }
    };
    encode(a.rows, a.cols, a.codes, nearest, scalar);
    return;
  }
  if (!indices_fit(a.rows * a.cols)) return ref_encode_fp4(a);
  encode(
      a.rows, a.cols, a.codes, [&](int64_t i, uint8_t* out) { encode_luq(x + i, a.key, i, inverse, out); }, scalar);
}

void encode_fp4(const EncodeFp4Args& a) {
  with_type(a.x.bfloat16, [&](auto type) { encode_fp4_from<decltype(type)>(a); });
}

void decode_codes(const DecodeArgs& a) {
  float values[16];
  for (uint32_t code = 0; code < 16; ++code) values[code] = a.scale * static_cast<float>(decode(a.format, code));
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
    for (; i + Simd::kLanes <= end; i += Simd::kLanes) Simd::store(x + i, Simd::decode(codes + i / 2, lookup));
    for (; i < end; ++i) x[i] = values[load_code(codes, i)];
  }
}
