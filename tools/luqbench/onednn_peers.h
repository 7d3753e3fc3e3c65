// oneDNN's int8 products of the sizes of our 4-bit ones.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "luq/core/conv_shape.h"

namespace luq::bench {

// u8 x s8 -> s32, with operands in the layouts that oneDNN asks for.
struct Peer {
  dnnl::primitive primitive;
  std::unordered_map<int, dnnl::memory> arguments;
  void run();
};

Peer matmul_peer(int64_t rows, int64_t columns, int64_t terms);
Peer conv_peer(const ConvShape& shape);

}  // namespace luq::bench
