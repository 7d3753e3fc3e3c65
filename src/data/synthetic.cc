// Streams (core/rng.h): "data:synthetic:pattern" at step = class; "data:synthetic:train" and "data:synthetic:test" at
// step = index of the image. All arithmetic is in integers, so the images are the same everywhere.
#include "src/data/synthetic.h"

#include <algorithm>

#include "luq/core/error.h"
#include "luq/core/rng.h"

namespace luq {
namespace {

constexpr int64_t grid = 4;  // control points per side of a pattern
constexpr int noise = 48;    // pixels are pattern +- noise
constexpr int lowest = noise, highest = 255 - noise;

void check_range(const char* key, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    fail_user("[data] synthetic: {}: expected {}..{}, got {}", key, low, high, value);
  }
}

class SyntheticDataset : public Dataset {
 public:
  SyntheticDataset(Split split, const SyntheticOptions& options)
      : seed_(options.seed), stream_(split == Split::train ? "data:synthetic:train" : "data:synthetic:test") {
    info_.name = "synthetic";
    info_.images = split == Split::train ? options.train_images : options.test_images;
    info_.height = info_.width = options.image_size;
    info_.channels = options.channels;
    info_.num_classes = options.num_classes;
    // The mean of pattern and noise, and nearly their standard deviation.
    info_.mean.assign(static_cast<size_t>(options.channels), 0.5);
    info_.std.assign(static_cast<size_t>(options.channels), 0.16);
    for (int64_t label = 0; label < options.num_classes; ++label) {
      info_.class_names.push_back(fmt::format("class {}", label));
      RngStream random(make_rng_key(seed_, "data:synthetic:pattern", static_cast<uint64_t>(label)));
      for (int64_t i = 0; i < grid * grid * options.channels; ++i) {
        patterns_.push_back(lowest + static_cast<int>(random.below(highest - lowest + 1)));
      }
    }
  }

  const DatasetInfo& info() const override { return info_; }

  int32_t read(int64_t index, uint8_t* pixels) const override {
    const int64_t size = info_.height, channels = info_.channels;
    const int64_t label = index % info_.num_classes;
    const int* pattern = patterns_.data() + label * grid * grid * channels;  // (grid, grid, channels)
    RngStream random(make_rng_key(seed_, stream_, static_cast<uint64_t>(index)));
    uint32_t bits = 0;
    int64_t position = 0;
    for (int64_t y = 0; y < size; ++y) {
      const auto [y0, y1, fy] = between(y);
      for (int64_t x = 0; x < size; ++x) {
        const auto [x0, x1, fx] = between(x);
        for (int64_t c = 0; c < channels; ++c, ++position) {
          const auto at = [&](int64_t row, int64_t column) { return pattern[(row * grid + column) * channels + c]; };
          const int64_t top = at(y0, x0) * (256 - fx) + at(y0, x1) * fx;
          const int64_t bottom = at(y1, x0) * (256 - fx) + at(y1, x1) * fx;
          const int64_t value = (top * (256 - fy) + bottom * fy) >> 16;
          if (position % 4 == 0) bits = random.bits();
          const int64_t byte = (bits >> (position % 4 * 8)) & 0xff;
          pixels[position] = static_cast<uint8_t>(value + ((byte * (2 * noise + 1)) >> 8) - noise);
        }
      }
    }
    return static_cast<int32_t>(label);
  }

 private:
  struct Between {
    int64_t first, second, fraction;  // the control points on both sides, and the way between them in 1/256
  };
  Between between(int64_t i) const {
    const int64_t place = info_.height > 1 ? i * (grid - 1) * 256 / (info_.height - 1) : 0;
    return {place / 256, std::min(place / 256 + 1, grid - 1), place % 256};
  }

  DatasetInfo info_;
  uint64_t seed_;
  const char* stream_;
  std::vector<int> patterns_;  // (num_classes, grid, grid, channels)
};

}  // namespace

std::unique_ptr<Dataset> make_synthetic_dataset(Split split, const SyntheticOptions& options) {
  constexpr int64_t max_images = int64_t{1} << 31;
  check_range("train_images", options.train_images, 1, max_images);
  check_range("test_images", options.test_images, 1, max_images);
  check_range("image_size", options.image_size, 1, 4096);
  check_range("channels", options.channels, 1, 1024);
  check_range("num_classes", options.num_classes, 1, 65536);
  return std::make_unique<SyntheticDataset>(split, options);
}

}  // namespace luq
