// What a network takes of a batch, as float32 on the CPU.
#pragma once

#include <vector>

#include "kernels/kernels.h"
#include "luq/data/transform.h"

namespace luq {

inline std::vector<float> finished(const ImageBatch& images) {
  const Tensor values = finish_images(kernels_for({}), images, DType::float32);
  return {values.data<float>(), values.data<float>() + values.numel()};
}

inline std::vector<float> evaluated(const Transform& transform, Transform::Buffers& buffers,
                                    std::span<const uint8_t> image) {
  ImageBatch batch = transform.make_batch(1);
  transform.evaluation(image, buffers, batch, 0);
  return finished(batch);
}

inline std::vector<float> trained(const Transform& transform, Transform::Buffers& buffers,
                                  std::span<const uint8_t> image, const ImageKey& key) {
  ImageBatch batch = transform.make_batch(1);
  transform.training(image, key, buffers, batch, 0);
  return finished(batch);
}

}  // namespace luq
