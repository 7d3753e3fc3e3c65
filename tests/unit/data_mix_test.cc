// Mixup and CutMix, and the random choices of the other augmentations.
#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "luq/core/error.h"
#include "src/data/augment.h"
#include "src/data/mix.h"
#include "tests/catch.h"
#include "tests/finished.h"

using namespace luq;

namespace {

Batch small_batch(int64_t count, int64_t height = 6, int64_t width = 8) {
  Tensor pixels = Tensor::empty({count, height, width, 3}, DType::uint8), labels = Tensor::empty({count}, DType::int32);
  const int64_t size = height * width * 3;
  for (int64_t i = 0; i < count; ++i) {
    std::fill_n(pixels.data<uint8_t>() + i * size, size, static_cast<uint8_t>(i + 1));
    labels.data<int32_t>()[i] = static_cast<int32_t>(10 * i);
  }
  return {ImageBatch::of(pixels, 1, 0), labels};
}

}  // namespace

TEST_CASE("Mixup mixes each image with the one before it", "[data][mix]") {
  Batch batch = small_batch(4);
  mix({.mixup_alpha = 0.7}, {3, 1, 5}, batch);
  const float weight = batch.label_weight.data<float>()[0];
  REQUIRE((weight > 0 && weight < 1));
  const int32_t others[] = {30, 0, 10, 20};
  const std::vector<float> images = finished(batch.images);
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(batch.labels.data<int32_t>()[i] == 10 * i);
    CHECK(batch.other_labels.data<int32_t>()[i] == others[i]);
    CHECK(batch.label_weight.data<float>()[i] == weight);
    const auto own = static_cast<float>(i + 1), other = static_cast<float>(others[i] / 10 + 1);
    for (int64_t k = 0; k < 144; ++k) {
      REQUIRE(images[static_cast<size_t>(i * 144 + k)] == Approx(weight * own + (1 - weight) * other));
    }
  }
  const Batch part = batch.part(1, 2);
  CHECK(part.other_labels.data<int32_t>()[1] == 10);
  CHECK(part.label_weight.shape() == Shape{2});
}

TEST_CASE("CutMix takes a rectangle of the image before, and weighs by its area", "[data][mix]") {
  int cut = 0;
  for (int64_t index = 0; index < 50; ++index) {
    Batch batch = small_batch(3);
    mix({.cutmix_alpha = 1}, {3, 1, index}, batch);
    const std::vector<float> values = finished(batch.images);
    const float* images = values.data();
    std::vector<int64_t> rows, columns;
    int64_t replaced = 0;
    for (int64_t p = 0; p < 48; ++p) {
      const bool from_other = images[p * 3] == 3;  // image 0 takes of image 2
      REQUIRE((images[p * 3] == 1 || from_other));
      REQUIRE(images[p * 3] == images[p * 3 + 2]);
      REQUIRE((images[144 + p * 3] == 1) == from_other);
      REQUIRE((images[288 + p * 3] == 2) == from_other);
      if (!from_other) continue;
      ++replaced;
      rows.push_back(p / 8);
      columns.push_back(p % 8);
    }
    if (replaced > 0) {
      const int64_t height = *std::max_element(rows.begin(), rows.end()) - rows.front() + 1;
      const int64_t width =
          *std::max_element(columns.begin(), columns.end()) - *std::min_element(columns.begin(), columns.end()) + 1;
      CHECK(replaced == height * width);
    }
    CHECK(batch.label_weight.data<float>()[1] == Approx(1 - static_cast<double>(replaced) / 48));
    cut += replaced > 0;
  }
  CHECK(cut > 25);
}

TEST_CASE("Mixing is keyed by seed, epoch and batch; with both alphas half of the batches are cut", "[data][mix]") {
  const auto weight = [](const TransformOptions& options, const ImageKey& key) {
    Batch batch = small_batch(2);
    mix(options, key, batch);
    return batch.label_weight.data<float>()[0];
  };
  const TransformOptions mixup{.mixup_alpha = 0.4};
  CHECK(weight(mixup, {0, 0, 0}) == weight(mixup, {0, 0, 0}));
  CHECK(weight(mixup, {0, 0, 0}) != weight(mixup, {1, 0, 0}));
  CHECK(weight(mixup, {0, 0, 0}) != weight(mixup, {0, 1, 0}));
  CHECK(weight(mixup, {0, 0, 0}) != weight(mixup, {0, 0, 1}));
  int cut = 0;
  for (int64_t index = 0; index < 1000; ++index) {
    Batch batch = small_batch(2, 32, 32);
    mix({.mixup_alpha = 50, .cutmix_alpha = 50}, {4, 2, index}, batch);
    const std::vector<float> images = finished(batch.images);
    cut += std::all_of(images.begin(), images.begin() + 32 * 32 * 3, [](float x) { return x == 1 || x == 2; });
  }
  CHECK(std::abs(cut - 500) < 80);  // 5 standard deviations
  Batch plain = small_batch(2);
  mix({}, {0, 0, 0}, plain);
  CHECK_FALSE(plain.other_labels.defined());
}

TEST_CASE("Beta(alpha, alpha) has its mean and variance", "[data][mix]") {
  for (const double alpha : {0.1, 0.2, 1.0, 4.0}) {
    RngStream random(make_rng_key(8, "test:beta"));
    const int draws = 40000;
    double sum = 0, squares = 0;
    for (int i = 0; i < draws; ++i) {
      const double x = draw_beta(random, alpha);
      REQUIRE((x >= 0 && x <= 1));
      sum += x;
      squares += (x - 0.5) * (x - 0.5);
    }
    const double variance = 1 / (4 * (2 * alpha + 1));
    CHECK(sum / draws == Approx(0.5).margin(5 * std::sqrt(variance / draws)));
    // (x - 1/2)^2 lies in 0..1/4, so that its variance is below variance / 4.
    CHECK(squares / draws == Approx(variance).margin(5 * std::sqrt(variance / 4 / draws)));
  }
}

TEST_CASE("Each augmentation draws by seed, epoch and index, and covers its choices", "[data][augment]") {
  const auto augmented = [](const ImageKey& key, const auto& augment) {
    std::vector<uint8_t> values(20 * 30 * 3), scratch;
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 7 + i / 91 * 13);
    augment(key, Pixels{values.data(), 20, 30}, scratch);
    return std::string(values.begin(), values.end());
  };
  const auto rand = [](const ImageKey& key, const Pixels& image, std::vector<uint8_t>& scratch) {
    rand_augment({.num_ops = 1, .magnitude = 9}, key, image, scratch);
  };
  const auto trivial = [](const ImageKey& key, const Pixels& image, std::vector<uint8_t>& scratch) {
    trivial_augment(key, image, scratch);
  };
  const auto jitter = [](const ImageKey& key, const Pixels& image, std::vector<uint8_t>&) {
    color_jitter({.brightness = 0.4, .contrast = 0.4, .saturation = 0.4, .hue = 0.1}, key, image);
  };
  const auto count = [&](const auto& augment) {
    std::set<std::string> results;
    for (int64_t index = 0; index < 1000; ++index) results.insert(augmented({5, 1, index}, augment));
    CHECK(augmented({5, 1, 3}, augment) == augmented({5, 1, 3}, augment));
    return results;
  };
  // 9 operations with two signs; identity, posterize, solarize, autocontrast and equalize have one strength, and two of
  // them leave this image, whose histogram is full, as it is.
  const auto results = count(rand);
  CHECK(results.size() >= 18 + 3);
  CHECK(results.size() <= 18 + 5);
  CHECK(count(trivial).size() > 200);
  CHECK(count(jitter).size() > 990);
}

TEST_CASE("Lighting has its deviation; erased parts have torchvision's sizes", "[data][augment]") {
  double squares = 0;
  for (int64_t index = 0; index < 20000; ++index) {
    const auto added = draw_lighting(0.1, {1, 2, index});
    // Along the first principal colour, which the others are orthogonal to.
    const double along = -0.5675 * added[0] - 0.5808 * added[1] - 0.5836 * added[2];
    squares += along * along;
  }
  CHECK(std::sqrt(squares / 20000) == Approx(0.1 * 0.2175).epsilon(0.03));

  int erased = 0;
  double area = 0;
  for (int64_t index = 0; index < 20000; ++index) {
    const Region r = draw_erasing(0.5, 224, 200, {1, 2, index});
    if (r.height == 0) continue;
    ++erased;
    REQUIRE((r.top >= 0 && r.left >= 0 && r.top + r.height <= 224 && r.left + r.width <= 200));
    area += static_cast<double>(r.height * r.width) / (224.0 * 200.0);
  }
  CHECK(std::abs(erased - 10000) < 5 * 71);
  CHECK(area / erased == Approx(0.172).margin(0.006));  // a uniform area in 0.02..0.33, few tries of which do not fit
}

TEST_CASE("Augmentations reach the network's input, and wrong options are refused", "[data][augment]") {
  DatasetInfo info;
  info.name = "test";
  info.height = info.width = 12;
  info.channels = 3;
  info.mean = {0, 0, 0};
  info.std = {1, 1, 1};
  std::vector<uint8_t> pixels(12 * 12 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 37);
  const auto training = [&](const TransformOptions& options) {
    const Transform transform(info, options);
    Transform::Buffers buffers = transform.make_buffers();
    return trained(transform, buffers, pixels, {7, 0, 3});
  };
  const std::vector<float> plain = training({});
  for (const TransformOptions& options :
       {TransformOptions{.rand_augment = {3, 20}}, TransformOptions{.trivial_augment = true},
        TransformOptions{.color_jitter = {.brightness = 0.5}}, TransformOptions{.color_jitter = {.hue = 0.5}},
        TransformOptions{.lighting = 0.1}, TransformOptions{.random_erasing = 1},
        TransformOptions{.random_resized_crop = true}}) {
    CHECK(training(options) != plain);
  }
  const std::vector<float> erased = training({.random_erasing = 1});
  for (size_t i = 0; i < plain.size(); ++i) CHECK((erased[i] == plain[i] || erased[i] == 0));
  const auto lighting = draw_lighting(0.1, {7, 0, 3});
  const std::vector<float> lit = training({.lighting = 0.1});
  for (size_t i = 0; i < plain.size(); ++i) CHECK(lit[i] == Approx(plain[i] + lighting[i % 3]).margin(1e-6));
  // At magnitude 0 most operations do nothing, and what is mirrored before them is what is mirrored without them.
  int same = 0;
  for (int64_t index = 0; index < 200; ++index) {
    TransformOptions options{.horizontal_flip = true};
    const Transform without(info, options);
    options.rand_augment = {1, 0};
    const Transform with(info, options);
    Transform::Buffers buffers = without.make_buffers();
    same += trained(without, buffers, pixels, {7, 0, index}) == trained(with, buffers, pixels, {7, 0, index});
  }
  CHECK(same > 130);  // 11 of 14

  const auto refused = [&](const TransformOptions& options, const std::string& message) {
    CHECK_THROWS_AS(Transform(info, options), UserError);
    CHECK_THROWS_WITH(Transform(info, options), contains_text(message));
  };
  refused({.rand_augment = {1, 31}}, "rand_augment.magnitude: expected 0..30, got 31");
  refused({.rand_augment = {1, 9}, .trivial_augment = true},
          "trivial_augment: expected data.augment.rand_augment.num_ops 0");
  refused({.color_jitter = {.hue = 0.6}}, "color_jitter.hue: expected 0..0.5, got 0.6");
  refused({.random_erasing = 1.5}, "random_erasing: expected a probability, got 1.5");
  refused({.mixup_alpha = -1}, "data.augment.mixup_alpha: expected 0..1000000, got -1");
  info.channels = 1;
  info.mean = info.std = {1};
  refused({.lighting = 0.1}, "lighting: expected images of 3 channels, got test with 1");
  refused({.trivial_augment = true}, "trivial_augment: expected images of 3 channels");
}
