// Batch norm, pointwise operations, pooling and the update in vectors of any width. All of them are bound by memory:
// one pass over each operand, rows shared among threads.
//
// An ISA file defines `Simd` in its anonymous namespace and includes this file there.
//
// Sums over rows (batch norm, bias gradients) are cut into chunks of rows whose size follows from the number of columns
// alone. In a chunk a block of columns is summed in float32 by four accumulators that take rows in turn; the chunks'
// sums are added in double, in order. Batch norm's variance is that of x - x[0], so that a mean far from 0 costs no
// digits.

constexpr int64_t kSmall = 16384;  // elements below which threads cost more than they bring
using Float = typename Simd::Float;
constexpr int64_t kLanes = Simd::kLanes;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Scratch {
  void* memory = nullptr;
  int64_t size = 0;
  template <typename T>
  T* get(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
    if (bytes > size) {
      free(memory);
      size = bytes;
      memory = aligned_alloc(64, static_cast<size_t>(bytes));
      if (memory == nullptr) abort();
    }
    return static_cast<T*>(memory);
  }
  ~Scratch() { free(memory); }
};

thread_local Scratch partial_scratch, column_scratch;

int64_t chunk_rows(int64_t cols) { return larger(16, smaller(256, 4096 / larger(cols, 1))); }

// Columns are visited in vectors; a last incomplete one is handled through `count` < kLanes.
template <typename Visit>
void for_column_vectors(int64_t cols, Visit visit) {
  for (int64_t c = 0; c < cols; c += kLanes) visit(c, smaller(cols - c, kLanes));
}

struct TwoSums {
  Float first, second;
};

// sums[2 * c], sums[2 * c + 1]: sums over rows of the pair terms(row, column vector, count) of each column.
// Terms is called with a factory so that per-column constants stay in registers: make(c, count) -> terms(row).
template <typename Make>
void sum_columns(int64_t rows, int64_t cols, double* sums, Make make) {
  const int64_t step = chunk_rows(cols), chunks = (rows + step - 1) / step;
  const int64_t padded = (cols + kLanes - 1) / kLanes * kLanes;
  float* partials = partial_scratch.get<float>(chunks * 2 * padded);
#pragma omp parallel for schedule(static) if (rows * cols > kSmall)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = chunk * step, end = smaller(begin + step, rows);
    for_column_vectors(cols, [&](int64_t c, int64_t count) {
      const auto terms = make(c, count);
      Float first[4], second[4];
      for (int i = 0; i < 4; ++i) first[i] = second[i] = Simd::set(0.0f);
      const auto add = [&](int64_t row, int i) {
        const TwoSums t = terms(row);
        first[i] = Simd::add(first[i], t.first);
        second[i] = Simd::add(second[i], t.second);
      };
      int64_t row = begin;
      for (; row + 4 <= end; row += 4) {
        add(row, 0);
        add(row + 1, 1);
        add(row + 2, 2);
        add(row + 3, 3);
      }
      for (int i = 0; row < end; ++row, ++i) add(row, i);
      float* out = partials + chunk * 2 * padded + c;
      Simd::store(out, Simd::add(Simd::add(first[0], first[1]), Simd::add(first[2], first[3])), kLanes);
      Simd::store(out + padded, Simd::add(Simd::add(second[0], second[1]), Simd::add(second[2], second[3])), kLanes);
    });
  }
  for (int64_t c = 0; c < 2 * cols; ++c) sums[c] = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const float* from = partials + chunk * 2 * padded;
    for (int64_t c = 0; c < cols; ++c) {
      sums[2 * c] += static_cast<double>(from[c]);
      sums[2 * c + 1] += static_cast<double>(from[padded + c]);
    }
  }
}

// Calls make(c, count) once per column vector and chunk, and the row function it gives for every row.
template <typename Make>
void for_rows(int64_t rows, int64_t cols, Make make) {
  const int64_t step = chunk_rows(cols);
#pragma omp parallel for schedule(static) if (rows * cols > kSmall)
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = smaller(begin + step, rows);
    for_column_vectors(cols, [&](int64_t c, int64_t count) {
      const auto run = make(c, count);
      for (int64_t row = begin; row < end; ++row) run(row);
    });
  }
}

void column_sum(const ColumnSumArgs& a) {
  double* sums = column_scratch.get<double>(2 * a.cols);
  sum_columns(a.rows, a.cols, sums, [&](int64_t c, int64_t count) {
    return [&a, c, count](int64_t row) { return TwoSums{Simd::load(a.x + row * a.cols + c, count), Simd::set(0.0f)}; };
  });
  for (int64_t c = 0; c < a.cols; ++c) a.sum[c] = static_cast<float>(sums[2 * c]);
}

// ---- Batch norm
// -------------------------------------------------------------------------------------------------------

void batch_norm_stats(const BatchNormStatsArgs& a) {
  if (a.rows == 0) return;
  double* sums = column_scratch.get<double>(2 * a.c);
  sum_columns(a.rows, a.c, sums, [&](int64_t c, int64_t count) {
    const Float shift = Simd::load(a.x + c, count);
    return [&a, c, count, shift](int64_t row) {
      const Float d = Simd::sub(Simd::load(a.x + row * a.c + c, count), shift);
      return TwoSums{d, Simd::mul(d, d)};
    };
  });
  const double rows = static_cast<double>(a.rows);
  for (int64_t c = 0; c < a.c; ++c) {
    const double shifted_mean = sums[2 * c] / rows;
    const double variance = sums[2 * c + 1] / rows - shifted_mean * shifted_mean;
    a.mean[c] = static_cast<float>(static_cast<double>(a.x[c]) + shifted_mean);
    a.variance[c] = static_cast<float>(variance < 0 ? 0 : variance);  // a NaN stays one
  }
}

void batch_norm_apply(const BatchNormApplyArgs& a) {
  for_rows(a.rows, a.c, [&](int64_t c, int64_t count) {
    const Float mean = Simd::load(a.mean + c, count), beta = Simd::load(a.beta + c, count);
    const Float scale = Simd::mul(Simd::load(a.inverse_std + c, count), Simd::load(a.gamma + c, count));
    return [&a, c, count, mean, beta, scale](int64_t row) {
      const Float x = Simd::load(a.x + row * a.c + c, count);
      Simd::store(a.y + row * a.c + c, Simd::add(Simd::mul(Simd::sub(x, mean), scale), beta), count);
    };
  });
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  double* sums = column_scratch.get<double>(2 * a.c);
  sum_columns(a.rows, a.c, sums, [&](int64_t c, int64_t count) {
    const Float mean = Simd::load(a.mean + c, count);
    return [&a, c, count, mean](int64_t row) {
      const Float dy = Simd::load(a.dy + row * a.c + c, count);
      const Float centered = Simd::sub(Simd::load(a.x + row * a.c + c, count), mean);
      return TwoSums{dy, Simd::mul(dy, centered)};
    };
  });
  for (int64_t c = 0; c < a.c; ++c) {
    a.dbeta[c] = static_cast<float>(sums[2 * c]);
    a.dgamma[c] = static_cast<float>(sums[2 * c + 1] * static_cast<double>(a.inverse_std[c]));
  }
  // dx = factor (dy - mean of dy - (x - mean) slope), slope = inverse_std^2 mean of dy (x - mean).
  const float per_row = a.training && a.rows > 0 ? 1.0f / static_cast<float>(a.rows) : 0.0f;
  for_rows(a.rows, a.c, [&](int64_t c, int64_t count) {
    const Float mean = Simd::load(a.mean + c, count), inverse_std = Simd::load(a.inverse_std + c, count);
    const Float factor = Simd::mul(Simd::load(a.gamma + c, count), inverse_std);
    const Float mean_dy = Simd::mul(Simd::load(a.dbeta + c, count), Simd::set(per_row));
    const Float slope = Simd::mul(Simd::mul(Simd::load(a.dgamma + c, count), Simd::set(per_row)), inverse_std);
    return [&a, c, count, mean, factor, mean_dy, slope](int64_t row) {
      const int64_t at = row * a.c + c;
      const Float centered = Simd::sub(Simd::load(a.x + at, count), mean);
      const Float dy = Simd::sub(Simd::load(a.dy + at, count), mean_dy);
      Simd::store(a.dx + at, Simd::mul(factor, Simd::sub(dy, Simd::mul(centered, slope))), count);
    };
  });
}

// ---- Pointwise
// --------------------------------------------------------------------------------------------------------

// Calls run(first element, count) for every vector, count < kLanes at most once, at the end.
template <typename Run>
void for_vectors(int64_t total, Run run) {
  constexpr int64_t kStep = 8192;
#pragma omp parallel for schedule(static) if (total > kSmall)
  for (int64_t begin = 0; begin < total; begin += kStep) {
    const int64_t end = smaller(begin + kStep, total);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) run(i, kLanes);
    if (i < end) run(i, end - i);
  }
}

void relu(const ReluArgs& a) {
  for_vectors(a.count, [&](int64_t i, int64_t count) {
    const Float x = Simd::load(a.x + i, count);
    if (a.mask != nullptr) {
      const uint32_t bits = Simd::positive_bits(x);
      memcpy(a.mask + i / 8, &bits, static_cast<size_t>((count + 7) / 8));
    }
    Simd::store(a.y + i, Simd::zero_where_not_positive(x), count);
  });
}

void relu_backward(const ReluBackwardArgs& a) {
  for_vectors(a.count, [&](int64_t i, int64_t count) {
    uint32_t bits = 0;
    memcpy(&bits, a.mask + i / 8, static_cast<size_t>((count + 7) / 8));
    Simd::store(a.dx + i, Simd::keep(Simd::load(a.dy + i, count), bits), count);
  });
}

void add(const AddArgs& a) {
  for_vectors(a.count, [&](int64_t i, int64_t count) {
    Simd::store(a.y + i, Simd::add(Simd::load(a.a + i, count), Simd::load(a.b + i, count)), count);
  });
}

void sgd(const SgdArgs& a) {
  const Float lr = Simd::set(a.lr), momentum = Simd::set(a.momentum), decay = Simd::set(a.weight_decay);
  for_vectors(a.count, [&](int64_t i, int64_t count) {
    const Float w = Simd::load(a.w + i, count);
    Float g = Simd::add(Simd::load(a.gradient + i, count), Simd::mul(decay, w));
    if (a.velocity != nullptr) {
      Float v = g;
      if (!a.first_step) v = Simd::add(Simd::mul(momentum, Simd::load(a.velocity + i, count)), g);
      Simd::store(a.velocity + i, v, count);
      g = a.nesterov ? Simd::add(g, Simd::mul(momentum, v)) : v;
    }
    Simd::store(a.w + i, Simd::sub(w, Simd::mul(lr, g)), count);
  });
}

// ---- Pooling
// ----------------------------------------------------------------------------------------------------------

struct Window {
  int64_t begin, end;
};

Window window(int64_t out, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t first = out * stride - pad;
  return {larger(first, 0), smaller(first + kernel, size)};
}

Window adaptive_window(int64_t out, int64_t size, int64_t outs) {
  return {out * size / outs, ((out + 1) * size + outs - 1) / outs};
}

// Calls run(pixel, image, oy, ox) for every output pixel.
template <typename Run>
void for_pixels(int64_t n, int64_t oh, int64_t ow, Run run) {
#pragma omp parallel for schedule(static)
  for (int64_t pixel = 0; pixel < n * oh * ow; ++pixel) run(pixel, pixel / (oh * ow), pixel / ow % oh, pixel % ow);
}

void max_pool(const MaxPoolArgs& a) {
  const PoolShape& s = a.shape;
  for_pixels(s.n, s.oh(), s.ow(), [&](int64_t pixel, int64_t n, int64_t oy, int64_t ox) {
    const Window rows = window(oy, s.h, s.kh, s.stride_h, s.pad_h), cols = window(ox, s.w, s.kw, s.stride_w, s.pad_w);
    const float* plane = a.x + n * s.h * s.w * s.c;
    for_column_vectors(s.c, [&](int64_t c, int64_t count) {
      const int64_t first = rows.begin * s.w + cols.begin;
      Float best = Simd::load(plane + first * s.c + c, count);
      Float index = Simd::set_bits(static_cast<int32_t>(first));
      for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
        for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
          const int64_t at = iy * s.w + ix;
          const Float value = Simd::load(plane + at * s.c + c, count);
          Simd::replace_if_larger(best, index, value, Simd::set_bits(static_cast<int32_t>(at)));
        }
      }
      Simd::store(a.y + pixel * s.c + c, best, count);
      if (a.index != nullptr) Simd::store_bits(a.index + pixel * s.c + c, index, count);
    });
  });
}

void max_pool_backward(const MaxPoolBackwardArgs& a) {
  const PoolShape& s = a.shape;
  const int64_t plane = s.h * s.w * s.c, outs = s.oh() * s.ow() * s.c;
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < s.n; ++n) {
    float* dx = a.dx + n * plane;
    memset(dx, 0, static_cast<size_t>(plane) * sizeof(float));
    for (int64_t i = 0; i < outs; ++i) {
      dx[a.index[n * outs + i] * s.c + i % s.c] += a.dy[n * outs + i];
    }
  }
}

void adaptive_avg_pool(const AdaptiveAvgPoolArgs& a) {
  for_pixels(a.n, a.oh, a.ow, [&](int64_t pixel, int64_t n, int64_t oy, int64_t ox) {
    const Window rows = adaptive_window(oy, a.h, a.oh), cols = adaptive_window(ox, a.w, a.ow);
    const Float weight = Simd::set(1.0f / static_cast<float>((rows.end - rows.begin) * (cols.end - cols.begin)));
    for_column_vectors(a.c, [&](int64_t c, int64_t count) {
      Float sum = Simd::set(0.0f);
      for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
        for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
          sum = Simd::add(sum, Simd::load(a.x + ((n * a.h + iy) * a.w + ix) * a.c + c, count));
        }
      }
      Simd::store(a.y + pixel * a.c + c, Simd::mul(sum, weight), count);
    });
  });
}

void adaptive_avg_pool_backward(const AdaptiveAvgPoolBackwardArgs& a) {
#pragma omp parallel for schedule(static)
  for (int64_t n = 0; n < a.n; ++n) {
    float* dx = a.dx + n * a.h * a.w * a.c;
    memset(dx, 0, static_cast<size_t>(a.h * a.w * a.c) * sizeof(float));
    for (int64_t out = 0; out < a.oh * a.ow; ++out) {
      const Window rows = adaptive_window(out / a.ow, a.h, a.oh), cols = adaptive_window(out % a.ow, a.w, a.ow);
      const Float weight = Simd::set(1.0f / static_cast<float>((rows.end - rows.begin) * (cols.end - cols.begin)));
      for (int64_t iy = rows.begin; iy < rows.end; ++iy) {
        for (int64_t ix = cols.begin; ix < cols.end; ++ix) {
          for_column_vectors(a.c, [&](int64_t c, int64_t count) {
            float* to = dx + (iy * a.w + ix) * a.c + c;
            const Float dy = Simd::load(a.dy + (n * a.oh * a.ow + out) * a.c + c, count);
            Simd::store(to, Simd::add(Simd::load(to, count), Simd::mul(dy, weight)), count);
          });
        }
      }
    }
  }
}
