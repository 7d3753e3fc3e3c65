// The files of the 4-bit matmuls share this beside products on tensor cores: where results go, kernels with a thread
// for each result, operands made ready, and parts of K added.
#pragma once

#include "kernels/cuda/code_values.h"
#include "kernels/cuda/qconv_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/kernels.h"
#include "kernels/numerics.h"

namespace luq::kernels::cuda::qconv {

constexpr int kThreads = 256;

// Division of 0 .. 2^31 - 1 by a number of the host's: a multiplication. Granlund and Montgomery 1994, theorem 4.2.
struct Divisor {
  int value = 1;
  uint32_t factor = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(static_cast<int>(divisor)) {
    if (divisor <= 1) return;
    while ((int64_t{1} << shift) < divisor) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + static_cast<uint64_t>(divisor) - 1) /
                                   static_cast<uint64_t>(divisor));
    --shift;
  }
  __host__ __device__ int divide(int n) const {
    if (value <= 1) return n;
    return static_cast<int>(static_cast<uint32_t>(uint64_t{static_cast<uint32_t>(n)} * factor >> 32) >> shift);
  }
  // The remainder; n becomes the quotient.
  __host__ __device__ int next(int& n) const {
    const int quotient = divide(n), rest = n - quotient * value;
    n = quotient;
    return rest;
  }
};

// The sums of the integer sums of some results of a channel, and of the squares of these.
struct alignas(16) Moment {
  int64_t sum = 0, square = 0;
  __device__ Moment& operator+=(const Moment& other) {
    sum += other.sum;
    square += other.square;
    return *this;
  }
};

// The array that results go to, and what makes floats of integer sums. The vectors of scales and of a bias have a place
// for each output channel of forward, each image of backward-data, each row of dw of backward-weight.
struct Sink {
  void* y;
  int64_t* sums;        // or null
  int* partial;         // (splits, size) or null
  const float* scales;  // (places) or null
  const float* bias;    // (places) or null
  int64_t size;         // results
  int64_t run, places;  // `run` neighbouring results have one place, the next ones the next; after the last the first
  float scale;
  int of_rows;  // in the product on tensor cores, a row has a place; otherwise a column has
  int bfloat16, accumulate;
  int eights;       // eight neighbours may be written at once
  Moment* moments;  // (channels, moment_tiles), for kernels that take them (qconv_moments.h)
  int64_t moment_tiles;
};

// The result's place in the sink's vectors; 0 where there are none.
__device__ inline int64_t place_of(const Sink& sink, int64_t index) {
  return sink.scales != nullptr || sink.bias != nullptr ? index / sink.run % sink.places : 0;
}

__device__ inline float finished(const Sink& sink, int64_t place, float sum, float old) {
  float value = __fmul_rn(sum, sink.scales != nullptr ? __fmul_rn(sink.scale, sink.scales[place]) : sink.scale);
  if (sink.bias != nullptr) value = __fadd_rn(value, sink.bias[place]);
  return sink.accumulate != 0 ? __fadd_rn(value, old) : value;
}

template <typename Sum>
__device__ inline void store(const Sink& sink, int64_t index, int64_t place, Sum sum) {
  if (sink.sums != nullptr) {
    sink.sums[index] = sum;
  } else if (sink.bfloat16 != 0) {
    auto* y = static_cast<BFloat16*>(sink.y) + index;
    *y = to_bfloat16(finished(sink, place, static_cast<float>(sum), sink.accumulate != 0 ? to_float(*y) : 0.0f));
  } else {
    auto* y = static_cast<float*>(sink.y) + index;
    *y = finished(sink, place, static_cast<float>(sum), sink.accumulate != 0 ? *y : 0.0f);
  }
}

__device__ inline void store_one(const Sink& sink, int64_t index, int64_t place, int sum) {
  if (sink.partial != nullptr) {
    sink.partial[index] = sum;
  } else {
    store(sink, index, place, sum);
  }
}

Sink sink_of(const QConvForwardArgs& a);
Sink sink_of(const QConvBackwardDataArgs& a);
Sink sink_of(const QConvBackwardWeightArgs& a);

// ---- Any shape: a thread for each result ----------------------------------------------------------------------------

void run_any(const QConvForwardArgs& a, const Sink& sink);
void run_any(const QConvBackwardDataArgs& a, const Sink& sink);
void run_any(const QConvBackwardWeightArgs& a, const Sink& sink);

// ---- Operands made ready --------------------------------------------------------------------------------------------

// Parts of the scratch memory, which is asked for once.
class Layout {
 public:
  // Returns where `bytes` begin.
  int64_t add(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  void allocate() { memory_ = bytes_ > 0 ? static_cast<uint8_t*>(scratch(bytes_)) : nullptr; }
  uint8_t* at(int64_t offset) const { return memory_ + offset; }

 private:
  int64_t bytes_ = 0;
  uint8_t* memory_ = nullptr;
};

// Activations whose groups are whole chunks: as they lie, or packed again into scratch memory.
class Activations {
 public:
  Activations(const uint8_t* codes, int64_t rows, int64_t channels, int64_t groups, Layout& layout);
  int64_t chunks() const { return chunks_; }
  int64_t row_bytes() const { return groups_ * chunks_ * 16; }
  const uint8_t* ready(const Layout& layout) const;

 private:
  const uint8_t* codes_;
  int64_t rows_, channels_, groups_, chunks_, at_ = 0;
  bool packs_ = false;
};

// The same for rows of weights. Apart: what is packed has the codes of 8 in the order 0 4 1 5 2 6 3 7, so that those at
// even places are the first four.
class WeightRows {
 public:
  enum class Order { as_they_are, transposed, transposed_apart };
  WeightRows(const uint8_t* codes, const ConvShape& s, int64_t merged, Order order, Layout& layout);
  int64_t row_bytes() const { return s_.kh * s_.kw * chunks_ * 16; }
  int64_t group_bytes() const { return rows_ * row_bytes(); }
  const uint8_t* ready(const Layout& layout) const;

 private:
  const uint8_t* codes_;
  ConvShape s_;
  int64_t merged_, rows_ = 0, chunks_ = 0, at_ = 0;
  Order order_;
  bool packs_ = false;
};

// ---- Parts of K -----------------------------------------------------------------------------------------------------

// The sink of a product; `neighbours`: groups of so many results lie side by side, from multiples of it on. In parts:
// of integer sums in memory, at `partials`.
Sink sink_of_product(const Sink& sink, int64_t neighbours, bool in_parts, int64_t partials, const Layout& layout);

// Adds the parts, if there are several.
void finish(const char* name, const Sink& sink, const Sink& with_parts, const Split& split);

}  // namespace luq::kernels::cuda::qconv
