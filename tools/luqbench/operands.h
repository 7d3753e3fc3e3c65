// Codes for one convolution in its three phases, and what the phases must give for them.
#pragma once

#include "kernels/kernels.h"
#include "luq/core/tensor.h"

namespace luq::bench {

// Random codes, x in uint4, weights in int4, dy in fp4, and room for float32 results, on a device. Scales are 1.
class Operands {
 public:
  Operands(const ConvShape& shape, Device device);

  void forward(const Kernels& kernels);
  void backward_data(const Kernels& kernels);
  void update(const Kernels& kernels);
  // Runs all three and compares a few results of each with the definition. Throws Error where one differs.
  void check(const Kernels& kernels);

 private:
  // The pixel of x that the tap of this pixel of y reads; false outside the image.
  bool meets(int64_t oy, int64_t ox, int64_t ky, int64_t kx, int64_t& iy, int64_t& ix) const;
  int64_t x_at(int64_t n, int64_t iy, int64_t ix, int64_t c) const;
  int64_t w_at(int64_t o, int64_t ky, int64_t kx, int64_t c) const;
  int64_t dy_at(int64_t n, int64_t oy, int64_t ox, int64_t o) const;

  ConvShape shape_;
  Tensor x_, w_, dy_;                    // codes, for the check
  Tensor x_there_, w_there_, dy_there_;  // and on the device
  Tensor y_, dx_, dw_;                   // on the device
};

}  // namespace luq::bench
