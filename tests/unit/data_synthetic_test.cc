// Synthetic images: keyed, balanced, learnable, and what their statistics claim.
#include <cmath>

#include "luq/core/error.h"
#include "luq/data/dataset.h"
#include "tests/catch.h"

using namespace luq;

namespace {

std::vector<uint8_t> image(const Dataset& dataset, int64_t index) {
  const DatasetInfo& info = dataset.info();
  std::vector<uint8_t> pixels(static_cast<size_t>(info.height * info.width * info.channels));
  dataset.read(index, pixels.data());
  return pixels;
}

}  // namespace

TEST_CASE("Synthetic images are keyed by seed, split and index", "[data]") {
  const SyntheticOptions options{.image_size = 9, .channels = 2, .num_classes = 4, .seed = 1};
  const auto train = open_dataset("synthetic", "", Split::train, options);
  const auto again = open_dataset("synthetic", "", Split::train, options);
  const auto test = open_dataset("synthetic", "", Split::test, options);
  SyntheticOptions other_seed = options;
  other_seed.seed = 2;
  const auto other = open_dataset("synthetic", "", Split::train, other_seed);
  CHECK(train->info().images == 1024);
  CHECK(test->info().images == 256);
  CHECK(train->info().class_names.size() == 4);
  for (int64_t i = 0; i < 20; ++i) {
    std::vector<uint8_t> pixels(9 * 9 * 2);
    CHECK(train->read(i, pixels.data()) == i % 4);
    CHECK(pixels == image(*again, i));
    CHECK(pixels != image(*test, i));
    CHECK(pixels != image(*other, i));
    CHECK(pixels != image(*train, i + 4));
  }
}

TEST_CASE("The nearest class mean of synthetic training images classifies the test images", "[data]") {
  const SyntheticOptions options{.train_images = 500, .test_images = 200, .image_size = 12, .channels = 1};
  const auto train = open_dataset("synthetic", "", Split::train, options);
  const auto test = open_dataset("synthetic", "", Split::test, options);
  std::vector<std::vector<double>> mean(10, std::vector<double>(144));
  for (int64_t i = 0; i < 500; ++i) {
    const std::vector<uint8_t> pixels = image(*train, i);
    for (size_t k = 0; k < 144; ++k) mean[static_cast<size_t>(i % 10)][k] += pixels[k] / 50.0;
  }
  int right = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const std::vector<uint8_t> pixels = image(*test, i);
    int64_t best = -1;
    double best_distance = INFINITY;
    for (int64_t label = 0; label < 10; ++label) {
      double distance = 0;
      for (size_t k = 0; k < 144; ++k) distance += std::pow(pixels[k] - mean[static_cast<size_t>(label)][k], 2);
      if (distance < best_distance) best = label, best_distance = distance;
    }
    right += best == i % 10;
  }
  CHECK(right >= 190);
}

TEST_CASE("Synthetic statistics are about what the images have", "[data]") {
  const auto train = open_dataset("synthetic", "", Split::train, {.num_classes = 100});
  double sum = 0, squares = 0;
  const int64_t images = 500, values = 32 * 32 * 3;
  for (int64_t i = 0; i < images; ++i) {
    for (const uint8_t value : image(*train, i)) sum += value / 255.0, squares += std::pow(value / 255.0, 2);
  }
  const double mean = sum / static_cast<double>(images * values);
  const double std = std::sqrt(squares / static_cast<double>(images * values) - mean * mean);
  CHECK(mean == Approx(train->info().mean[0]).margin(0.01));
  CHECK(std == Approx(train->info().std[0]).margin(0.01));
}

TEST_CASE("Synthetic images of one pixel, and sizes out of range", "[data]") {
  const auto tiny = open_dataset("synthetic", "", Split::test, {.image_size = 1, .channels = 1, .num_classes = 1});
  CHECK(image(*tiny, 0).size() == 1);
  const auto open = [](const SyntheticOptions& options) { open_dataset("synthetic", "", Split::train, options); };
  CHECK_THROWS_AS(open({.train_images = 0}), UserError);
  CHECK_THROWS_WITH(open({.train_images = 0}), contains_text("[data] synthetic: train_images: expected 1.."));
  CHECK_THROWS_WITH(open({.test_images = -1}), contains_text("test_images"));
  CHECK_THROWS_WITH(open({.image_size = 0}), contains_text("image_size: expected 1..4096, got 0"));
  CHECK_THROWS_WITH(open({.channels = 0}), contains_text("channels"));
  CHECK_THROWS_WITH(open({.num_classes = 0}), contains_text("num_classes"));
}
