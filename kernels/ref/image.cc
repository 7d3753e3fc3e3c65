// Images: resampling and normalisation.
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
  int64_t inputs = 0, outputs = 0;  // what the rest was made for
  int64_t taps = 0;
  std::vector<int32_t> first, count, coefficients;
  std::vector<double> weights;
};

void make_filter(int64_t inputs, int64_t outputs, FilterScratch& filter) {
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double support = std::max(scale, 1.0), inverse = 1.0 / support;
  const auto most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  filter.first.resize(static_cast<size_t>(outputs));
  filter.count.resize(static_cast<size_t>(outputs));
  filter.weights.resize(static_cast<size_t>(most));
  filter.coefficients.assign(static_cast<size_t>(outputs * most), 0);
  filter.taps = most;
  for (int64_t i = 0; i < outputs; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t end = std::min(static_cast<int64_t>(center + support + 0.5), inputs);
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
    filter.first[static_cast<size_t>(i)] = static_cast<int32_t>(begin);
    filter.count[static_cast<size_t>(i)] = static_cast<int32_t>(end - begin);
  }
  filter.inputs = inputs;
  filter.outputs = outputs;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kResizeBits, 0, 255)); }

void resize_rows(const ResizeArgs& a, uint8_t* out) {  // out: (h, ow, c)
  const ResizeFilter filter = resize_filter(a.w, a.ow, false);
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
  const ResizeFilter filter = resize_filter(a.h, a.oh, true);
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

ResizeFilter resize_filter(int64_t inputs, int64_t outputs, bool vertical) {
  thread_local FilterScratch scratch[2];
  FilterScratch& filter = scratch[vertical ? 1 : 0];
  if (filter.inputs != inputs || filter.outputs != outputs) make_filter(inputs, outputs, filter);
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
  if (a.oh == a.h && a.ow == a.w) {
    for (int64_t y = 0; y < a.h; ++y) {
      std::memcpy(a.y + y * a.w * a.c, a.x + y * a.row_bytes, static_cast<size_t>(a.w * a.c));
    }
  } else if (a.oh == a.h) {
    resize_rows(a, a.y);
  } else if (a.ow == a.w) {
    resize_columns(a.x, a.row_bytes, a);
  } else {
    uint8_t* between = resize_buffer(a.h, a.ow * a.c);
    resize_rows(a, between);
    resize_columns(between, a.ow * a.c, a);
  }
}

void ref_normalize(const NormalizeArgs& a) {
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t col = 0; col < a.cols; ++col) {
      const uint8_t* x = a.x + (row * a.cols + (a.flip ? a.cols - 1 - col : col)) * a.c;
      float* y = a.y + (row * a.cols + col) * a.c;
      for (int64_t c = 0; c < a.c; ++c)
        y[c] = static_cast<float>(std::fma(static_cast<double>(x[c]), a.scale[c], a.shift[c]));
    }
  }
}

void add_ref_image(Kernels& table) {
  table.resize = {ref_resize, "ref"};
  table.normalize = {ref_normalize, "ref"};
}

}  // namespace luq::kernels
