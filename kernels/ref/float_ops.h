// The float operations from their definitions, for float and double: the oracle of the fast kernels, and, in double,
// what finite differences are taken of. Sums run in double. Shapes are those of kernels.h.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/conv_terms.h"
#include "kernels/kernels.h"

namespace luq::kernels::ref {

template <typename T>
void conv_forward(const ConvShape& s, const T* x, const T* w, const T* bias, T* y) {
  const int64_t cg = s.c_group();
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.y_size(); ++index) {
    double sum = bias != nullptr ? static_cast<double>(bias[index % s.o]) : 0.0;
    for_forward_terms(s, index, [&](int64_t pixel, int64_t c, int64_t w_row, int64_t w_c) {
      sum += static_cast<double>(x[pixel * s.c + c]) * static_cast<double>(w[w_row * cg + w_c]);
    });
    y[index] = static_cast<T>(sum);
  }
}

template <typename T>
void conv_backward_data(const ConvShape& s, const T* dy, const T* w, T* dx) {
  const int64_t cg = s.c_group();
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.x_size(); ++index) {
    double sum = 0;
    for_backward_data_terms(s, index, [&](int64_t pixel, int64_t o, int64_t w_row, int64_t w_c) {
      sum += static_cast<double>(dy[pixel * s.o + o]) * static_cast<double>(w[w_row * cg + w_c]);
    });
    dx[index] = static_cast<T>(sum);
  }
}

template <typename T>
void conv_backward_weight(const ConvShape& s, const T* dy, const T* x, T* dw) {
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < s.w_size(); ++index) {
    double sum = 0;
    for_backward_weight_terms(s, index, [&](int64_t y_pixel, int64_t o, int64_t x_pixel, int64_t c) {
      sum += static_cast<double>(dy[y_pixel * s.o + o]) * static_cast<double>(x[x_pixel * s.c + c]);
    });
    dw[index] = static_cast<T>(sum);
  }
}

template <typename T>
void column_sum(const T* x, int64_t rows, int64_t cols, T* sums) {
  for (int64_t c = 0; c < cols; ++c) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += static_cast<double>(x[row * cols + c]);
    sums[c] = static_cast<T>(sum);
  }
}

template <typename T>
void batch_norm_stats(const T* x, int64_t rows, int64_t c, T* mean, T* variance) {
  for (int64_t channel = 0; channel < c; ++channel) {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += static_cast<double>(x[row * c + channel]);
    const double center = sum / static_cast<double>(rows);
    double squares = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const double difference = static_cast<double>(x[row * c + channel]) - center;
      squares += difference * difference;
    }
    mean[channel] = static_cast<T>(center);
    variance[channel] = static_cast<T>(squares / static_cast<double>(rows));
  }
}

template <typename T>
void batch_norm_apply(const T* x, int64_t rows, int64_t c, const T* mean, const T* inverse_std, const T* gamma,
                      const T* beta, T* y) {
  for (int64_t i = 0; i < rows * c; ++i) {
    const int64_t channel = i % c;
    y[i] = (x[i] - mean[channel]) * (inverse_std[channel] * gamma[channel]) + beta[channel];
  }
}

// dx = gamma inverse_std (dy - dbeta / rows - xhat dgamma / rows), the last two terms only in training.
template <typename T>
void batch_norm_backward(const T* x, const T* dy, int64_t rows, int64_t c, const T* mean, const T* inverse_std,
                         const T* gamma, bool training, T* dx, T* dgamma, T* dbeta) {
  for (int64_t channel = 0; channel < c; ++channel) {
    const double center = static_cast<double>(mean[channel]), scale = static_cast<double>(inverse_std[channel]);
    double sum = 0, product = 0;
    for (int64_t i = channel; i < rows * c; i += c) {
      sum += static_cast<double>(dy[i]);
      product += static_cast<double>(dy[i]) * (static_cast<double>(x[i]) - center) * scale;
    }
    dbeta[channel] = static_cast<T>(sum);
    dgamma[channel] = static_cast<T>(product);
    const double factor = static_cast<double>(gamma[channel]) * scale;
    const double count = static_cast<double>(rows);
    for (int64_t i = channel; i < rows * c; i += c) {
      const double xhat = (static_cast<double>(x[i]) - center) * scale;
      const double correction = training ? sum / count + xhat * product / count : 0.0;
      dx[i] = static_cast<T>(factor * (static_cast<double>(dy[i]) - correction));
    }
  }
}

template <typename T>
void relu(const T* x, int64_t count, T* y, uint8_t* mask, T ceiling = 0) {
  const auto clipped = [ceiling](T value) { return ceiling > 0 && value >= ceiling; };
  if (mask != nullptr) {
    for (int64_t byte = 0; byte < (count + 7) / 8; ++byte) {
      uint32_t bits = 0;
      for (int64_t i = 8 * byte; i < 8 * byte + 8 && i < count; ++i) {
        bits |= (x[i] <= 0 || clipped(x[i]) ? 0u : 1u) << (i % 8);
      }
      mask[byte] = static_cast<uint8_t>(bits);
    }
  }
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] <= 0 ? T{0} : clipped(x[i]) ? ceiling : x[i];
}

template <typename T>
void relu_backward(const T* dy, const uint8_t* mask, int64_t count, T* dx) {
  for (int64_t i = 0; i < count; ++i) dx[i] = (mask[i / 8] >> (i % 8) & 1) != 0 ? dy[i] : T{0};
}

// mean, inverse_std: null where they are not wanted.
template <typename T>
void layer_norm(const T* x, int64_t rows, int64_t c, const T* gamma, const T* beta, T eps, T* y, T* mean,
                T* inverse_std) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = x + row * c;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < c; ++i) sum += static_cast<double>(from[i]);
    const double center = sum / static_cast<double>(c);
    for (int64_t i = 0; i < c; ++i) {
      const double difference = static_cast<double>(from[i]) - center;
      squares += difference * difference;
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c) + static_cast<double>(eps));
    for (int64_t i = 0; i < c; ++i) {
      y[row * c + i] = static_cast<T>((static_cast<double>(from[i]) - center) * scale * static_cast<double>(gamma[i]) +
                                      static_cast<double>(beta[i]));
    }
    if (mean != nullptr) mean[row] = static_cast<T>(center);
    if (inverse_std != nullptr) inverse_std[row] = static_cast<T>(scale);
  }
}

// With g = dy gamma: dx = inverse_std (g - mean of g - xhat mean of (g xhat)).
template <typename T>
void layer_norm_backward(const T* x, const T* dy, int64_t rows, int64_t c, const T* mean, const T* inverse_std,
                         const T* gamma, T* dx, T* dgamma, T* dbeta) {
  for (int64_t i = 0; i < c; ++i) {
    double sum = 0, product = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const double xhat = (static_cast<double>(x[row * c + i]) - static_cast<double>(mean[row])) *
                          static_cast<double>(inverse_std[row]);
      sum += static_cast<double>(dy[row * c + i]);
      product += static_cast<double>(dy[row * c + i]) * xhat;
    }
    dbeta[i] = static_cast<T>(sum);
    dgamma[i] = static_cast<T>(product);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const double center = static_cast<double>(mean[row]), scale = static_cast<double>(inverse_std[row]);
    const auto g = [&](int64_t i) { return static_cast<double>(dy[row * c + i]) * static_cast<double>(gamma[i]); };
    const auto xhat = [&](int64_t i) { return (static_cast<double>(x[row * c + i]) - center) * scale; };
    double sum = 0, product = 0;
    for (int64_t i = 0; i < c; ++i) {
      sum += g(i);
      product += g(i) * xhat(i);
    }
    const double count = static_cast<double>(c);
    for (int64_t i = 0; i < c; ++i) {
      dx[row * c + i] = static_cast<T>(scale * (g(i) - sum / count - xhat(i) * product / count));
    }
  }
}

// x Phi(x), Phi of the normal distribution.
template <typename T>
void gelu(const T* x, int64_t count, T* y) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    y[i] = static_cast<T>(value * 0.5 * std::erfc(-value * std::sqrt(0.5)));
  }
}

// dx = dy (Phi(x) + x phi(x)).
template <typename T>
void gelu_backward(const T* x, const T* dy, int64_t count, T* dx) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    const double density = std::exp(-0.5 * value * value) * 0.39894228040143267794;  // 1 / sqrt(2 pi)
    dx[i] = static_cast<T>(static_cast<double>(dy[i]) * (0.5 * std::erfc(-value * std::sqrt(0.5)) + value * density));
  }
}

// One head of one image in qkv (n, tokens, 3, heads, head_dim) and y (n, tokens, heads, head_dim).
template <typename T>
struct Head {
  const T* qkv;
  int64_t tokens, heads, head_dim, image, head;

  // part: 0 queries, 1 keys, 2 values.
  int64_t at(int part, int64_t token) const {
    return (((image * tokens + token) * 3 + part) * heads + head) * head_dim;
  }
  int64_t result_at(int64_t token) const { return ((image * tokens + token) * heads + head) * head_dim; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
  double score(int64_t query, int64_t key) const {
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      sum += static_cast<double>(qkv[at(0, query) + d]) * static_cast<double>(qkv[at(1, key) + d]);
    }
    return sum * scale();
  }
};

// y = softmax(q k^T / sqrt(head_dim)) v; log_sum (n, heads, tokens) or null: log of the sum of exponentials.
template <typename T>
void attention(int64_t n, int64_t tokens, int64_t heads, int64_t head_dim, const T* qkv, T* y, T* log_sum) {
  std::vector<double> all(static_cast<size_t>(omp_get_max_threads() * tokens));
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < n * heads; ++index) {
    const Head<T> h{qkv, tokens, heads, head_dim, index / heads, index % heads};
    const std::span p(all.data() + omp_get_thread_num() * tokens, static_cast<size_t>(tokens));
    for (int64_t query = 0; query < tokens; ++query) {
      double largest = h.score(query, 0), total = 0;
      for (int64_t key = 0; key < tokens; ++key) {
        p[static_cast<size_t>(key)] = h.score(query, key);
        largest = std::fmax(largest, p[static_cast<size_t>(key)]);
      }
      for (double& value : p) total += value = std::exp(value - largest);
      if (log_sum != nullptr) log_sum[index * tokens + query] = static_cast<T>(std::log(total) + largest);
      for (int64_t d = 0; d < head_dim; ++d) {
        double sum = 0;
        for (int64_t key = 0; key < tokens; ++key) {
          sum += p[static_cast<size_t>(key)] * static_cast<double>(qkv[h.at(2, key) + d]);
        }
        y[h.result_at(query) + d] = static_cast<T>(sum / total);
      }
    }
  }
}

// With P the probabilities: dv = P^T dy, dP = dy v^T, dS = P (dP - rows of dy y) / sqrt(head_dim), dq = dS k,
// dk = dS^T q.
template <typename T>
void attention_backward(int64_t n, int64_t tokens, int64_t heads, int64_t head_dim, const T* qkv, const T* y,
                        const T* log_sum, const T* dy, T* dqkv) {
  const int64_t count = 3 * tokens * head_dim;
  std::vector<double> all(static_cast<size_t>(omp_get_max_threads() * count));
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < n * heads; ++index) {
    const Head<T> h{qkv, tokens, heads, head_dim, index / heads, index % heads};
    const auto value = [](const T* x, int64_t at) { return static_cast<double>(x[at]); };
    double* sums = all.data() + omp_get_thread_num() * count;
    std::fill_n(sums, count, 0.0);
    const auto sum = [&](int part, int64_t token) { return sums + (part * tokens + token) * head_dim; };
    for (int64_t query = 0; query < tokens; ++query) {
      const int64_t row = h.result_at(query);
      double correction = 0;
      for (int64_t d = 0; d < head_dim; ++d) correction += value(dy, row + d) * value(y, row + d);
      for (int64_t key = 0; key < tokens; ++key) {
        const double p = std::exp(h.score(query, key) - static_cast<double>(log_sum[index * tokens + query]));
        double dp = 0;
        for (int64_t d = 0; d < head_dim; ++d) dp += value(dy, row + d) * value(qkv, h.at(2, key) + d);
        const double ds = p * (dp - correction) * h.scale();
        for (int64_t d = 0; d < head_dim; ++d) {
          sum(0, query)[d] += ds * value(qkv, h.at(1, key) + d);
          sum(1, key)[d] += ds * value(qkv, h.at(0, query) + d);
          sum(2, key)[d] += p * value(dy, row + d);
        }
      }
    }
    for (int part = 0; part < 3; ++part) {
      for (int64_t token = 0; token < tokens; ++token) {
        for (int64_t d = 0; d < head_dim; ++d) dqkv[h.at(part, token) + d] = static_cast<T>(sum(part, token)[d]);
      }
    }
  }
}

template <typename T>
void add(const T* a, const T* b, int64_t count, T* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

template <typename T>
void dropout(const T* x, int64_t count, float probability, const RngKey& key, T* y) {
  const auto threshold = static_cast<uint32_t>(std::lround(static_cast<double>(probability) * 65536.0));
  const T scale = T{1} / (T{1} - static_cast<T>(probability));
#pragma omp parallel for schedule(static) if (count > 4096)
  for (int64_t block = 0; block < (count + 7) / 8; ++block) {
    const PhiloxBlock random = philox(key, static_cast<uint64_t>(block));
    for (int64_t i = 8 * block; i < 8 * block + 8 && i < count; ++i) {
      y[i] = random16(random, static_cast<int>(i % 8)) >= threshold ? x[i] * scale : T{0};
    }
  }
}

// The window of output index `o` inside 0..size-1.
struct Window {
  int64_t begin, end;
};
inline Window pool_window(int64_t o, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t first = o * stride - pad, last = first + kernel;
  return {first < 0 ? 0 : first, last > size ? size : last};
}
inline Window adaptive_window(int64_t o, int64_t size, int64_t out) {
  return {o * size / out, ((o + 1) * size + out - 1) / out};
}

template <typename T>
void max_pool(const PoolShape& s, const T* x, T* y, int32_t* index) {
  const int64_t oh = s.oh(), ow = s.ow();
  for (int64_t i = 0; i < s.n * oh * ow * s.c; ++i) {
    const int64_t c = i % s.c, ox = i / s.c % ow, oy = i / (s.c * ow) % oh, n = i / (s.c * ow * oh);
    const Window rows = pool_window(oy, s.h, s.kh, s.stride_h, s.pad_h);
    const Window cols = pool_window(ox, s.w, s.kw, s.stride_w, s.pad_w);
    int64_t best = rows.begin * s.w + cols.begin;
    for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
      for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
        const T value = x[((n * s.h + iy) * s.w + ix) * s.c + c], largest = x[(n * s.h * s.w + best) * s.c + c];
        if (value > largest || (value != value && largest == largest)) best = iy * s.w + ix;
      }
    }
    y[i] = x[(n * s.h * s.w + best) * s.c + c];
    if (index != nullptr) index[i] = static_cast<int32_t>(best);
  }
}

template <typename T>
void max_pool_backward(const PoolShape& s, const T* dy, const int32_t* index, T* dx) {
  for (int64_t i = 0; i < s.n * s.h * s.w * s.c; ++i) dx[i] = T{0};
  const int64_t plane = s.oh() * s.ow() * s.c;
  for (int64_t i = 0; i < s.n * plane; ++i) dx[(i / plane * s.h * s.w + index[i]) * s.c + i % s.c] += dy[i];
}

// Padded extent of a window for the divisor of an average that counts padding, as PyTorch clips it.
inline int64_t padded_extent(int64_t o, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t first = o * stride - pad, last = first + kernel;
  return (last > size + pad ? size + pad : last) - first;
}

// Visits (output offset of the pixel, input offset, 1 / divisor) of every element pair of an average, channel 0.
template <typename Visit>
void for_each_average(const PoolShape& s, bool count_include_pad, Visit visit) {
  const int64_t oh = s.oh(), ow = s.ow();
  for (int64_t pixel = 0; pixel < s.n * oh * ow; ++pixel) {
    const int64_t n = pixel / (oh * ow), oy = pixel / ow % oh, ox = pixel % ow;
    const Window rows = pool_window(oy, s.h, s.kh, s.stride_h, s.pad_h);
    const Window cols = pool_window(ox, s.w, s.kw, s.stride_w, s.pad_w);
    const int64_t inside = (rows.end - rows.begin) * (cols.end - cols.begin);
    const int64_t padded =
        padded_extent(oy, s.h, s.kh, s.stride_h, s.pad_h) * padded_extent(ox, s.w, s.kw, s.stride_w, s.pad_w);
    const double weight = 1.0 / static_cast<double>(count_include_pad ? padded : inside);
    for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
      for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
        visit(pixel * s.c, ((n * s.h + iy) * s.w + ix) * s.c, weight);
      }
    }
  }
}

template <typename Visit>
void for_each_adaptive(int64_t n, int64_t h, int64_t w, int64_t c, int64_t oh, int64_t ow, Visit visit) {
  for (int64_t pixel = 0; pixel < n * oh * ow; ++pixel) {
    const Window rows = adaptive_window(pixel / ow % oh, h, oh), cols = adaptive_window(pixel % ow, w, ow);
    const double weight = 1.0 / static_cast<double>((rows.end - rows.begin) * (cols.end - cols.begin));
    for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
      for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
        visit(pixel * c, ((pixel / (oh * ow) * h + iy) * w + ix) * c, weight);
      }
    }
  }
}

template <typename T>
void average_pixel(const T* x, int64_t c, double weight, T* y) {
  for (int64_t i = 0; i < c; ++i) y[i] += static_cast<T>(weight) * x[i];
}

template <typename T>
void zero(T* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = T{0};
}

template <typename T>
void avg_pool(const PoolShape& s, const T* x, T* y, bool count_include_pad) {
  zero(y, s.n * s.oh() * s.ow() * s.c);
  for_each_average(s, count_include_pad,
                   [&](int64_t out, int64_t in, double weight) { average_pixel(x + in, s.c, weight, y + out); });
}

template <typename T>
void avg_pool_backward(const PoolShape& s, const T* dy, T* dx, bool count_include_pad) {
  zero(dx, s.n * s.h * s.w * s.c);
  for_each_average(s, count_include_pad,
                   [&](int64_t out, int64_t in, double weight) { average_pixel(dy + out, s.c, weight, dx + in); });
}

template <typename T>
void adaptive_avg_pool(int64_t n, int64_t h, int64_t w, int64_t c, int64_t oh, int64_t ow, const T* x, T* y) {
  zero(y, n * oh * ow * c);
  for_each_adaptive(n, h, w, c, oh, ow,
                    [&](int64_t out, int64_t in, double weight) { average_pixel(x + in, c, weight, y + out); });
}

template <typename T>
void adaptive_avg_pool_backward(int64_t n, int64_t h, int64_t w, int64_t c, int64_t oh, int64_t ow, const T* dy,
                                T* dx) {
  zero(dx, n * h * w * c);
  for_each_adaptive(n, h, w, c, oh, ow,
                    [&](int64_t out, int64_t in, double weight) { average_pixel(dy + out, c, weight, dx + in); });
}

template <typename T>
void cross_entropy(const T* logits, const int32_t* labels, int64_t rows, int64_t classes, float label_smoothing,
                   T* loss, T* dlogits, T gradient_scale, int64_t* correct, const int32_t* other_labels = nullptr,
                   const float* label_weight = nullptr) {
  int64_t hits = 0;
  const double smooth = static_cast<double>(label_smoothing) / static_cast<double>(classes);
  const double sharp = 1.0 - static_cast<double>(label_smoothing);
#pragma omp parallel for schedule(static) reduction(+ : hits) if (rows * classes > 4096)
  for (int64_t row = 0; row < rows; ++row) {
    const T* z = logits + row * classes;
    int64_t best = 0;
    for (int64_t k = 1; k < classes; ++k) {
      if (z[k] > z[best]) best = k;
    }
    hits += best == labels[row];
    double total = 0;
    for (int64_t k = 0; k < classes; ++k) total += std::exp(static_cast<double>(z[k]) - static_cast<double>(z[best]));
    const double log_total = std::log(total) + static_cast<double>(z[best]);
    double row_loss = 0;
    const double weight = other_labels != nullptr ? static_cast<double>(label_weight[row]) : 1.0;
    for (int64_t k = 0; k < classes; ++k) {
      double target = smooth + (k == labels[row] ? weight * sharp : 0.0);
      if (other_labels != nullptr && k == other_labels[row]) target += (1.0 - weight) * sharp;
      const double log_probability = static_cast<double>(z[k]) - log_total;
      if (target != 0.0) row_loss -= target * log_probability;
      if (dlogits != nullptr) {
        dlogits[row * classes + k] =
            static_cast<T>((std::exp(log_probability) - target) * static_cast<double>(gradient_scale));
      }
    }
    if (loss != nullptr) loss[row] = static_cast<T>(row_loss);
  }
  if (correct != nullptr) *correct = hits;
}

// PyTorch's SGD: g += weight_decay w; v = momentum v + g; w -= lr (g + momentum v) with nesterov, else lr v.
template <typename T>
void sgd(T* w, const T* gradient, T* velocity, int64_t count, T lr, T momentum, T weight_decay, bool nesterov,
         bool first_step, T gradient_scale) {
  for (int64_t i = 0; i < count; ++i) {
    T g = gradient_scale * gradient[i] + weight_decay * w[i];
    if (velocity != nullptr) {
      velocity[i] = first_step ? g : momentum * velocity[i] + g;
      g = nesterov ? g + momentum * velocity[i] : velocity[i];
    }
    w[i] -= lr * g;
  }
}

// The factors of a step are computed in double, as PyTorch does, and rounded once.
template <typename T>
void adamw(T* w, const T* gradient, T* m, T* v, int64_t count, T lr, T beta1, T beta2, T eps, T weight_decay,
           int64_t step, T gradient_scale) {
  const double b1 = static_cast<double>(beta1), b2 = static_cast<double>(beta2), rate = static_cast<double>(lr);
  const T keep = static_cast<T>(1 - rate * static_cast<double>(weight_decay));
  const T step_size = static_cast<T>(rate / (1 - std::pow(b1, static_cast<double>(step))));
  const T root = static_cast<T>(std::sqrt(1 - std::pow(b2, static_cast<double>(step))));
  const T to_m = static_cast<T>(1 - b1), to_v = static_cast<T>(1 - b2);
  for (int64_t i = 0; i < count; ++i) {
    const T g = gradient_scale * gradient[i];
    m[i] += to_m * (g - m[i]);
    v[i] = beta2 * v[i] + to_v * g * g;
    w[i] = keep * w[i] - step_size * m[i] / (std::sqrt(v[i]) / root + eps);
  }
}

}  // namespace luq::kernels::ref
