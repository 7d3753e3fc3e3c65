// Images of bytes with what is still to be done to them: a quarter of the memory that floats take, on their way through
// the loader and to a device.
#pragma once

#include <span>

#include "luq/core/image_edit.h"
#include "luq/core/tensor.h"

namespace luq {

struct Kernels;

struct ImageBatch {
  Tensor pixels;  // (N, H, W, C) uint8
  Tensor edits;   // (N, image_edit_bytes(C)) uint8, see luq/core/image_edit.h
  ImageMix mix = {};
  // The images that are meant, of the N; what is mixed into them may lie outside.
  int64_t first = 0, count = 0;

  // N images whose pixels and edits are undefined, in memory that copies to `device` may leave from (Tensor::pinned).
  static ImageBatch empty(int64_t images, int64_t height, int64_t width, int64_t channels, Device device = {});
  // Pixels (N, H, W, C) of which value * scale + shift is taken.
  static ImageBatch of(Tensor pixels, double scale, double shift);

  // Of image i. scale and shift: a value for each channel.
  void set_edit(int64_t i, const ImageEdit& edit, std::span<const double> scale, std::span<const double> shift);
  // The same with fewer images meant; shares the memory. Throws Error when they are not among these.
  ImageBatch part(int64_t first, int64_t count) const;
  // The same with the memory on a device.
  ImageBatch to(Device device) const;
};

// What a network takes: (count, H, W, C) in dtype, on the images' device, whose kernels these are. Pixels are
// normalised in double and rounded to float32, erased, mixed in float32, and rounded to bfloat16 where that is wanted.
// Throws Error when dtype is not float32 or bfloat16.
Tensor finish_images(const Kernels& kernels, const ImageBatch& images, DType dtype);

}  // namespace luq
