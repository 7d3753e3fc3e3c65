// OpenCV's pixels as RGB.
#pragma once

#include "luq/core/error.h"
#include "src/data/image_formats.h"
#include "src/data/opencv_library.h"

namespace luq {

// The region of `from`, whose size must be height x width. convert(sample, c) makes 8 bits of a sample of colour c (0
// red, 1 green, 2 blue); alpha is dropped, grey replicated.
template <typename Convert>
void copy_region(const LuqOpenCvPixels& from, int64_t height, int64_t width, const Region& region, Image& image,
                 const Convert& convert) {
  if (from.height != height || from.width != width || (from.channels != 1 && from.channels < 3)) {
    fail("[image] OpenCV: expected {} x {} pixels of 1, 3 or 4 channels, got {} x {} of {}", height, width, from.height,
         from.width, from.channels);
  }
  image.resize(region.height, region.width);
  const auto copy = [&]<typename Sample>(const Sample*) {
    for (int64_t y = 0; y < region.height; ++y) {
      const auto* in =
          reinterpret_cast<const Sample*>(from.first + static_cast<size_t>(region.top + y) * from.row_bytes) +
          region.left * from.channels;
      uint8_t* out = image.pixels() + y * image.row_bytes;
      for (int64_t x = 0; x < region.width; ++x, in += from.channels) {
        for (int c = 0; c < 3; ++c) *out++ = convert(in[from.channels == 1 ? 0 : 2 - c], c);
      }
    }
  };
  if (from.bits == 8) {
    copy(static_cast<const uint8_t*>(nullptr));
  } else {
    copy(static_cast<const uint16_t*>(nullptr));
  }
}

}  // namespace luq
