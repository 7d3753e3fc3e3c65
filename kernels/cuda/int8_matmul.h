// The 4-bit matmuls that are plain matrix products, by somebody else's int8 product: the alternative to our own kernels
// for 1 x 1 convolutions and linear layers, and what these can be compared with on a device.
#pragma once

#include "kernels/cuda/library_shapes.h"
#include "kernels/kernels.h"

namespace luq::kernels::cuda {

// Extents and leading dimensions of these products are multiples of this.
constexpr int64_t kInt8Unit = 16;

// d = a^T b by columns, as MatmulShape says, of int8 in int32, exact, on stream(). All are at multiples of 16 bytes.
struct Int8Product {
  bool (*takes)(const MatmulShape& shape);
  void (*multiply)(const MatmulShape& shape, const int8_t* a, const int8_t* b, int* d, void* workspace);  // if it does
  int64_t workspace_bytes;
  const char* name;
};

// Replaces the 4-bit matmuls of `table`, which stay what runs shapes that are no plain product or that `product` does
// not take, and sums that int32 may not hold. Moments are not taken on the way.
void add_int8_matmuls(Kernels& table, const Int8Product& product);

}  // namespace luq::kernels::cuda
