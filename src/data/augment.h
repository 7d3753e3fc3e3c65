// Padding, crop, flip and normalisation of one image in a single pass.
#pragma once

#include <cstdint>
#include <vector>

#include "luq/data/loader.h"

namespace luq {

// Where an image is cut out of its zero-padded self, and whether it is mirrored.
struct Placement {
  int64_t top = 0, left = 0;  // of the crop, in the padded image: 0..2 pad_crop
  bool flip = false;          // left to right, after the crop
};

class Augment {
 public:
  // Throws UserError unless pad_crop is in 0..min(height, width) and there is one finite mean and positive std for each
  // channel.
  Augment(const DatasetInfo& info, const AugmentOptions& options);

  // The image in its place, unmirrored.
  Placement centre() const { return {pad_, pad_, false}; }
  // Keyed by (seed, epoch, index), on the stream "data:augment"; index below 2^32. All three numbers are always drawn,
  // so switching the flip on leaves the crops as they are.
  Placement random_placement(uint64_t seed, int64_t epoch, int64_t index) const;
  // pixels: (height, width, channels) uint8; out: the same shape, (value / 255 - mean) / std, padding being value 0.
  void apply(const uint8_t* pixels, const Placement& placement, float* out) const;

 private:
  int64_t height_, width_, channels_, pad_;
  bool flip_;
  std::vector<float> table_;  // (channels, 256): normalised value of each pixel value
};

}  // namespace luq
