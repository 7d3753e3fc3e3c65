// Primitives of oneDNN for parts of a batch, and how they are made.
#pragma once

#include "kernels/cpu/onednn_api.h"
#include "kernels/kernels.h"

namespace luq::kernels::onednn {

enum class Phase { forward, forward_bias, backward_data, backward_weight };

// A primitive and the scratch memory that a call of it wants. Threads may share it.
struct Primitive {
  dnnl::primitive primitive;
  dnnl::memory::desc scratchpad;

  int64_t scratch_bytes() const { return static_cast<int64_t>(scratchpad.get_size()); }
};

// Runs a part of a convolution or of a matrix product.
struct Part {
  Primitive run;
  Primitive
      reorder;  // weights as stored to w, or, of backward_weight, w to the stored ones; empty: w is the stored layout
  dnnl::memory::desc x, w, y, bias;
  dnnl::memory::desc stored;  // the weights as the contract stores them, or, for bfloat16, those values as float32

  bool reorders() const { return static_cast<bool>(reorder.primitive); }
};

const dnnl::engine& engine();

// 1x1 without stride, padding or groups: a product of matrices.
bool is_matrix_product(const ConvShape& s);

// The parts of a call for images in parts of `images`: the last may have fewer. Null where oneDNN got no memory, which
// is noted. They live until the thread asks for many others.
struct Parts {
  const Part* full = nullptr;
  const Part* last = nullptr;
  int64_t images = 0;

  explicit operator bool() const { return last != nullptr; }
  const Part& of(int64_t part_images) const { return part_images == images ? *full : *last; }
  int64_t scratch_bytes() const;
};
Parts parts_for(const ConvShape& s, int64_t images, Phase phase, dnnl::memory::data_type type);

}  // namespace luq::kernels::onednn
