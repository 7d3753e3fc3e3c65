// The three matmuls of a layer over the planes of their operands: y from x and w, dx from dy and w, dw from dy and x.
//
// Two quantised operands are multiplied in integers, each plane of the one with each of the other, and the results are
// added in floats in this order: first operand's planes outside, second's inside. Otherwise quantised operands are
// dequantised and the product is one of floats. A vector of scales leaves the sum only where it lies on the result's
// rows: w's along its first dimension in forward, dy's along its first in backward_data and along its last in
// backward_weight.
#pragma once

#include <optional>
#include <string_view>

#include "luq/core/conv_shape.h"
#include "luq/quant/qtensor.h"

namespace luq {

struct Kernels;

// Planes of codes, or floats where it is not quantised.
struct MatmulOperand {
  QTensor codes;
  Tensor values;

  bool quantized() const { return codes.defined(); }
  // Its values in this type.
  Tensor as_float(const Kernels& kernels, DType dtype) const;
};

inline bool in_integers(const MatmulOperand& a, const MatmulOperand& b) { return a.quantized() && b.quantized(); }

// Mean and biased variance of each channel (C) over all other dimensions.
struct ChannelMoments {
  Tensor mean, variance;
};

// A layer's shape and name, which errors begin with. All three throw Error `[<product>] <layer>: expected ..., got ...`
// for codes of another shape, a plane with a table that is not one of a matmul, a scale that is not finite, or scales
// that cannot leave the sum.
struct Products {
  const Kernels& kernels;
  ConvShape shape;
  std::string_view layer;

  // y = x w + bias; bias (o) float32 or undefined. moments: those of y are wanted, and given where a kernel takes them
  // on the way, which it does for one pair of planes without a bias.
  std::optional<ChannelMoments> forward(const MatmulOperand& x, const MatmulOperand& w, const Tensor& bias,
                                        bool moments, Tensor& y) const;
  // dx = dy w, or, where accumulate is true, which it may be in integers only, dx += dy w.
  void backward_data(const MatmulOperand& dy, const MatmulOperand& w, bool accumulate, Tensor& dx) const;
  // dw = dy^T x, float32.
  void backward_weight(const MatmulOperand& dy, const MatmulOperand& x, Tensor& dw) const;
};

}  // namespace luq
