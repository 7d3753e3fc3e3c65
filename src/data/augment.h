// Operations on RGB pixels, as torchvision's transforms do them on PIL images, and the random choice among them.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "luq/data/transform.h"

namespace luq {

struct Pixels {
  uint8_t* data = nullptr;  // (height, width, 3)
  int64_t height = 0, width = 0;
  int64_t size() const { return height * width * 3; }
};

// factor 1 keeps the image, 0 gives black, the mean grey, the image in grey; up to any size.
void adjust_brightness(const Pixels& image, double factor);
void adjust_contrast(const Pixels& image, double factor);
void adjust_saturation(const Pixels& image, double factor);
// factor: turns of the colour circle, -0.5..0.5.
void adjust_hue(const Pixels& image, double factor);
void mirror(const Pixels& image);

// The operations of RandAugment and TrivialAugmentWide, in torchvision's order.
enum class AugmentOp {
  identity,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  rotate,
  brightness,
  color,
  contrast,
  sharpness,
  posterize,
  solarize,
  autocontrast,
  equalize
};
constexpr int kAugmentOps = 14;
constexpr int kMagnitudeBins = 31;

// magnitude: as torchvision's _apply_op takes it (a slope, pixels, degrees, a factor less 1, bits, a threshold);
// scratch is kept by the caller. What comes from outside the image is black.
void apply(AugmentOp op, double magnitude, const Pixels& image, std::vector<uint8_t>& scratch);

// The magnitude of a bin, in 0..30, before its sign is drawn.
double rand_augment_magnitude(AugmentOp op, int64_t bin, int64_t height, int64_t width);
double trivial_augment_magnitude(AugmentOp op, int64_t bin);
bool is_signed(AugmentOp op);

void rand_augment(const RandAugmentOptions& options, const ImageKey& key, const Pixels& image,
                  std::vector<uint8_t>& scratch);
void trivial_augment(const ImageKey& key, const Pixels& image, std::vector<uint8_t>& scratch);
void color_jitter(const ColorJitterOptions& options, const ImageKey& key, const Pixels& image);
// What AlexNet's noise adds to red, green and blue in 0..1.
std::array<double, 3> draw_lighting(double deviation, const ImageKey& key);
// The part to set to 0; empty (height 0) where nothing is erased.
Region draw_erasing(double probability, int64_t height, int64_t width, const ImageKey& key);

}  // namespace luq
