// What the network takes of sets of pixels, against a straightforward pad, crop, flip, normalise; random crops.
#include "luq/data/transform.h"

#include <cmath>
#include <cstring>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "luq/data/loader.h"
#include "tests/catch.h"
#include "tests/finished.h"

using namespace luq;

namespace {

struct Placement {
  int64_t top = 0, left = 0;  // of the crop, in the padded image: 0..2 pad
  bool flip = false;
};

DatasetInfo info_of(int64_t height, int64_t width, int64_t channels) {
  DatasetInfo info;
  info.name = "test";
  info.height = height;
  info.width = width;
  info.channels = channels;
  for (int64_t c = 0; c < channels; ++c) {
    info.mean.push_back(0.1234 + 0.1 * static_cast<double>(c));
    info.std.push_back(0.3 + 0.05 * static_cast<double>(c));
  }
  return info;
}

DatasetInfo files() {
  DatasetInfo info;
  info.name = "files";
  info.encoded = true;
  info.channels = 3;
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

// The numbers that padding and flipping draw.
Placement placement_of(const ImageKey& key, int64_t pad) {
  RngStream random(make_rng_key(key.seed, "data:augment", static_cast<uint64_t>(key.epoch),
                                static_cast<uint32_t>(key.index >> 16), static_cast<uint32_t>(key.index & 0xffff)));
  const auto places = static_cast<uint32_t>(2 * pad + 1);
  Placement placement;
  placement.top = random.below(places);
  placement.left = random.below(places);
  placement.flip = random.below(2) == 1;
  return placement;
}

}  // namespace

TEST_CASE("Pad, crop, flip and normalise equal the straightforward way, to the bit", "[data]") {
  RngStream random(make_rng_key(7, "test:augment"));
  for (const int64_t channels : {1, 2, 3, 5}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {4, 7}, {6, 3}, {8, 8}}) {
      const DatasetInfo info = info_of(height, width, channels);
      std::vector<uint8_t> pixels(static_cast<size_t>(height * width * channels));
      for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.bits());
      for (int64_t pad = 0; pad <= std::min(height, width); ++pad) {
        const Transform transform(info, {.pad_crop = pad, .horizontal_flip = true, .mean = {}, .std = {}});
        Transform::Buffers buffers = transform.make_buffers();
        REQUIRE(evaluated(transform, buffers, pixels) == straightforward(info, pad, pixels.data(), {pad, pad, false}));
        for (int64_t index = 0; index < 40; ++index) {
          const ImageKey key{5, 2, index * 40000};
          REQUIRE(trained(transform, buffers, pixels, key) ==
                  straightforward(info, pad, pixels.data(), placement_of(key, pad)));
        }
      }
    }
  }
}

TEST_CASE("Places are uniform, and differ by seed, epoch and index", "[data]") {
  DatasetInfo info = info_of(3, 3, 1);
  info.mean = {0};
  info.std = {1 / 255.0};
  const uint8_t pixels[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const auto centre = [&](const Transform& transform, const ImageKey& key) {
    Transform::Buffers buffers = transform.make_buffers();
    const std::vector<float> out = trained(transform, buffers, pixels, key);
    return static_cast<int>(std::lround(out[4])) * 2 + (out[3] > out[5] ? 1 : 0);  // which pixel, mirrored or not
  };
  const Transform with_flip(info, {.pad_crop = 1, .horizontal_flip = true, .mean = {}, .std = {}});
  const Transform without(info, {.pad_crop = 1, .horizontal_flip = false, .mean = {}, .std = {}});
  std::vector<int> count(20);
  for (int64_t index = 0; index < 9000; ++index) {
    const int place = centre(with_flip, {1, 2, index * 1000});
    REQUIRE(place / 2 == centre(without, {1, 2, index * 1000}) / 2);  // the flip leaves the crops as they are
    ++count[static_cast<size_t>(place / 2)];
  }
  for (size_t pixel = 1; pixel <= 9; ++pixel) CHECK(std::abs(count[pixel] - 1000) < 150);  // 5 standard deviations
  const auto places = [&](uint64_t seed, int64_t epoch, int64_t first) {
    std::vector<int> all;
    for (int64_t index = 0; index < 20; ++index) all.push_back(centre(with_flip, {seed, epoch, first + index}));
    return all;
  };
  CHECK(places(0, 0, 0) == places(0, 0, 0));
  CHECK(places(0, 0, 0) != places(1, 0, 0));
  CHECK(places(0, 0, 0) != places(0, 1, 0));
  CHECK(places(0, 0, 0) != places(0, 0, 20));
  CHECK(places(0, 0, 0) != places(0, 0, 65536));
}

TEST_CASE("Padding is black: value 0 before normalisation", "[data]") {
  const DatasetInfo info = info_of(2, 2, 1);
  const Transform transform(info, {.pad_crop = 2, .mean = {}, .std = {}});
  Transform::Buffers buffers = transform.make_buffers();
  const uint8_t white[4] = {255, 255, 255, 255};
  int64_t black = 0;
  for (int64_t index = 0; index < 200; ++index) {
    for (const float value : trained(transform, buffers, white, {0, 0, index})) {
      REQUIRE((value == static_cast<float>((0 - 0.1234) / 0.3) || value == static_cast<float>((1 - 0.1234) / 0.3)));
      black += value < 0;
    }
  }
  CHECK(black > 100);
}

TEST_CASE("Random resized crops cover the range of areas and ratios and lie inside", "[data]") {
  const TransformOptions options;
  int64_t whole = 0;
  double area_sum = 0, log_ratio_sum = 0;
  const int64_t draws = 20000;
  for (int64_t index = 0; index < draws; ++index) {
    const Region r = random_resized_crop(375, 500, options, {3, 1, index});
    REQUIRE((r.height >= 1 && r.width >= 1 && r.top >= 0 && r.left >= 0));
    REQUIRE((r.top + r.height <= 375 && r.left + r.width <= 500));
    const double area = static_cast<double>(r.height * r.width) / (375.0 * 500.0);
    const double ratio = static_cast<double>(r.width) / static_cast<double>(r.height);
    REQUIRE((area > 0.078 && ratio > 0.74 && ratio < 1.35));
    area_sum += area;
    log_ratio_sum += std::log(ratio);
    whole += r.top == 0 && r.height == 375;
  }
  // torchvision's RandomResizedCrop.get_params, 20,000 times on 500 x 375: mean area 0.4334, mean log ratio 0.0321.
  // The margins are five standard deviations of a mean.
  CHECK(area_sum / draws == Approx(0.4334).margin(0.012));
  CHECK(log_ratio_sum / draws == Approx(0.0321).margin(0.008));
  CHECK(whole > 0);
  for (const auto& [height, width, expected] : {std::tuple<int64_t, int64_t, Region>{10, 1000, {0, 493, 10, 13}},
                                                {1000, 10, {493, 0, 13, 10}},
                                                {1, 1, {0, 0, 1, 1}}}) {
    TransformOptions none;
    none.crop_scale = {1, 1};
    CHECK(random_resized_crop(height, width, none, {1, 1, 1}) == expected);
  }
}

TEST_CASE("Options that a data set does not allow are refused", "[data]") {
  const auto refused = [](const DatasetInfo& info, const TransformOptions& options, const std::string& message) {
    CHECK_THROWS_AS(Transform(info, options), UserError);
    CHECK_THROWS_WITH(Transform(info, options), contains_text(message));
  };
  const DatasetInfo pixels = info_of(8, 8, 3);
  TransformOptions options;
  options.pad_crop = 2;
  refused(files(), options, "pad_crop: expected 0 for image files, got 2");
  options.random_resized_crop = true;
  refused(pixels, options, "data.augment.pad_crop: expected 0 beside data.augment.random_resized_crop, got 2");
  options = {};
  options.eval_resize = 200;
  refused(files(), options, "data.eval_resize: expected data.image_size (224) or more, got 200");
  options = {};
  options.crop_scale = {0.5};
  refused(pixels, options, "crop_scale: expected two positive numbers");
  options.crop_scale = {0.5, 2};
  refused(pixels, options, "crop_scale: expected at most 1, got 2");
  options = {};
  options.crop_ratio = {2, 1};
  refused(pixels, options, "crop_ratio: expected two positive numbers");
  CHECK(Transform(files(), {}).height() == 224);
}

TEST_CASE("The loader augments each image with the numbers of its seed, epoch and index", "[data]") {
  // As many classes as images, so that a label is the index.
  const std::shared_ptr<const Dataset> dataset =
      open_dataset("synthetic", "", Split::train, {.train_images = 50, .image_size = 6, .num_classes = 50, .seed = 4});
  const TransformOptions options{.pad_crop = 2, .horizontal_flip = true, .mean = {}, .std = {}};
  for (const bool augment : {false, true}) {
    Loader loader(dataset, options, {.batch_size = 8, .shuffle = true, .augment = augment, .workers = 2, .seed = 12});
    for (const int64_t epoch : {0, 3}) {
      loader.start(epoch);
      Batch batch;
      int64_t images = 0;
      while (loader.next(batch)) {
        const std::vector<float> images_seen = finished(batch.images);
        for (int64_t i = 0; i < batch.size(); ++i, ++images) {
          const int32_t index = batch.labels.data<int32_t>()[i];
          const Placement placement = augment ? placement_of({12, epoch, index}, 2) : Placement{2, 2, false};
          uint8_t pixels[108];
          REQUIRE(dataset->read(index, pixels) == index);
          const float* values = images_seen.data() + i * 108;
          REQUIRE(std::vector<float>(values, values + 108) == straightforward(dataset->info(), 2, pixels, placement));
        }
      }
      REQUIRE(images == 50);
    }
  }
}
