// What is left to do to images of bytes before a network takes them, as plain records that lie beside the bytes.
#pragma once

#include <cstdint>

#include "luq/core/host_device.h"

namespace luq {

// Of one image. In memory its channels' scales and then their shifts follow, as doubles: image_edit_bytes() in all.
struct ImageEdit {
  int32_t flip = 0;                                  // 1: columns from right to left
  int32_t top = 0, left = 0, height = 0, width = 0;  // the part that becomes 0 after normalising; none: height 0
  int32_t unused = 0;                                // so that doubles may follow
};

constexpr int64_t image_edit_bytes(int64_t channels) {
  return static_cast<int64_t>(sizeof(ImageEdit)) + 2 * channels * static_cast<int64_t>(sizeof(double));
}
LUQ_HOST_DEVICE inline const ImageEdit& image_edit(const void* edits, int64_t channels, int64_t index) {
  const auto bytes = static_cast<int64_t>(sizeof(ImageEdit)) + 2 * channels * static_cast<int64_t>(sizeof(double));
  return *reinterpret_cast<const ImageEdit*>(static_cast<const char*>(edits) + index * bytes);
}
// (2, channels): the scales and the shifts.
LUQ_HOST_DEVICE inline const double* image_scales(const ImageEdit& edit) {
  return reinterpret_cast<const double*>(&edit + 1);
}

// A batch mixed with itself: image i with image i - 1, the first one with the last, all alike.
struct ImageMix {
  enum class Kind : uint8_t { none, mixup, cutmix };
  Kind kind = Kind::none;
  float own = 1, others = 0;                         // mixup: other * others + image * own
  int32_t top = 0, left = 0, height = 0, width = 0;  // cutmix: the part that comes from the other image
};

}  // namespace luq
