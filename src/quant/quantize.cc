#include "luq/quant/quantize.h"

#include "luq/core/error.h"
#include "src/core/floats.h"

namespace luq {
namespace {

bool unsigned_grid(const QuantSpec& spec, bool non_negative) {
  return spec.format == Format::uint4 || (spec.format == Format::int4 && non_negative);
}

Stats statistics(const Kernels& kernels, const Tensor& x, const std::optional<Stats>& known, std::string_view where) {
  Stats stats;
  if (known) {
    stats = *known;
  } else {
    kernels.stats({.x = floats(x), .count = x.numel(), .stats = &stats});
  }
  if (!kernels::stats_finite(stats)) {
    fail(
        "[quantize] {}: expected finite values, got NaN or infinity in a tensor of shape {}; after some steps of "
        "training a lower optimizer.lr may help, before them look at the data and at model.weights",
        where, to_string(x.shape()));
  }
  return stats;
}

}  // namespace

float quantization_scale(const Kernels& kernels, const Tensor& x, const QuantSpec& spec, bool non_negative,
                         std::string_view where, const std::optional<Stats>& known) {
  if (!is_4bit(spec.format)) fail("[quantize] {}: expected a 4-bit format, got float32", where);
  const Stats stats = statistics(kernels, x, known, where);
  float scale = 0;
  if (spec.format == Format::fp4) {
    scale = kernels::fp4_alpha(kernels::stats_max(stats));
  } else {
    const bool grid = unsigned_grid(spec, non_negative);
    scale = kernels::integer_scale(kernels::integer_clip(stats, spec.scale_method, grid), spec.scale_method, grid);
  }
  return kernels::invert_scale(scale) == 0.0f ? 0.0f : scale;
}

bool takes_statistics_together(const Kernels& kernels) { return bool(kernels.stats_many); }

std::unordered_map<const void*, Stats> statistics_of(const Kernels& kernels, const std::vector<Tensor>& tensors) {
  if (!takes_statistics_together(kernels)) fail("[quantize] these kernels take the statistics of one tensor at a time");
  std::unordered_map<const void*, Stats> statistics;
  std::vector<kernels::StatsArgs> wanted;
  for (const Tensor& x : tensors) {
    wanted.push_back({.x = x.data<float>(), .count = x.numel(), .stats = &statistics[x.raw()]});
  }
  kernels.stats_many({.tensors = wanted.data(), .count = static_cast<int64_t>(wanted.size())});
  return statistics;
}

QTensor quantize(const Kernels& kernels, const Tensor& x, const QuantSpec& spec, bool non_negative, const RngKey& key,
                 std::string_view where, std::optional<float> scale, const std::optional<Stats>& known) {
  QTensor q;
  q.shape = x.shape().rank() == 0 ? Shape{1} : x.shape();
  q.format = unsigned_grid(spec, non_negative) ? Format::uint4 : spec.format;
  q.scale = scale ? *scale : quantization_scale(kernels, x, spec, non_negative, where, known);
  const float inverse = kernels::invert_scale(q.scale);
  if (inverse == 0.0f) q.scale = 0.0f;
  q.codes = Tensor::empty({q.rows() * packed_row_bytes(q.cols())}, DType::uint8, x.device());
  if (q.format == Format::fp4) {
    kernels.encode_fp4({.x = floats(x),
                        .rows = q.rows(),
                        .cols = q.cols(),
                        .inverse_alpha = inverse,
                        .rounding = spec.rounding,
                        .key = key,
                        .codes = q.codes.data<uint8_t>()});
  } else {
    kernels.encode_int({.x = floats(x),
                        .rows = q.rows(),
                        .cols = q.cols(),
                        .inverse_scale = inverse,
                        .format = q.format,
                        .rounding = spec.rounding,
                        .key = key,
                        .codes = q.codes.data<uint8_t>()});
  }
  return q;
}

Tensor dequantize(const Kernels& kernels, const QTensor& q) {
  Tensor x = Tensor::empty(q.shape, DType::float32, q.codes.device());
  kernels.decode({.codes = q.codes.data<uint8_t>(),
                  .rows = q.rows(),
                  .cols = q.cols(),
                  .format = q.format,
                  .scale = q.scale,
                  .x = x.data<float>()});
  return x;
}

}  // namespace luq
