// Augmentation against a straightforward pad, crop, flip, normalise.
#include <cmath>
#include <cstring>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "src/data/augment.h"
#include "tests/catch.h"

using namespace luq;

namespace {

DatasetInfo info_of(int64_t height, int64_t width, int64_t channels) {
  DatasetInfo info;
  info.name = "test";
  info.height = height;
  info.width = width;
  info.channels = channels;
  for (int64_t c = 0; c < channels; ++c) {
    info.mean.push_back(0.1 + 0.1 * static_cast<double>(c));
    info.std.push_back(0.3 + 0.05 * static_cast<double>(c));
  }
  return info;
}

std::vector<float> straightforward(const DatasetInfo& info, int64_t pad, const uint8_t* pixels,
                                   const Placement& placement) {
  const int64_t h = info.height, w = info.width, channels = info.channels;
  std::vector<uint8_t> padded(static_cast<size_t>((h + 2 * pad) * (w + 2 * pad) * channels));
  for (int64_t y = 0; y < h; ++y) {
    std::memcpy(padded.data() + ((y + pad) * (w + 2 * pad) + pad) * channels, pixels + y * w * channels,
                static_cast<size_t>(w * channels));
  }
  std::vector<float> out;
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) {
      const int64_t column = placement.flip ? w - 1 - x : x;
      for (int64_t c = 0; c < channels; ++c) {
        const double value =
            padded[static_cast<size_t>(((y + placement.top) * (w + 2 * pad) + column + placement.left) * channels + c)];
        out.push_back(
            static_cast<float>((value / 255 - info.mean[static_cast<size_t>(c)]) / info.std[static_cast<size_t>(c)]));
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("Pad, crop, flip and normalise equal the straightforward way in every place", "[data]") {
  RngStream random(make_rng_key(7, "test:augment"));
  for (const int64_t channels : {1, 2, 3, 5}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {4, 7}, {6, 3}, {8, 8}}) {
      const DatasetInfo info = info_of(height, width, channels);
      std::vector<uint8_t> pixels(static_cast<size_t>(height * width * channels));
      for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.bits());
      for (int64_t pad = 0; pad <= std::min(height, width); ++pad) {
        const Augment augment(info, {.pad_crop = pad, .horizontal_flip = true, .mean = {}, .std = {}});
        for (int64_t top = 0; top <= 2 * pad; ++top) {
          for (int64_t left = 0; left <= 2 * pad; ++left) {
            for (const bool flip : {false, true}) {
              std::vector<float> out(pixels.size(), NAN);
              augment.apply(pixels.data(), {top, left, flip}, out.data());
              REQUIRE(out == straightforward(info, pad, pixels.data(), {top, left, flip}));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("Padding is black: value 0 after normalisation", "[data]") {
  const DatasetInfo info = info_of(2, 2, 1);
  const Augment augment(info, {.pad_crop = 2, .mean = {}, .std = {}});
  const uint8_t white[4] = {255, 255, 255, 255};
  float out[4];
  augment.apply(white, {0, 0, false}, out);
  for (const float value : out) CHECK(value == static_cast<float>((0 - 0.1) / 0.3));
  augment.apply(white, augment.centre(), out);
  for (const float value : out) CHECK(value == Approx((1 - 0.1) / 0.3));
}

TEST_CASE("Random places are uniform, and a flip option leaves the crops as they are", "[data]") {
  const DatasetInfo info = info_of(8, 8, 1);
  const Augment with_flip(info, {.pad_crop = 1, .horizontal_flip = true, .mean = {}, .std = {}});
  const Augment without(info, {.pad_crop = 1, .horizontal_flip = false, .mean = {}, .std = {}});
  std::vector<int> count(18);
  for (int64_t index = 0; index < 18000; ++index) {
    const Placement place = with_flip.random_placement(1, 2, index * 1000);
    const Placement plain = without.random_placement(1, 2, index * 1000);
    REQUIRE((place.top == plain.top && place.left == plain.left && !plain.flip));
    ++count[static_cast<size_t>(place.top * 6 + place.left * 2 + place.flip)];
  }
  for (const int times : count) CHECK(std::abs(times - 1000) < 155);  // 5 standard deviations
}

TEST_CASE("Places differ by seed, epoch and index", "[data]") {
  const Augment augment(info_of(200, 200, 1), {.pad_crop = 200, .mean = {}, .std = {}});
  const auto place = [&](uint64_t seed, int64_t epoch, int64_t index) {
    const Placement placement = augment.random_placement(seed, epoch, index);
    return std::pair{placement.top, placement.left};
  };
  CHECK(place(0, 0, 0) == place(0, 0, 0));
  CHECK(place(0, 0, 0) != place(1, 0, 0));
  CHECK(place(0, 0, 0) != place(0, 1, 0));
  CHECK(place(0, 0, 0) != place(0, 0, 1));
  CHECK(place(0, 0, 0) != place(0, 0, 65536));
}

TEST_CASE("The loader augments each image with the numbers of its seed, epoch and index", "[data]") {
  // As many classes as images, so that a label is the index.
  const std::shared_ptr<const Dataset> dataset =
      open_dataset("synthetic", "", Split::train, {.train_images = 50, .image_size = 6, .num_classes = 50, .seed = 4});
  const AugmentOptions options{.pad_crop = 2, .horizontal_flip = true, .mean = {}, .std = {}};
  for (const bool augment : {false, true}) {
    Loader loader(dataset, options, {.batch_size = 8, .shuffle = true, .augment = augment, .workers = 2, .seed = 12});
    for (const int64_t epoch : {0, 3}) {
      loader.start(epoch);
      Batch batch;
      int64_t images = 0;
      while (loader.next(batch)) {
        for (int64_t i = 0; i < batch.size(); ++i, ++images) {
          const int32_t index = batch.labels.data<int32_t>()[i];
          RngStream random(
              make_rng_key(12, "data:augment", static_cast<uint64_t>(epoch), 0, static_cast<uint32_t>(index)));
          Placement placement{2, 2, false};
          if (augment) {
            placement.top = random.below(5);
            placement.left = random.below(5);
            placement.flip = random.below(2) == 1;
          }
          uint8_t pixels[108];
          REQUIRE(dataset->read(index, pixels) == index);
          const float* values = batch.images.data<float>() + i * 108;
          REQUIRE(std::vector<float>(values, values + 108) == straightforward(dataset->info(), 2, pixels, placement));
        }
      }
      REQUIRE(images == 50);
    }
  }
}
