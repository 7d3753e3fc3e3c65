#include "luq/quant/products.h"

#include <cmath>

#include "luq/core/convert.h"
#include "luq/core/error.h"
#include "luq/quant/quantize.h"
#include "src/core/floats.h"

namespace luq {
namespace {

// A named operand of a product, and how many rows and columns its shape has.
struct Side {
  const char* name;
  const MatmulOperand& operand;
  int64_t rows, cols;
  // In integers: the axis of scales that leave the sum, and the result's extent along it; 0: none do.
  Plane::Axis axis = Plane::Axis::first;
  int64_t extent = 0;
};

Side x_side(const ConvShape& s, const MatmulOperand& x) { return {"x", x, s.n * s.h * s.w, s.c}; }
Side w_side(const ConvShape& s, const MatmulOperand& w, int64_t scales = 0) {
  return {"w", w, s.o * s.kh * s.kw, s.c_group(), Plane::Axis::first, scales};
}
Side dy_side(const ConvShape& s, const MatmulOperand& dy, Plane::Axis axis, int64_t scales) {
  return {"dy", dy, s.n * s.oh() * s.ow(), s.o, axis, scales};
}

void check(const char* product, std::string_view layer, const Side& side, bool integers) {
  const auto refuse = [&](const std::string& expected) {
    fail("[{}] {}: {}: expected {}", product, layer, side.name, expected);
  };
  const QTensor& codes = side.operand.codes;
  for (const Plane& plane : codes.planes) {
    const int64_t bytes = side.rows * packed_row_bytes(side.cols);
    if (codes.shape.numel() != side.rows * side.cols || codes.cols() != side.cols || plane.codes.numel() != bytes) {
      refuse(fmt::format("{} rows of {} in {} bytes of codes, got a shape of {} in {}", side.rows, side.cols, bytes,
                         to_string(codes.shape), plane.codes.numel()));
    }
    if (const std::string problem = problem_of(plane.table); !problem.empty()) refuse(problem);
    if (!std::isfinite(plane.scale)) refuse(fmt::format("a finite scale, got {}", plane.scale));
    if (!plane.scales.defined() || !integers) continue;
    if (side.extent == 0 || plane.axis != side.axis) {
      refuse(fmt::format("no scales along its {} dimension, which lie inside the sums of this product",
                         plane.axis == Plane::Axis::first ? "first" : "last"));
    }
    if (plane.scales.dtype() != DType::float32 || plane.scales.numel() != side.extent) {
      refuse(fmt::format("{} scales of float32, got {} of {}", side.extent, plane.scales.numel(),
                         to_string(plane.scales.dtype())));
    }
  }
}

// True when both are quantised. Throws where one of them cannot be an operand of the product.
bool check_operands(const char* product, std::string_view layer, const Side& a, const Side& b) {
  const bool integers = in_integers(a.operand, b.operand);
  check(product, layer, a, integers);
  check(product, layer, b, integers);
  return integers;
}

// Calls run(plane of a, plane of b, scale, scales, is the first pair) for each pair.
template <typename Run>
void for_pairs(const MatmulOperand& a, const MatmulOperand& b, Run run) {
  bool first = true;
  for (const Plane& left : a.codes.planes) {
    for (const Plane& right : b.codes.planes) {
      const Tensor& scales = left.scales.defined() ? left.scales : right.scales;
      run(left, right, left.scale * right.scale, scales.defined() ? scales.data<float>() : nullptr, first);
      first = false;
    }
  }
}

}  // namespace

Tensor MatmulOperand::as_float(const Kernels& kernels, DType dtype) const {
  return convert(kernels, quantized() ? dequantize(kernels, codes) : values, dtype);
}

std::optional<ChannelMoments> Products::forward(const MatmulOperand& x, const MatmulOperand& w, const Tensor& bias,
                                                bool moments, Tensor& y) const {
  const float* added = bias.defined() ? bias.data<float>() : nullptr;
  if (!check_operands("forward", layer, x_side(shape, x), w_side(shape, w, shape.o))) {
    const Tensor x_float = x.as_float(kernels, y.dtype()), w_float = w.as_float(kernels, DType::float32);
    kernels.conv_forward(
        {.shape = shape, .x = floats(x_float), .w = w_float.data<float>(), .bias = added, .y = floats(y)});
    return {};
  }
  std::optional<ChannelMoments> taken;
  const bool one_pair = x.codes.planes.size() == 1 && w.codes.planes.size() == 1;
  for_pairs(x, w, [&](const Plane& x_plane, const Plane& w_plane, float scale, const float* scales, bool first) {
    const kernels::QConvForwardArgs args{.shape = shape,
                                         .x = x_plane.codes.data<uint8_t>(),
                                         .x_table = x_plane.table,
                                         .w = w_plane.codes.data<uint8_t>(),
                                         .w_table = w_plane.table,
                                         .scale = scale,
                                         .scales = scales,
                                         .bias = first ? added : nullptr,
                                         .accumulate = !first,
                                         .y = floats(y),
                                         .sums = nullptr};
    if (moments && one_pair && added == nullptr && scales == nullptr && kernels.qconv_forward_moments) {
      const auto channels = [&] { return Tensor::empty({shape.o}, DType::float32, y.device()); };
      ChannelMoments into{channels(), channels()};
      const kernels::QConvForwardMomentsArgs with{args, into.mean.data<float>(), into.variance.data<float>()};
      if (with.fit()) {
        kernels.qconv_forward_moments(with);
        taken = std::move(into);
        return;
      }
    }
    kernels.qconv_forward(args);
  });
  return taken;
}

void Products::backward_data(const MatmulOperand& dy, const MatmulOperand& w, bool accumulate, Tensor& dx) const {
  if (!check_operands("backward_data", layer, dy_side(shape, dy, Plane::Axis::first, shape.n), w_side(shape, w))) {
    if (accumulate) fail("[backward_data] {}: expected codes of both operands to add to dx, got floats", layer);
    const Tensor dy_float = dy.as_float(kernels, dx.dtype()), w_float = w.as_float(kernels, DType::float32);
    kernels.conv_backward_data({.shape = shape, .dy = floats(dy_float), .w = w_float.data<float>(), .dx = floats(dx)});
    return;
  }
  for_pairs(dy, w, [&](const Plane& dy_plane, const Plane& w_plane, float scale, const float* scales, bool first) {
    kernels.qconv_backward_data({.shape = shape,
                                 .dy = dy_plane.codes.data<uint8_t>(),
                                 .dy_table = dy_plane.table,
                                 .w = w_plane.codes.data<uint8_t>(),
                                 .w_table = w_plane.table,
                                 .scale = scale,
                                 .scales = scales,
                                 .accumulate = accumulate || !first,
                                 .dx = floats(dx),
                                 .sums = nullptr});
  });
}

void Products::backward_weight(const MatmulOperand& dy, const MatmulOperand& x, Tensor& dw) const {
  if (!check_operands("backward_weight", layer, dy_side(shape, dy, Plane::Axis::last, shape.o), x_side(shape, x))) {
    const bool bfloat16 = !dy.quantized() && !x.quantized() && dy.values.dtype() == DType::bfloat16;
    const DType dtype = bfloat16 ? DType::bfloat16 : DType::float32;
    const Tensor dy_float = dy.as_float(kernels, dtype), x_float = x.as_float(kernels, dtype);
    kernels.conv_backward_weight(
        {.shape = shape, .dy = floats(dy_float), .x = floats(x_float), .dw = dw.data<float>()});
    return;
  }
  for_pairs(dy, x, [&](const Plane& dy_plane, const Plane& x_plane, float scale, const float* scales, bool first) {
    kernels.qconv_backward_weight({.shape = shape,
                                   .dy = dy_plane.codes.data<uint8_t>(),
                                   .dy_table = dy_plane.table,
                                   .x = x_plane.codes.data<uint8_t>(),
                                   .x_table = x_plane.table,
                                   .scale = scale,
                                   .scales = scales,
                                   .accumulate = !first,
                                   .dw = dw.data<float>(),
                                   .sums = nullptr});
  });
}

}  // namespace luq
