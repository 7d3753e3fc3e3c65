#include "luq/data/image_batch.h"

#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"
#include "luq/core/error.h"
#include "src/core/floats.h"

namespace luq {

ImageBatch ImageBatch::empty(int64_t images, int64_t height, int64_t width, int64_t channels, Device device) {
  ImageBatch batch;
  batch.pixels = Tensor::pinned({images, height, width, channels}, DType::uint8, device);
  batch.edits = Tensor::pinned({images, image_edit_bytes(channels)}, DType::uint8, device);
  batch.count = images;
  return batch;
}

ImageBatch ImageBatch::of(Tensor pixels, double scale, double shift) {
  if (pixels.shape().rank() != 4 || pixels.dtype() != DType::uint8) {
    fail("[image_batch] expected pixels (N,H,W,C) of uint8, got {} {}", to_string(pixels.dtype()),
         to_string(pixels.shape()));
  }
  ImageBatch batch;
  batch.count = pixels.size(0);
  const int64_t channels = pixels.size(3);
  batch.pixels = std::move(pixels);
  batch.edits = Tensor::empty({batch.count, image_edit_bytes(channels)}, DType::uint8);
  const std::vector<double> scales(static_cast<size_t>(channels), scale), shifts(static_cast<size_t>(channels), shift);
  for (int64_t i = 0; i < batch.count; ++i) batch.set_edit(i, {}, scales, shifts);
  return batch;
}

void ImageBatch::set_edit(int64_t i, const ImageEdit& edit, std::span<const double> scale,
                          std::span<const double> shift) {
  const int64_t channels = pixels.size(3);
  uint8_t* to = edits.data<uint8_t>() + i * image_edit_bytes(channels);
  std::memcpy(to, &edit, sizeof edit);
  std::memcpy(to + sizeof edit, scale.data(), scale.size_bytes());
  std::memcpy(to + sizeof edit + scale.size_bytes(), shift.data(), shift.size_bytes());
}

ImageBatch ImageBatch::part(int64_t from, int64_t images) const {
  if (from < 0 || images < 0 || from + images > count) {
    fail("[image_batch] expected images within 0..{}, got {} from {}", count, images, from);
  }
  ImageBatch taken = *this;
  taken.first += from;
  taken.count = images;
  return taken;
}

ImageBatch ImageBatch::to(Device device) const {
  ImageBatch there = *this;
  there.pixels = pixels.to(device);
  there.edits = edits.to(device);
  return there;
}

Tensor finish_images(const Kernels& kernels, const ImageBatch& images, DType dtype) {
  if (!is_float(dtype)) fail("[finish_images] expected float32 or bfloat16, got {}", to_string(dtype));
  const Tensor& pixels = images.pixels;
  Tensor y = Tensor::empty({images.count, pixels.size(1), pixels.size(2), pixels.size(3)}, dtype, pixels.device());
  kernels.finish_images({.x = pixels.data<uint8_t>(),
                         .n = pixels.size(0),
                         .h = pixels.size(1),
                         .w = pixels.size(2),
                         .c = pixels.size(3),
                         .edits = images.edits.raw(),
                         .mix = images.mix,
                         .first = images.first,
                         .count = images.count,
                         .y = floats(y)});
  return y;
}

}  // namespace luq
