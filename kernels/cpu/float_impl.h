// Pointwise operations, pooling and the update in vectors of any width. All of them are bound by memory: one pass over
// each operand, shared among threads.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.

#include "kernels/cpu/exp_impl.h"

constexpr int64_t kSmall = 16384;  // elements below which threads cost more than they bring
constexpr int64_t kLanes = Simd::kLanes;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Columns are visited in vectors; a last incomplete one is handled through `count` < kLanes.
template <typename Visit>
void for_column_vectors(int64_t cols, Visit visit) {
  for (int64_t c = 0; c < cols; c += kLanes) visit(c, smaller(cols - c, kLanes));
}

// ---- Pointwise ----------------------------------------------------------------------------------------------------

// Calls run(first element, count) for every `width` elements, a smaller count at most once, at the end.
template <int64_t width, typename Run>
void for_steps(int64_t total, Run run) {
  constexpr int64_t kStep = 8192;
#pragma omp parallel for schedule(static) if (total > kSmall)
  for (int64_t begin = 0; begin < total; begin += kStep) {
    const int64_t end = smaller(begin + kStep, total);
    int64_t i = begin;
    for (; i + width <= end; i += width) run(i, width);
    if (i < end) run(i, end - i);
  }
}

void convert(const ConvertArgs& a) {
  if (a.x.bfloat16) {
    for_steps<kLanes>(
        a.count, [ x = a.x.as<BFloat16>(), y = a.y.as<float>() ](int64_t i, int64_t count)
                     __attribute__((always_inline)) { Simd::store(y + i, Simd::load(x + i, count), count); });
  } else {
    for_steps<kLanes>(
        a.count, [ x = a.x.as<float>(), y = a.y.as<BFloat16>() ](int64_t i, int64_t count)
                     __attribute__((always_inline)) { Simd::store(y + i, Simd::load(x + i, count), count); });
  }
}

template <typename T, bool kCeiling>
void relu_of(const ReluArgs& a) {
  const Float ceiling = Simd::set(a.ceiling);
  const Pair<T> ceilings = Pair<T>::of(ceiling, ceiling);
  for_steps<kPair>(
      a.count, [&, x = a.x.as<T>(), y = a.y.as<T>() ](int64_t i, int64_t count) __attribute__((always_inline)) {
        Pair<T> values = Pair<T>::load(x + i, count);
        if constexpr (kCeiling) {
          values = Pair<T>::of(Simd::min(ceiling, values.first()), Simd::min(ceiling, values.second()));
        }
        values = values.relu();
        values.store(y + i, count);
        if (a.mask == nullptr) return;
        store_mask_bits(a.mask, i, count, kCeiling ? values.nonzero() & values.differing(ceilings) : values.nonzero());
      });
}

void relu(const ReluArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    a.ceiling > 0 ? relu_of<T, true>(a) : relu_of<T, false>(a);
  });
}

void relu_backward(const ReluBackwardArgs& a) {
  with_type(a.dy.bfloat16, [&](auto type) {
    using T = decltype(type);
    for_steps<kPair>(
        a.count, [&a, dy = a.dy.as<T>(), dx = a.dx.as<T>() ](int64_t i, int64_t count) __attribute__((always_inline)) {
          Pair<T>::load(dy + i, count).keep(mask_bits(a.mask, i, count)).store(dx + i, count);
        });
  });
}

void add(const AddArgs& a) {
  with_type(a.a.bfloat16, [&](auto type) {
    using T = decltype(type);
    for_steps<kPair>(
        a.count, [ x = a.a.as<T>(), other = a.b.as<T>(), y = a.y.as<T>() ](
                     int64_t i, int64_t count) __attribute__((always_inline)) {
          const Pair<T> p = Pair<T>::load(x + i, count), q = Pair<T>::load(other + i, count);
          Pair<T>::of(Simd::add(p.first(), q.first()), Simd::add(p.second(), q.second())).store(y + i, count);
        });
  });
}

void gelu(const GeluArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    for_steps<kPair>(
        a.count, [ x = a.x.as<T>(), y = a.y.as<T>() ](int64_t i, int64_t count) __attribute__((always_inline)) {
          const Pair<T> p = Pair<T>::load(x + i, count);
          const Float first = p.first(), second = p.second();
          Pair<T>::of(Simd::mul(first, normal(first).cumulative), Simd::mul(second, normal(second).cumulative))
              .store(y + i, count);
        });
  });
}

// dx = dy (Phi(x) + x phi(x)).
void gelu_backward(const GeluBackwardArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) {
    using T = decltype(type);
    for_steps<kPair>(
        a.count, [ x = a.x.as<T>(), dy = a.dy.as<T>(), dx = a.dx.as<T>() ](
                     int64_t i, int64_t count) __attribute__((always_inline)) {
          const Pair<T> p = Pair<T>::load(x + i, count), q = Pair<T>::load(dy + i, count);
          const auto gradient = [](Float value, Float dy_half) __attribute__((always_inline)) {
            const Normal n = normal(value);
            const Float density = Simd::mul(n.kernel, Simd::set(0.398942280f));
            return Simd::mul(dy_half, Simd::multiply_add(value, density, n.cumulative));
          };
          Pair<T>::of(gradient(p.first(), q.first()), gradient(p.second(), q.second())).store(dx + i, count);
        });
  });
}

void sgd(const SgdArgs& a) {
  const Float lr = Simd::set(a.lr), momentum = Simd::set(a.momentum), decay = Simd::set(a.weight_decay);
  const Float scale = Simd::set(a.gradient_scale);
  for_steps<kLanes>(
      a.count, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const Float w = Simd::load(a.w + i, count);
        Float g = Simd::add(Simd::mul(scale, Simd::load(a.gradient + i, count)), Simd::mul(decay, w));
        if (a.velocity != nullptr) {
          Float v = g;
          if (!a.first_step) v = Simd::add(Simd::mul(momentum, Simd::load(a.velocity + i, count)), g);
          Simd::store(a.velocity + i, v, count);
          g = a.nesterov ? Simd::add(g, Simd::mul(momentum, v)) : v;
        }
        Simd::store(a.w + i, Simd::sub(w, Simd::mul(lr, g)), count);
      });
}

void adamw(const AdamWArgs& a) {
  const double b1 = static_cast<double>(a.beta1), b2 = static_cast<double>(a.beta2), rate = static_cast<double>(a.lr);
  const double t = static_cast<double>(a.step);
  const Float keep = Simd::set(static_cast<float>(1 - rate * static_cast<double>(a.weight_decay)));
  const Float step_size = Simd::set(static_cast<float>(rate / (1 - pow(b1, t))));
  const Float root = Simd::set(static_cast<float>(sqrt(1 - pow(b2, t)))), eps = Simd::set(a.eps);
  const Float to_m = Simd::set(static_cast<float>(1 - b1)), to_v = Simd::set(static_cast<float>(1 - b2));
  const Float beta2 = Simd::set(a.beta2), scale = Simd::set(a.gradient_scale);
  for_steps<kLanes>(
      a.count, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const Float g = Simd::mul(scale, Simd::load(a.gradient + i, count));
        const Float before = Simd::load(a.m + i, count);
        const Float m = Simd::add(before, Simd::mul(to_m, Simd::sub(g, before)));
        const Float v = Simd::add(Simd::mul(beta2, Simd::load(a.v + i, count)), Simd::mul(Simd::mul(to_v, g), g));
        const Float step = Simd::div(Simd::mul(step_size, m), Simd::add(Simd::div(Simd::sqrt(v), root), eps));
        Simd::store(a.m + i, m, count);
        Simd::store(a.v + i, v, count);
        Simd::store(a.w + i, Simd::sub(Simd::mul(keep, Simd::load(a.w + i, count)), step), count);
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

template <typename T>
void max_pool_of(const MaxPoolArgs& a) {
  const PoolShape& s = a.shape;
  const T* x = a.x.as<T>();
  T* y = a.y.as<T>();
  for_pixels(s.n, s.oh(), s.ow(), [&](int64_t pixel, int64_t n, int64_t oy, int64_t ox) {
    const Window rows = window(oy, s.h, s.kh, s.stride_h, s.pad_h), cols = window(ox, s.w, s.kw, s.stride_w, s.pad_w);
    const T* plane = x + n * s.h * s.w * s.c;
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
      Simd::store(y + pixel * s.c + c, best, count);
      if (a.index != nullptr) Simd::store_bits(a.index + pixel * s.c + c, index, count);
    });
  });
}

void max_pool(const MaxPoolArgs& a) {
  with_type(a.x.bfloat16, [&](auto type) { max_pool_of<decltype(type)>(a); });
}

// An input pixel takes the gradients of the windows around it whose maximum it was.
template <typename T>
void max_pool_backward_of(const MaxPoolBackwardArgs& a) {
  const PoolShape& s = a.shape;
  const int64_t oh = s.oh(), ow = s.ow();
  for_pixels(s.n, s.h, s.w, [&](int64_t pixel, int64_t n, int64_t iy, int64_t ix) {
    const auto first = [](int64_t at, int64_t pad, int64_t kernel, int64_t stride) {
      return larger(0, (at + pad - kernel + stride) / stride);
    };
    const auto last = [](int64_t at, int64_t pad, int64_t stride, int64_t out) {
      return smaller(out, (at + pad) / stride + 1);
    };
    const int64_t y_begin = first(iy, s.pad_h, s.kh, s.stride_h), y_end = last(iy, s.pad_h, s.stride_h, oh);
    const int64_t x_begin = first(ix, s.pad_w, s.kw, s.stride_w), x_end = last(ix, s.pad_w, s.stride_w, ow);
    const int32_t at = static_cast<int32_t>(iy * s.w + ix);
    for_column_vectors(s.c, [&](int64_t c, int64_t count) {
      Float sum = Simd::set(0.0f);
      for (int64_t oy = y_begin; oy < y_end; ++oy) {
        for (int64_t ox = x_begin; ox < x_end; ++ox) {
          const int64_t from = ((n * oh + oy) * ow + ox) * s.c + c;
          const uint32_t hit = Simd::equal_bits(a.index + from, at, count);
          sum = Simd::add(sum, Simd::keep(Simd::load(a.dy.as<T>() + from, count), hit));
        }
      }
      Simd::store(a.dx.as<T>() + pixel * s.c + c, sum, count);
    });
  });
}

void max_pool_backward(const MaxPoolBackwardArgs& a) {
  with_type(a.dy.bfloat16, [&](auto type) { max_pool_backward_of<decltype(type)>(a); });
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
