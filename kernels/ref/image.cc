// Images: resampling, and from bytes to floats.
//
// `resize` gives what Pillow's Image.resize(..., BILINEAR) gives, to the bit: a triangle filter as wide as the
// reduction, normalised in double, then rounded to 22 bits behind the point; rows are filtered first and rounded to 8
// bits, then columns. A direction that keeps its size is left out. The reference for the order of its roundings is
// Pillow's src/libImaging/Resample.c.
#include "kernels/ref/image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/tables.h"

namespace luq::kernels {
namespace {

constexpr int32_t kHalf = 1 << (kResizeBits - 1);

struct FilterScratch {
  ResizeAxis axis;  // what the rest was made for
  int64_t taps = 0;
  std::vector<int32_t> first, count, coefficients;
  std::vector<double> weights;
};

struct Reach {  // of one output
  double scale, support;
  Reach(int64_t from, int64_t to)
      : scale(static_cast<double>(from) / static_cast<double>(to)), support(std::max(scale, 1.0)) {}
  double center(int64_t i) const { return (static_cast<double>(i) + 0.5) * scale; }
  int64_t begin(int64_t i) const { return std::max<int64_t>(static_cast<int64_t>(center(i) - support + 0.5), 0); }
  int64_t end(int64_t i, int64_t from) const { return std::min(static_cast<int64_t>(center(i) + support + 0.5), from); }
};

void make_filter(const ResizeAxis& axis, FilterScratch& filter) {
  const Reach reach(axis.from, axis.to);
  const double inverse = 1.0 / reach.support;
  const auto most = static_cast<int64_t>(std::ceil(reach.support)) * 2 + 1;
  filter.first.resize(static_cast<size_t>(axis.outputs));
  filter.count.resize(static_cast<size_t>(axis.outputs));
  filter.weights.resize(static_cast<size_t>(most));
  filter.coefficients.assign(static_cast<size_t>(axis.outputs * most), 0);
  filter.taps = most;
  for (int64_t i = 0; i < axis.outputs; ++i) {
    const int64_t begin = reach.begin(axis.y_begin + i), end = reach.end(axis.y_begin + i, axis.from);
    const double center = reach.center(axis.y_begin + i);
    double sum = 0;
    for (int64_t t = 0; t < end - begin; ++t) {
      const double distance = std::abs((static_cast<double>(t + begin) - center + 0.5) * inverse);
      const double weight = distance < 1.0 ? 1.0 - distance : 0.0;
      filter.weights[static_cast<size_t>(t)] = weight;
      sum += weight;
    }
    int32_t* coefficients = filter.coefficients.data() + i * most;
    for (int64_t t = 0; t < end - begin; ++t) {
      double weight = filter.weights[static_cast<size_t>(t)];
      if (sum != 0) weight /= sum;
      coefficients[t] = static_cast<int32_t>(0.5 + weight * (1 << kResizeBits));
    }
    filter.first[static_cast<size_t>(i)] = static_cast<int32_t>(begin - axis.x_begin);
    filter.count[static_cast<size_t>(i)] = static_cast<int32_t>(end - begin);
  }
  filter.axis = axis;
}

// Whether a pixel lies in the part of an ImageEdit or an ImageMix.
template <typename Part>
bool is_inside(const Part& part, int64_t row, int64_t col) {
  return row >= part.top && row < part.top + part.height && col >= part.left && col < part.left + part.width;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kResizeBits, 0, 255)); }

void resize_rows(const ResizeArgs& a, uint8_t* out) {  // out: (h, ow, c)
  const ResizeFilter filter = resize_filter(resize_columns_axis(a), false);
  for (int64_t y = 0; y < a.h; ++y) {
    for (int64_t x = 0; x < a.ow; ++x) {
      const int32_t* k = filter.coefficients + x * filter.taps;
      const uint8_t* in = a.x + y * a.row_bytes + filter.first[x] * a.c;
      for (int64_t c = 0; c < a.c; ++c) {
        int32_t sum = kHalf;
        for (int64_t t = 0; t < filter.count[x]; ++t) sum += in[t * a.c + c] * k[t];
        *out++ = rounded(sum);
      }
    }
  }
}

void resize_columns(const uint8_t* in, int64_t in_row_bytes, const ResizeArgs& a) {  // in: (h, ow, c)
  const ResizeFilter filter = resize_filter(resize_rows_axis(a), true);
  const int64_t row_bytes = a.ow * a.c;
  for (int64_t y = 0; y < a.oh; ++y) {
    const int32_t* k = filter.coefficients + y * filter.taps;
    for (int64_t i = 0; i < row_bytes; ++i) {
      int32_t sum = kHalf;
      for (int64_t t = 0; t < filter.count[y]; ++t) sum += in[(filter.first[y] + t) * in_row_bytes + i] * k[t];
      a.y[y * row_bytes + i] = rounded(sum);
    }
  }
}

}  // namespace

ResizeAxis resize_rows_axis(const ResizeArgs& a) {
  return {a.rows.from > 0 ? a.rows.from : a.h, a.rows.to > 0 ? a.rows.to : a.oh, a.rows.x_begin, a.rows.y_begin, a.oh};
}

ResizeAxis resize_columns_axis(const ResizeArgs& a) {
  return {a.columns.from > 0 ? a.columns.from : a.w, a.columns.to > 0 ? a.columns.to : a.ow, a.columns.x_begin,
          a.columns.y_begin, a.ow};
}

ResizeSupport resize_support(int64_t from, int64_t to, int64_t begin, int64_t end) {
  if (begin >= end || from == to) return {begin, end};
  const Reach reach(from, to);
  return {reach.begin(begin), reach.end(end - 1, from)};
}

ResizeFilter resize_filter(const ResizeAxis& axis, bool vertical) {
  thread_local FilterScratch scratch[2];
  FilterScratch& filter = scratch[vertical ? 1 : 0];
  if (filter.axis != axis) make_filter(axis, filter);
  return {filter.taps, filter.first.data(), filter.count.data(), filter.coefficients.data()};
}

uint8_t* resize_buffer(int64_t rows, int64_t row_bytes) {
  thread_local std::vector<uint8_t> buffer;
  const auto size = static_cast<size_t>(rows * row_bytes + 64);
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

void ref_resize(const ResizeArgs& a) {
  if (a.h == 0 || a.w == 0 || a.oh == 0 || a.ow == 0) return;
  const ResizeAxis rows = resize_rows_axis(a), columns = resize_columns_axis(a);
  const uint8_t* between = nullptr;  // the columns that are wanted, of all rows of x
  int64_t between_row_bytes = a.row_bytes;
  if (columns.keeps()) {
    between = a.x + columns.shift() * a.c;
  } else {
    between_row_bytes = a.ow * a.c;
    uint8_t* buffer = resize_buffer(a.h, between_row_bytes);
    resize_rows(a, buffer);
    between = buffer;
  }
  if (!rows.keeps()) return resize_columns(between, between_row_bytes, a);
  for (int64_t y = 0; y < a.oh; ++y) {
    std::memcpy(a.y + y * a.ow * a.c, between + (y + rows.shift()) * between_row_bytes,
                static_cast<size_t>(a.ow * a.c));
  }
}

void ref_finish_images(const FinishImagesArgs& a) {
  const ImageMix& mix = a.mix;
  // Gives a value of image i before it is mixed.
  const auto edited = [&a](int64_t i, int64_t row, int64_t col, int64_t c) {
    const ImageEdit& edit = image_edit(a.edits, a.c, i);
    if (is_inside(edit, row, col)) return 0.0f;
    const uint8_t byte = a.x[((i * a.h + row) * a.w + (edit.flip != 0 ? a.w - 1 - col : col)) * a.c + c];
    const double* scales = image_scales(edit);
    return static_cast<float>(std::fma(static_cast<double>(byte), scales[c], scales[a.c + c]));
  };
  const auto finished = [&](int64_t i, int64_t row, int64_t col, int64_t c) {
    const int64_t other = i > 0 ? i - 1 : a.n - 1;
    switch (mix.kind) {
      case ImageMix::Kind::mixup:
        return edited(other, row, col, c) * mix.others + edited(i, row, col, c) * mix.own;
      case ImageMix::Kind::cutmix:
        return edited(is_inside(mix, row, col) ? other : i, row, col, c);
      case ImageMix::Kind::none:
        break;
    }
    return edited(i, row, col, c);
  };
#pragma omp parallel for schedule(static)
  for (int64_t image_row = 0; image_row < a.count * a.h; ++image_row) {
    const int64_t i = a.first + image_row / a.h, row = image_row % a.h;
    for (int64_t at = 0; at < a.w * a.c; ++at) {
      const float value = finished(i, row, at / a.c, at % a.c);
      const int64_t to = image_row * a.w * a.c + at;
      if (a.y.bfloat16) {
        a.y.as<BFloat16>()[to] = to_bfloat16(value);
      } else {
        a.y.as<float>()[to] = value;
      }
    }
  }
}

void add_ref_image(Kernels& table) {
  table.resize = {ref_resize, "ref"};
  table.finish_images = {ref_finish_images, "ref"};
}

}  // namespace luq::kernels
