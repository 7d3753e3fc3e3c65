// Codes for one convolution in its three products, and what these must give for them.
#pragma once

#include "kernels/kernels.h"
#include "luq/core/tensor.h"

namespace luq::bench {

// Random codes, x in uint4, weights in int4, dy in fp4, and room for float32 results, on a device. Scales are 1.
class LayerOperands {
 public:
  LayerOperands(const ConvShape& shape, Device device);

  void forward(const Kernels& kernels);
  void backward_data(const Kernels& kernels);
  void backward_weight(const Kernels& kernels);
  // Runs all three and compares a few results of each with the definition. Throws Error where one differs.
  void check(const Kernels& kernels);

 private:
  ConvShape shape_;
  Tensor x_, w_, dy_;                    // codes, for the check
  Tensor x_there_, w_there_, dy_there_;  // and on the device
  Tensor y_, dx_, dw_;                   // on the device
};

}  // namespace luq::bench
