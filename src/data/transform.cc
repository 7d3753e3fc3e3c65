#include "luq/data/transform.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "luq/core/device.h"
#include "luq/core/error.h"
#include "src/data/augment.h"
#include "src/data/random.h"

namespace luq {
namespace {

const std::vector<double> kImageNetMean = {0.485, 0.456, 0.406}, kImageNetStd = {0.229, 0.224, 0.225};

void check_range(const char* key, const std::vector<double>& range) {
  if (range.size() == 2 && range[0] > 0 && range[0] <= range[1] && std::isfinite(range[1])) return;
  fail_user("[loader] {}: expected two positive numbers, the smaller one first, got [{}]", key, fmt::join(range, ", "));
}

bool jitters(const ColorJitterOptions& jitter) {
  return jitter.brightness > 0 || jitter.contrast > 0 || jitter.saturation > 0 || jitter.hue > 0;
}

void check_augmentation(const TransformOptions& options, int64_t channels, const std::string& name) {
  const auto require = [](bool fine, const char* key, const char* expected, double got) {
    if (!fine) fail_user("[loader] {}: expected {}, got {}", key, expected, got);
  };
  const auto in = [](double value, double low, double high) { return value >= low && value <= high; };
  constexpr double kLargest = 1e6;
  const ColorJitterOptions& jitter = options.color_jitter;
  require(in(jitter.brightness, 0, kLargest), "data.augment.color_jitter.brightness", "0..1000000", jitter.brightness);
  require(in(jitter.contrast, 0, kLargest), "data.augment.color_jitter.contrast", "0..1000000", jitter.contrast);
  require(in(jitter.saturation, 0, kLargest), "data.augment.color_jitter.saturation", "0..1000000", jitter.saturation);
  require(in(jitter.hue, 0, 0.5), "data.augment.color_jitter.hue", "0..0.5", jitter.hue);
  require(in(options.lighting, 0, kLargest), "data.augment.lighting", "0..1000000", options.lighting);
  require(in(options.random_erasing, 0, 1), "data.augment.random_erasing", "a probability", options.random_erasing);
  require(in(options.mixup_alpha, 0, kLargest), "data.augment.mixup_alpha", "0..1000000", options.mixup_alpha);
  require(in(options.cutmix_alpha, 0, kLargest), "data.augment.cutmix_alpha", "0..1000000", options.cutmix_alpha);
  const RandAugmentOptions& rand = options.rand_augment;
  require(rand.num_ops >= 0, "data.augment.rand_augment.num_ops", "0 or more", static_cast<double>(rand.num_ops));
  require(in(static_cast<double>(rand.magnitude), 0, kMagnitudeBins - 1), "data.augment.rand_augment.magnitude",
          "0..30", static_cast<double>(rand.magnitude));
  if (rand.num_ops > 0 && options.trivial_augment) {
    fail_user("[loader] data.augment.trivial_augment: expected data.augment.rand_augment.num_ops 0 beside it, got {}",
              rand.num_ops);
  }
  if (channels == 3) return;
  for (const auto& [key, on] : {std::pair{"data.augment.color_jitter", jitters(jitter)},
                                {"data.augment.lighting", options.lighting > 0},
                                {"data.augment.rand_augment", rand.num_ops > 0},
                                {"data.augment.trivial_augment", options.trivial_augment}}) {
    if (on) fail_user("[loader] {}: expected images of 3 channels, got {} with {}", key, name, channels);
  }
}

// Where an image is cut out of its zero-padded self, and whether it is mirrored.
struct Placement {
  int64_t top = 0, left = 0;  // in the padded image: 0..2 pad
  bool flip = false;
};

// All three numbers are always drawn, so that switching the flip on leaves the crops as they are.
Placement draw_placement(const ImageKey& key, int64_t pad, bool flips) {
  RngStream random = image_stream(key, "data:augment");
  const auto places = static_cast<uint32_t>(2 * pad + 1);
  Placement placement;
  placement.top = random.below(places);
  placement.left = random.below(places);
  placement.flip = random.below(2) == 1 && flips;
  return placement;
}

void cut_from_padded(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels, int64_t top, int64_t left,
                     uint8_t* out) {
  // The crop's columns first..last-1 show the image's columns from first + left on; the others are padding.
  const int64_t first = std::clamp<int64_t>(-left, 0, width), last = std::clamp(width - left, first, width);
  const int64_t row_bytes = width * channels;
  std::memset(out, 0, static_cast<size_t>(height * row_bytes));
  for (int64_t y = 0; y < height; ++y) {
    const int64_t source = y + top;
    if (source < 0 || source >= height) continue;
    std::memcpy(out + y * row_bytes + first * channels, pixels + source * row_bytes + (first + left) * channels,
                static_cast<size_t>((last - first) * channels));
  }
}

// The largest reduction whose crop is still no smaller than what it is resized to.
int64_t reduction_of(const Region& region, int64_t size) {
  int64_t reduction = 8;
  while (reduction > 1 && std::min(region.height, region.width) < reduction * size) reduction /= 2;
  return reduction;
}

kernels::ResizeArgs to_resize(const Image& image, int64_t height, int64_t width, uint8_t* out) {
  return {.x = image.pixels(),
          .h = image.height,
          .w = image.width,
          .c = 3,
          .row_bytes = image.row_bytes,
          .oh = height,
          .ow = width,
          .y = out};
}

}  // namespace

Region random_resized_crop(int64_t height, int64_t width, const TransformOptions& options, const ImageKey& key) {
  RngStream random = image_stream(key, "data:random_resized_crop");
  const double low = options.crop_ratio[0], high = options.crop_ratio[1];
  const double area = static_cast<double>(height) * static_cast<double>(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * uniform(random, options.crop_scale[0], options.crop_scale[1]);
    const double ratio = std::exp(uniform(random, std::log(low), std::log(high)));
    const int64_t w = round_to_even(std::sqrt(target * ratio)), h = round_to_even(std::sqrt(target / ratio));
    if (w < 1 || w > width || h < 1 || h > height) continue;
    const int64_t top = random.below(static_cast<uint32_t>(height - h + 1));
    const int64_t left = random.below(static_cast<uint32_t>(width - w + 1));
    return {top, left, h, w};
  }
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  int64_t h = height, w = width;
  if (ratio < low) h = std::clamp<int64_t>(round_to_even(static_cast<double>(width) / low), 1, height);
  if (ratio > high) w = std::clamp<int64_t>(round_to_even(static_cast<double>(height) * high), 1, width);
  return {(height - h) / 2, (width - w) / 2, h, w};
}

Transform::Transform(const DatasetInfo& info, const TransformOptions& options)
    : kernels_(&kernels_for({})),
      options_(options),
      encoded_(info.encoded),
      height_(info.encoded ? options.image_size : info.height),
      width_(info.encoded ? options.image_size : info.width),
      channels_(info.encoded ? 3 : info.channels) {
  if (encoded_) {
    if (options.image_size < 1) fail_user("[loader] data.image_size: expected 1 or more, got {}", options.image_size);
    if (options.eval_resize < options.image_size) {
      fail_user("[loader] data.eval_resize: expected data.image_size ({}) or more, got {}", options.image_size,
                options.eval_resize);
    }
    if (options.pad_crop != 0) {
      fail_user("[loader] data.augment.pad_crop: expected 0 for image files, got {}; random_resized_crop crops them",
                options.pad_crop);
    }
  }
  const int64_t max_pad = std::min(height_, width_);
  if (options.pad_crop < 0 || options.pad_crop > max_pad) {
    fail_user("[loader] data.augment.pad_crop: expected 0..{} for images of {} x {}, got {}", max_pad, height_, width_,
              options.pad_crop);
  }
  if (options.pad_crop > 0 && options.random_resized_crop) {
    fail_user("[loader] data.augment.pad_crop: expected 0 beside data.augment.random_resized_crop, got {}",
              options.pad_crop);
  }
  check_range("data.augment.crop_scale", options.crop_scale);
  if (options.crop_scale[1] > 1)
    fail_user("[loader] data.augment.crop_scale: expected at most 1, got {}", options.crop_scale[1]);
  check_range("data.augment.crop_ratio", options.crop_ratio);
  check_augmentation(options, channels_, info.name);

  mean_ = !options.mean.empty() ? options.mean : info.mean.empty() && encoded_ ? kImageNetMean : info.mean;
  std_ = !options.std.empty() ? options.std : info.std.empty() && encoded_ ? kImageNetStd : info.std;
  for (const auto& [key, values] : {std::pair{"data.augment.mean", &mean_}, std::pair{"data.augment.std", &std_}}) {
    if (static_cast<int64_t>(values->size()) != channels_) {
      fail_user("[loader] {}: expected one value for each of the {} channels of {}, got {}", key, channels_, info.name,
                values->size());
    }
  }
  for (size_t c = 0; c < mean_.size(); ++c) {
    if (!std::isfinite(mean_[c])) fail_user("[loader] data.augment.mean: expected finite values, got {}", mean_[c]);
    if (!std::isfinite(std_[c]) || std_[c] <= 0)
      fail_user("[loader] data.augment.std: expected values above 0, got {}", std_[c]);
    scale_.push_back(1 / (255 * std_[c]));
    shift_.push_back((0.0 - mean_[c]) / std_[c]);
  }
}

Transform::Buffers Transform::make_buffers() const {
  return {.decoder = ImageDecoder({.exif_rotate = options_.exif_rotate}), .decoded = {}, .other = {}};
}

ImageBatch Transform::make_batch(int64_t images, Device device) const {
  return ImageBatch::empty(images, height_, width_, channels_, device);
}

// out: (height_, width_, 3)
void Transform::place_file(std::span<const uint8_t> file, const ImageKey* key, Buffers& buffers, uint8_t* out) const {
  ImageDecoder& decoder = buffers.decoder;
  Image& image = buffers.decoded;
  decoder.open(file);
  const int64_t height = decoder.height(), width = decoder.width();
  if (key != nullptr && options_.random_resized_crop) {
    const Region region = luq::random_resized_crop(height, width, options_, *key);
    decoder.decode(region, image, options_.scaled_decode ? reduction_of(region, height_) : 1);
    kernels_->resize(to_resize(image, height_, width_, out));
    return;
  }
  // As torchvision's Resize and CenterCrop: the longer side is cut to an integer, half pixels round to even. Only what
  // the centre needs is decoded and resized.
  const int64_t size = options_.eval_resize, shorter = std::min(height, width);
  const int64_t new_height = height == shorter ? size : size * height / shorter;
  const int64_t new_width = width == shorter ? size : size * width / shorter;
  const int64_t top = round_to_even(static_cast<double>(new_height - height_) / 2);
  const int64_t left = round_to_even(static_cast<double>(new_width - width_) / 2);
  const auto [first_row, last_row] = kernels::resize_support(height, new_height, top, top + height_);
  const auto [first_column, last_column] = kernels::resize_support(width, new_width, left, left + width_);
  decoder.decode({first_row, first_column, last_row - first_row, last_column - first_column}, image);
  kernels::ResizeArgs args = to_resize(image, height_, width_, out);
  args.rows = {height, new_height, first_row, top};
  args.columns = {width, new_width, first_column, left};
  kernels_->resize(args);
}

void Transform::place_pixels(std::span<const uint8_t> pixels, const ImageKey* key, uint8_t* out) const {
  const int64_t row_bytes = width_ * channels_, size = height_ * row_bytes;
  if (static_cast<int64_t>(pixels.size()) != size) {
    fail("[transform] expected {} bytes of pixels, got {}", size, pixels.size());
  }
  if (key != nullptr && options_.random_resized_crop) {
    const Region region = luq::random_resized_crop(height_, width_, options_, *key);
    kernels_->resize({.x = pixels.data() + region.top * row_bytes + region.left * channels_,
                      .h = region.height,
                      .w = region.width,
                      .c = channels_,
                      .row_bytes = row_bytes,
                      .oh = height_,
                      .ow = width_,
                      .y = out});
  } else if (key != nullptr && options_.pad_crop > 0) {
    const Placement placement = draw_placement(*key, options_.pad_crop, false);
    cut_from_padded(pixels.data(), height_, width_, channels_, placement.top - options_.pad_crop,
                    placement.left - options_.pad_crop, out);
  } else {
    std::memcpy(out, pixels.data(), pixels.size());
  }
}

void Transform::place(std::span<const uint8_t> image, const ImageKey* key, Buffers& buffers, uint8_t* out) const {
  encoded_ ? place_file(image, key, buffers, out) : place_pixels(image, key, out);
}

void Transform::evaluation(std::span<const uint8_t> image, Buffers& buffers, ImageBatch& batch, int64_t at) const {
  place(image, nullptr, buffers, batch.pixels.data<uint8_t>() + at * height_ * width_ * channels_);
  batch.set_edit(at, {}, scale_, shift_);
}

void Transform::training(std::span<const uint8_t> image, const ImageKey& key, Buffers& buffers, ImageBatch& batch,
                         int64_t at) const {
  const Pixels pixels{batch.pixels.data<uint8_t>() + at * height_ * width_ * channels_, height_, width_};
  place(image, &key, buffers, pixels.data);
  bool flip = draw_placement(key, options_.pad_crop, options_.horizontal_flip).flip;
  if (options_.rand_augment.num_ops > 0 || options_.trivial_augment) {
    if (flip) mirror(pixels);
    flip = false;
    rand_augment(options_.rand_augment, key, pixels, buffers.other);
    if (options_.trivial_augment) trivial_augment(key, pixels, buffers.other);
  }
  if (jitters(options_.color_jitter)) color_jitter(options_.color_jitter, key, pixels);
  ImageEdit edit{.flip = flip ? 1 : 0};
  if (options_.random_erasing > 0) {
    const Region erased = draw_erasing(options_.random_erasing, height_, width_, key);
    edit.top = static_cast<int32_t>(erased.top);
    edit.left = static_cast<int32_t>(erased.left);
    edit.height = static_cast<int32_t>(erased.height);
    edit.width = static_cast<int32_t>(erased.width);
  }
  std::vector<double> lit;  // the shift with lighting's noise in it
  if (options_.lighting > 0) {
    const std::array<double, 3> lighting = draw_lighting(options_.lighting, key);
    for (size_t c = 0; c < 3; ++c) lit.push_back((lighting[c] - mean_[c]) / std_[c]);
  }
  batch.set_edit(at, edit, scale_, lit.empty() ? shift_ : lit);
}

}  // namespace luq
