// From an image of a data set, a JPEG or PNG file or pixels, to bytes of the size that a network takes, with what is
// left to do to them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "luq/data/dataset.h"
#include "luq/data/image.h"
#include "luq/data/image_batch.h"

namespace luq {

struct Kernels;

struct ColorJitterOptions {                             // torchvision's ColorJitter; each is off at 0
  double brightness = 0, contrast = 0, saturation = 0;  // factors of 1 - x .. 1 + x, from 0 on
  double hue = 0;                                       // -x .. x turns of the colour circle, at most 0.5
};

struct RandAugmentOptions {  // torchvision's RandAugment with 31 bins
  int64_t num_ops = 0;       // 0: off
  int64_t magnitude = 9;     // 0..30
};

struct TransformOptions {
  // Image files.
  int64_t image_size = 224;    // height and width of what the network takes
  int64_t eval_resize = 256;   // evaluation: the shorter side is resized to this, then the centre is cut out
  bool exif_rotate = false;    // turn as the EXIF orientation tag says
  bool scaled_decode = false;  // training: large crops of JPEG files are decoded at 1/2, 1/4 or 1/8
  // Training, in the order in which they are applied.
  bool random_resized_crop = false;                         // otherwise files are placed as in evaluation
  std::vector<double> crop_scale = {0.08, 1.0};             // of the area
  std::vector<double> crop_ratio = {3.0 / 4.0, 4.0 / 3.0};  // width / height
  int64_t pad_crop = 0;          // sets of pixels: zero padding, then a random crop of the original size
  bool horizontal_flip = false;  // with probability 1/2
  RandAugmentOptions rand_augment = {};
  bool trivial_augment = false;  // torchvision's TrivialAugmentWide
  ColorJitterOptions color_jitter = {};
  double lighting = 0;  // standard deviation of AlexNet's noise along ImageNet's principal colours
  std::vector<double> mean = {},
                      std = {};  // per channel, of values in 0..1; empty: the data set's, for files ImageNet's
  double random_erasing = 0;     // probability of torchvision's RandomErasing
  // Of whole batches, in training; one of the two at random where both are on.
  double mixup_alpha = 0, cutmix_alpha = 0;  // of Beta(alpha, alpha); 0: off
};

// What the random numbers of an image's augmentation depend on, all of them.
struct ImageKey {
  uint64_t seed = 0;
  int64_t epoch = 0;
  int64_t index = 0;  // of the image in its data set, below 2^32
};

class Transform {
 public:
  // What one thread needs, kept from image to image.
  struct Buffers {
    ImageDecoder decoder;
    Image decoded;
    std::vector<uint8_t> other;
  };

  // Throws UserError `[loader] ...` for options out of range and for those that the data set does not allow.
  Transform(const DatasetInfo& info, const TransformOptions& options);

  // Of what the network takes.
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int64_t channels() const { return channels_; }

  Buffers make_buffers() const;
  // To be filled: `images` of them, for `device`.
  ImageBatch make_batch(int64_t images, Device device = {}) const;
  // image: the bytes of a file where info.encoded, else the pixels (height, width, channels). It becomes image `at` of
  // the batch: finish_images() makes (value / 255 - mean) / std of it. Throws Error `[image] ...` for a broken file.
  void evaluation(std::span<const uint8_t> image, Buffers& buffers, ImageBatch& batch, int64_t at) const;
  // The same with augmentation. Each of its kinds has a stream of random numbers of its own, so that switching one on
  // leaves the others as they are.
  void training(std::span<const uint8_t> image, const ImageKey& key, Buffers& buffers, ImageBatch& batch,
                int64_t at) const;

 private:
  void place(std::span<const uint8_t> image, const ImageKey* key, Buffers& buffers, uint8_t* out) const;
  void place_file(std::span<const uint8_t> file, const ImageKey* key, Buffers& buffers, uint8_t* out) const;
  void place_pixels(std::span<const uint8_t> pixels, const ImageKey* key, uint8_t* out) const;

  const Kernels* kernels_;
  TransformOptions options_;
  bool encoded_;
  int64_t height_, width_, channels_;
  std::vector<double> mean_, std_;
  std::vector<double> scale_, shift_;  // of bytes: value * scale + shift is (value / 255 - mean) / std
};

// torchvision's RandomResizedCrop of an image: ten tries, then a crop of its centre.
Region random_resized_crop(int64_t height, int64_t width, const TransformOptions& options, const ImageKey& key);

}  // namespace luq
