// Scaled dot-product attention of short sequences (images cut into some hundred tokens), in vectors of any width.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// Threads take one head of one image at a time, so that the result does not depend on their number. Its queries, keys
// and values become float32 panels in scratch memory, padded with zeros to whole vectors: what multiplies from the
// right lies with its columns side by side, so keys (and, backward, values) are transposed. The queries are scaled as
// they are read. Blocks of kBlock queries keep their scores in the cache:
//   forward    S = Q K^T, P = softmax(S), Y = P V
//   backward   S = Q K^T, P = e^(S - log_sum), dP = dY V^T, dS = P (dP - rows of dY Y),
//              dV += P^T dY, dK += dS^T Q, dQ = dS K
// A block of queries adds to dK and dV after the one before it. The products run in float32 for either type of
// activations; a product of kRows rows and 2 vectors of columns stays in registers. The exponentials and the copies are
// a few percent of the time.

#include "kernels/cpu/exp_impl.h"

constexpr int64_t kLanes = Simd::kLanes;
constexpr int kRows = kLanes == 16 ? 8 : 6;  // with 2 vectors of columns: as many sums as registers allow
constexpr int64_t kBlock = 48;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

thread_local Scratch attention_scratch;

// A matrix whose element (i, j) lies at data[i * rows + j * columns].
struct Strided {
  const float* data;
  int64_t rows, columns;
};

// C (m, columns of kVectors vectors) = or += A (m, k) B (k, ...), for m = kCount rows.
template <int kCount, int kVectors, bool kAdd>
[[gnu::always_inline]] inline void multiply_tile(int64_t k, const Strided& a, const float* b, int64_t b_row, float* c,
                                                 int64_t c_row) {
  Float sums[kCount][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[row][v] = kAdd ? Simd::load(c + row * c_row + v * kLanes) : Simd::zero();
  }
  const float* from = a.data;
  for (int64_t i = 0; i < k; ++i, from += a.columns, b += b_row) {
    Float columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = Simd::load(b + v * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < kCount; ++row) {
      const Float factor = Simd::set(from[row * a.rows]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[row][v] = Simd::multiply_add(factor, columns[v], sums[row][v]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kCount; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Simd::store(c + row * c_row + v * kLanes, sums[row][v]);
  }
}

template <int kVectors, bool kAdd>
inline void multiply_columns(int64_t m, int64_t k, const Strided& a, const float* b, int64_t b_row, float* c,
                             int64_t c_row) {
  int64_t row = 0;
  for (; row + kRows <= m; row += kRows) {
    multiply_tile<kRows, kVectors, kAdd>(k, {a.data + row * a.rows, a.rows, a.columns}, b, b_row, c + row * c_row,
                                         c_row);
  }
  for_numbers<kRows>([&](auto rest) {
    if constexpr (rest.value > 0) {
      if (m - row == rest.value) {
        multiply_tile<rest.value, kVectors, kAdd>(k, {a.data + row * a.rows, a.rows, a.columns}, b, b_row,
                                                  c + row * c_row, c_row);
      }
    }
  });
}

// C (m, n) = or += A (m, k) B (k, n); n a multiple of kLanes, B and C with rows of b_row and c_row floats.
template <bool kAdd>
void multiply(int64_t m, int64_t n, int64_t k, const Strided& a, const float* b, int64_t b_row, float* c,
              int64_t c_row) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= n; column += 2 * kLanes) {
    multiply_columns<2, kAdd>(m, k, a, b + column, b_row, c + column, c_row);
  }
  if (column < n) multiply_columns<1, kAdd>(m, k, a, b + column, b_row, c + column, c_row);
}

// `rows` rows of `cols` values, stride apart, to rows of `padded` floats, times scale; zeros behind them.
template <typename T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t cols, float scale, float* to, int64_t padded) {
  const Float factor = Simd::set(scale);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < padded; i += kLanes) {
      const int64_t count = cols - i;
      Simd::store(to + row * padded + i, Simd::mul(factor, Simd::load(from + row * stride + i, count)));
    }
  }
}

// The same transposed: (cols, padded), of which the columns from `rows` on are zeros.
template <typename T>
void copy_columns(const T* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t padded) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < cols; ++i) to[i * padded + row] = as_float(from[row * stride + i]);
  }
  for (int64_t i = 0; i < cols; ++i) {
    for (int64_t row = rows; row < padded; ++row) to[i * padded + row] = 0;
  }
}

template <typename T>
void store_rows(const float* from, int64_t padded, int64_t rows, int64_t cols, float scale, T* to, int64_t stride) {
  const Float factor = Simd::set(scale);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < cols; i += kLanes) {
      Simd::store(to + row * stride + i, Simd::mul(factor, Simd::load(from + row * padded + i)), cols - i);
    }
  }
}

inline float largest(Float x) {
  float values[kLanes];
  Simd::store(values, x);
  float most = values[0];
  for (int i = 1; i < kLanes; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

// The first `count` lanes of x, and elsewhere `other`.
inline Float lanes_or(Float x, int64_t count, float other) {
  const uint32_t bits = Simd::first_bits(count);
  const Float rest = Simd::keep(Simd::set(other), Simd::first_bits(kLanes) & ~bits);
  return Simd::add(Simd::keep(x, bits), rest);
}

// Turns a row of `count` scores into the probabilities, zeros behind them; returns the log of the sum of exponentials.
float softmax_row(float* scores, int64_t count, int64_t padded) {
  Float most = Simd::set(scores[0]);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Float x = Simd::load(scores + i);
    most = Simd::max(most, count - i < kLanes ? lanes_or(x, count - i, scores[0]) : x);
  }
  const float shift = largest(most);
  const Float center = Simd::set(shift);
  Float sums = Simd::zero();
  for (int64_t i = 0; i < padded; i += kLanes) {
    Float e = exp(Simd::sub(Simd::load(scores + i), center));
    if (count - i < kLanes) e = Simd::keep(e, Simd::first_bits(count - i));
    Simd::store(scores + i, e);
    sums = Simd::add(sums, e);
  }
  const float sum = Simd::fold(sums);
  const Float inverse = Simd::set(1.0f / sum);
  for (int64_t i = 0; i < padded; i += kLanes) Simd::store(scores + i, Simd::mul(inverse, Simd::load(scores + i)));
  return shift + logf(sum);
}

// Floats that a thread needs for a head.
int64_t head_floats(const AttentionArgs& a) {
  const int64_t key_columns = whole_vectors(a.tokens), columns = whole_vectors(a.head_dim);
  return a.head_dim * key_columns + a.tokens * columns + kBlock * (key_columns + 2 * columns);
}

void prepare_attention(const AttentionArgs& a) { attention_scratch.get<float>(head_floats(a), omp_get_max_threads()); }

template <typename T>
void attention_of(const AttentionArgs& a) {
  const int64_t tokens = a.tokens, dim = a.head_dim, heads = a.heads;
  const int64_t key_columns = whole_vectors(tokens), columns = whole_vectors(dim);
  const int64_t row = heads * dim;  // of y; three times as much of qkv
  const float scale = 1.0f / sqrtf(static_cast<float>(dim));
  float* all = attention_scratch.get<float>(head_floats(a), omp_get_max_threads());
  if (all == nullptr) return;
  const int64_t share = Scratch::share<float>(head_floats(a));
#pragma omp parallel for schedule(dynamic)
  for (int64_t head = 0; head < a.n * heads; ++head) {
    float* keys = all + omp_get_thread_num() * share;
    float* values = keys + dim * key_columns;
    float* scores = values + tokens * columns;
    float *queries = scores + kBlock * key_columns, *result = queries + kBlock * columns;
    const T* qkv = a.qkv.as<T>() + head / heads * tokens * 3 * row + head % heads * dim;
    T* y = a.y.as<T>() + head / heads * tokens * row + head % heads * dim;
    copy_columns(qkv + row, 3 * row, tokens, dim, keys, key_columns);
    copy_rows(qkv + 2 * row, 3 * row, tokens, dim, 1.0f, values, columns);
    for (int64_t first = 0; first < tokens; first += kBlock) {
      const int64_t count = smaller(kBlock, tokens - first);
      copy_rows(qkv + first * 3 * row, 3 * row, count, dim, scale, queries, columns);
      multiply<false>(count, key_columns, dim, {queries, columns, 1}, keys, key_columns, scores, key_columns);
      for (int64_t i = 0; i < count; ++i) {
        const float log_sum = softmax_row(scores + i * key_columns, tokens, key_columns);
        if (a.log_sum != nullptr) a.log_sum[head * tokens + first + i] = log_sum;
      }
      multiply<false>(count, columns, tokens, {scores, key_columns, 1}, values, columns, result, columns);
      store_rows(result, columns, count, dim, 1.0f, y + first * row, row);
    }
  }
}

void attention(const AttentionArgs& a) {
  with_type(a.qkv.bfloat16, [&](auto type) { attention_of<decltype(type)>(a); });
}

// Scores and their gradients of one query become P and dS: e^(S - log_sum) and P (dP - correction).
void gradient_row(float* scores, float* gradients, int64_t count, int64_t padded, float log_sum, float correction) {
  const Float center = Simd::set(log_sum), less = Simd::set(correction);
  for (int64_t i = 0; i < padded; i += kLanes) {
    Float p = exp(Simd::sub(Simd::load(scores + i), center));
    if (count - i < kLanes) p = Simd::keep(p, Simd::first_bits(count - i));
    Simd::store(scores + i, p);
    Simd::store(gradients + i, Simd::mul(p, Simd::sub(Simd::load(gradients + i), less)));
  }
}

// The same of the backward pass.
int64_t head_floats(const AttentionBackwardArgs& a) {
  const int64_t key_columns = whole_vectors(a.tokens), columns = whole_vectors(a.head_dim);
  const int64_t panel = a.tokens * columns, wide = a.head_dim * key_columns, block = kBlock * columns;
  return 2 * wide + 3 * panel + 3 * block + 2 * kBlock * key_columns;
}

void prepare_attention_backward(const AttentionBackwardArgs& a) {
  attention_scratch.get<float>(head_floats(a), omp_get_max_threads());
}

template <typename T>
void attention_backward_of(const AttentionBackwardArgs& a) {
  const int64_t tokens = a.tokens, dim = a.head_dim, heads = a.heads;
  const int64_t key_columns = whole_vectors(tokens), columns = whole_vectors(dim);
  const int64_t row = heads * dim;
  const float scale = 1.0f / sqrtf(static_cast<float>(dim));
  float* all = attention_scratch.get<float>(head_floats(a), omp_get_max_threads());
  if (all == nullptr) return;
  const int64_t share = Scratch::share<float>(head_floats(a));
#pragma omp parallel for schedule(dynamic)
  for (int64_t head = 0; head < a.n * heads; ++head) {
    const int64_t panel = tokens * columns, wide = dim * key_columns, block = kBlock * columns;
    float* keys_across = all + omp_get_thread_num() * share;
    float* values_across = keys_across + wide;
    float *keys = values_across + wide, *dkeys = keys + panel, *dvalues = dkeys + panel;
    float *queries = dvalues + panel, *dy = queries + block, *dqueries = dy + block;
    float *scores = dqueries + block, *gradients = scores + kBlock * key_columns;
    const T* qkv = a.qkv.as<T>() + head / heads * tokens * 3 * row + head % heads * dim;
    T* dqkv = a.dqkv.as<T>() + head / heads * tokens * 3 * row + head % heads * dim;
    const int64_t at = head / heads * tokens * row + head % heads * dim;
    const T *y = a.y.as<T>() + at, *dy_from = a.dy.as<T>() + at;
    copy_columns(qkv + row, 3 * row, tokens, dim, keys_across, key_columns);
    copy_columns(qkv + 2 * row, 3 * row, tokens, dim, values_across, key_columns);
    copy_rows(qkv + row, 3 * row, tokens, dim, 1.0f, keys, columns);
    memset(dkeys, 0, static_cast<size_t>(2 * panel) * sizeof(float));
    for (int64_t first = 0; first < tokens; first += kBlock) {
      const int64_t count = smaller(kBlock, tokens - first);
      copy_rows(qkv + first * 3 * row, 3 * row, count, dim, scale, queries, columns);
      copy_rows(dy_from + first * row, row, count, dim, 1.0f, dy, columns);
      multiply<false>(count, key_columns, dim, {queries, columns, 1}, keys_across, key_columns, scores, key_columns);
      multiply<false>(count, key_columns, dim, {dy, columns, 1}, values_across, key_columns, gradients, key_columns);
      for (int64_t i = 0; i < count; ++i) {
        Float correction = Simd::zero();
        for (int64_t d = 0; d < dim; d += kLanes) {
          const Float value = Simd::load(y + (first + i) * row + d, dim - d);
          correction = Simd::multiply_add(value, Simd::load(dy + i * columns + d), correction);
        }
        gradient_row(scores + i * key_columns, gradients + i * key_columns, tokens, key_columns,
                     a.log_sum[head * tokens + first + i], Simd::fold(correction));
      }
      multiply<true>(tokens, columns, count, {scores, 1, key_columns}, dy, columns, dvalues, columns);
      multiply<true>(tokens, columns, count, {gradients, 1, key_columns}, queries, columns, dkeys, columns);
      multiply<false>(count, columns, tokens, {gradients, key_columns, 1}, keys, columns, dqueries, columns);
      store_rows(dqueries, columns, count, dim, scale, dqkv + first * 3 * row, 3 * row);
    }
    store_rows(dkeys, columns, tokens, dim, 1.0f, dqkv + row, 3 * row);
    store_rows(dvalues, columns, tokens, dim, 1.0f, dqkv + 2 * row, 3 * row);
  }
}

void attention_backward(const AttentionBackwardArgs& a) {
  with_type(a.qkv.bfloat16, [&](auto type) { attention_backward_of<decltype(type)>(a); });
}
