#include "luq/quant/quantize.h"

#include <algorithm>
#include <cmath>

#include "luq/core/error.h"
#include "src/core/floats.h"

namespace luq {
namespace {

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

void check_spec(const QuantSpec& spec, std::string_view where) {
  if (!spec.format.quantized()) fail("[quantize] {}: expected a 4-bit format, got float32", where);
  const std::string problem = problem_of(spec);
  if (!problem.empty()) fail_user("[quantize] {}: {}", where, problem);
}

// 0 in place of a scale that is too small to invert.
float usable_scale(float scale, std::string_view where) {
  if (!std::isfinite(scale) || scale < 0) {
    fail("[quantize] {}: expected a finite scale of at least 0, got {}", where, scale);
  }
  return kernels::invert_scale(scale) == 0.0f ? 0.0f : scale;
}

// Writes the plane's values to x, or adds them to it.
void add_plane(const Kernels& kernels, const QTensor& q, const Plane& plane, bool accumulate, Tensor& x) {
  kernels::DecodeArgs args{.codes = plane.codes.data<uint8_t>(),
                           .rows = q.rows(),
                           .cols = q.cols(),
                           .table = plane.table,
                           .scale = plane.scale,
                           .accumulate = accumulate,
                           .x = x.data<float>()};
  if (!plane.scales.defined()) return kernels.decode(args);
  const int64_t extent = plane.axis == Plane::Axis::last ? q.cols() : q.shape[0];
  if (plane.scales.dtype() != DType::float32 || plane.scales.numel() != extent) {
    fail("[dequantize] expected {} scales of float32 for a tensor of shape {}, got {} of {}", extent,
         to_string(q.shape), plane.scales.numel(), to_string(plane.scales.dtype()));
  }
  Tensor integers = Tensor::empty(q.shape, DType::float32, x.device());
  args.scale = 1;
  args.accumulate = false;
  args.x = integers.data<float>();
  kernels.decode(args);
  const Tensor from = integers.to({}), scales = plane.scales.to({});
  Tensor sum = accumulate ? x.to({}).clone() : Tensor::zeros(q.shape);
  const int64_t block = plane.axis == Plane::Axis::last ? 1 : q.shape.numel() / std::max<int64_t>(q.shape[0], 1);
  for (int64_t i = 0; i < sum.numel(); ++i) {
    const float scale = plane.scale * scales.data<float>()[i / block % scales.numel()];
    sum.data<float>()[i] += scale * from.data<float>()[i];
  }
  x.copy_from(sum);
}

}  // namespace

std::string problem_of(const QuantSpec& spec) {
  if (!is_registered(spec.format)) {
    const char* name = to_string(spec.format);
    return fmt::format("expected a registered format, got {}", name != nullptr ? name : "one without a name");
  }
  if (!spec.format.quantized() || spec.format.has(spec.scale_method)) return "";
  return fmt::format("expected the scale method max for {}, which has no other, got {}", to_string(spec.format),
                     to_string(spec.scale_method));
}

float quantization_scale(const Kernels& kernels, const Tensor& x, const QuantSpec& spec, bool non_negative,
                         std::string_view where, const std::optional<Stats>& known) {
  check_spec(spec, where);
  const Stats stats = statistics(kernels, x, known, where);
  const Format format = spec.format.of(non_negative);
  const bool unsigned_grid = !format.is_signed();
  const float clip = kernels::clip_of(stats, spec.scale_method, unsigned_grid);
  return usable_scale(kernels::grid_scale(format.grid(), clip, spec.scale_method, unsigned_grid), where);
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
  check_spec(spec, where);
  QTensor q;
  q.shape = x.shape().rank() == 0 ? Shape{1} : x.shape();
  q.format = spec.format.of(non_negative);
  q.scale = scale ? usable_scale(*scale, where) : quantization_scale(kernels, x, spec, non_negative, where, known);
  Tensor codes = Tensor::empty({q.rows() * packed_row_bytes(q.cols())}, DType::uint8, x.device());
  kernels.encode({.x = floats(x),
                  .rows = q.rows(),
                  .cols = q.cols(),
                  .grid = q.format.grid(),
                  .inverse_scale = kernels::invert_scale(q.scale),
                  .rounding = spec.rounding,
                  .key = key,
                  .codes = codes.data<uint8_t>()});
  const FormatRow& row = q.format.row();
  for (int i = 0; i < row.planes; ++i) {
    q.planes.push_back({.codes = codes, .table = row.plane[i].table, .scale = q.scale * row.plane[i].factor});
  }
  return q;
}

Tensor dequantize(const Kernels& kernels, const QTensor& q) {
  Tensor x = Tensor::empty(q.shape, DType::float32, q.planes[0].codes.device());
  for (const Plane& plane : q.planes) add_plane(kernels, q, plane, &plane != &q.planes[0], x);
  return x;
}

}  // namespace luq
