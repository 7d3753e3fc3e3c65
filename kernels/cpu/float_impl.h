// Pointwise operations, pooling and the update in vectors of any width. All of them are bound by memory: one pass over
// each operand, shared among threads.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.

constexpr int64_t kSmall = 16384;  // elements below which threads cost more than they bring
using Float = typename Simd::Float;
constexpr int64_t kLanes = Simd::kLanes;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Columns are visited in vectors; a last incomplete one is handled through `count` < kLanes.
template <typename Visit>
void for_column_vectors(int64_t cols, Visit visit) {
  for (int64_t c = 0; c < cols; c += kLanes) visit(c, smaller(cols - c, kLanes));
}

// ---- Pointwise ----------------------------------------------------------------------------------------------------

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

// ---- Pooling ------------------------------------------------------------------------------------------------------

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
