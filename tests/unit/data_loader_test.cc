// The loader: the same batches for any number of workers, in mid-epoch too; errors; starting and stopping at random.
#include "luq/data/loader.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "tests/catch.h"
#include "tests/finished.h"

using namespace luq;

namespace {

std::shared_ptr<const Dataset> synthetic(int64_t images, int64_t size = 8, int64_t channels = 3) {
  return open_dataset("synthetic", "", Split::train,
                      {.train_images = images, .image_size = size, .channels = channels, .seed = 5});
}

// Image i is one pixel of value 0 with label i.
class CountingDataset : public Dataset {
 public:
  explicit CountingDataset(int64_t images, int64_t failing = -1) : failing_(failing) {
    info_.name = "counting";
    info_.images = images;
    info_.height = info_.width = info_.channels = 1;
    info_.num_classes = images;
    info_.mean = {0};
    info_.std = {1};
  }
  const DatasetInfo& info() const override { return info_; }
  int32_t read(int64_t index, uint8_t* pixels) const override {
    if (index == failing_) fail("[counting] image {} cannot be read", index);
    *pixels = 0;
    return static_cast<int32_t>(index);
  }

 private:
  DatasetInfo info_;
  int64_t failing_;
};

struct Contents {
  std::vector<float> images;
  std::vector<int32_t> labels;
  friend bool operator==(const Contents&, const Contents&) = default;
};

Contents contents(const Batch& batch) {
  const int32_t* labels = batch.labels.data<int32_t>();
  return {finished(batch.images), {labels, labels + batch.labels.numel()}};
}

std::vector<Contents> rest_of_epoch(Loader& loader) {
  std::vector<Contents> all;
  Batch batch;
  while (loader.next(batch)) all.push_back(contents(batch));
  return all;
}

std::vector<int32_t> labels_of_epoch(Loader& loader, int64_t epoch) {
  loader.start(epoch);
  std::vector<int32_t> labels;
  for (const Contents& batch : rest_of_epoch(loader)) {
    labels.insert(labels.end(), batch.labels.begin(), batch.labels.end());
  }
  return labels;
}

const TransformOptions augmented = {.pad_crop = 2, .horizontal_flip = true, .mean = {}, .std = {}};
const LoaderOptions training = {.batch_size = 16, .shuffle = true, .augment = true, .drop_last = true, .seed = 3};

}  // namespace

TEST_CASE("Batches do not depend on workers or prefetch", "[data]") {
  const auto dataset = synthetic(100);
  std::vector<Contents> expected;
  for (const int64_t workers : {1, 2, 5}) {
    for (const int64_t prefetch : {1, 2, 7}) {
      LoaderOptions options = training;
      options.workers = workers;
      options.prefetch = prefetch;
      Loader loader(dataset, augmented, options);
      REQUIRE(loader.batches_per_epoch() == 6);
      loader.start(4);
      const std::vector<Contents> got = rest_of_epoch(loader);
      REQUIRE(got.size() == 6);
      if (expected.empty()) expected = got;
      REQUIRE(got == expected);
      for (const int64_t first : {0, 1, 5, 6}) {
        loader.start(4, first);
        REQUIRE(rest_of_epoch(loader) == std::vector<Contents>(expected.begin() + first, expected.end()));
      }
      loader.start(5);
      REQUIRE(rest_of_epoch(loader) != expected);
    }
  }
}

TEST_CASE("An epoch holds each image once", "[data]") {
  for (const bool shuffle : {false, true}) {
    for (const int64_t images : {1, 2, 31, 32, 33, 100}) {
      Loader loader(std::make_shared<CountingDataset>(images), {},
                    {.batch_size = 32, .shuffle = shuffle, .workers = 2, .seed = 9});
      std::vector<int32_t> labels = labels_of_epoch(loader, 0);
      std::vector<int32_t> sorted(static_cast<size_t>(images));
      std::iota(sorted.begin(), sorted.end(), 0);
      if (!shuffle) CHECK(labels == sorted);
      if (shuffle && images > 30) {
        CHECK(labels != sorted);
        CHECK(labels != labels_of_epoch(loader, 1));
        CHECK(labels == labels_of_epoch(loader, 0));
      }
      std::sort(labels.begin(), labels.end());
      CHECK(labels == sorted);
    }
  }
}

TEST_CASE("The order of ten images for seed 0, epoch 0", "[data]") {
  Loader loader(std::make_shared<CountingDataset>(10), {}, {.batch_size = 3, .shuffle = true, .seed = 0});
  CHECK(labels_of_epoch(loader, 0) == std::vector<int32_t>{6, 0, 7, 8, 1, 2, 4, 3, 9, 5});
}

TEST_CASE("Every order of three images is about as frequent", "[data]") {
  Loader loader(std::make_shared<CountingDataset>(3), {}, {.batch_size = 3, .shuffle = true, .seed = 1});
  std::map<std::vector<int32_t>, int> count;
  for (int64_t epoch = 0; epoch < 1200; ++epoch) ++count[labels_of_epoch(loader, epoch)];
  REQUIRE(count.size() == 6);
  for (const auto& [order, times] : count) CHECK(std::abs(times - 200) < 65);  // 5 standard deviations
}

TEST_CASE("Incomplete batches, drop_last and max_images", "[data]") {
  const auto sizes = [](int64_t images, const LoaderOptions& options) {
    Loader loader(std::make_shared<CountingDataset>(images), {}, options);
    loader.start(0);
    std::vector<int64_t> sizes;
    Batch batch;
    while (loader.next(batch)) {
      REQUIRE(batch.images.pixels.shape() == Shape{batch.size(), 1, 1, 1});
      REQUIRE(batch.labels.dtype() == DType::int32);
      sizes.push_back(batch.size());
    }
    CHECK_FALSE(loader.next(batch));
    CHECK(static_cast<int64_t>(sizes.size()) == loader.batches_per_epoch());
    return sizes;
  };
  using Sizes = std::vector<int64_t>;
  CHECK(sizes(10, {.batch_size = 4}) == Sizes{4, 4, 2});
  CHECK(sizes(10, {.batch_size = 4, .drop_last = true}) == Sizes{4, 4});
  CHECK(sizes(10, {.batch_size = 4, .max_images = 7}) == Sizes{4, 3});
  CHECK(sizes(10, {.batch_size = 4, .max_images = 70}) == Sizes{4, 4, 2});
  // They come from all over the set, whose classes stand one after the other.
  Loader spread(std::make_shared<CountingDataset>(10), {}, {.batch_size = 4, .max_images = 4});
  spread.start(0);
  Batch batch;
  REQUIRE(spread.next(batch));
  CHECK(contents(batch).labels == std::vector<int32_t>{0, 2, 5, 7});
  CHECK(sizes(10, {.batch_size = 10, .drop_last = true}) == Sizes{10});
  CHECK(sizes(10, {.batch_size = INT64_MAX}) == Sizes{10});
  CHECK(sizes(1, {.batch_size = 1, .workers = 5, .prefetch = INT64_MAX}) == Sizes{1});
}

TEST_CASE("Wrong loader options are refused", "[data]") {
  const auto open = [](const TransformOptions& augment, const LoaderOptions& options) {
    Loader loader(std::make_shared<CountingDataset>(10), augment, options);
  };
  CHECK_THROWS_AS(open({}, {.batch_size = 0}), UserError);
  CHECK_THROWS_WITH(open({}, {.batch_size = 0}), "[loader] batch_size: expected 1 or more, got 0");
  CHECK_THROWS_WITH(open({}, {.batch_size = -5}), "[loader] batch_size: expected 1 or more, got -5");
  CHECK_THROWS_WITH(open({}, {.batch_size = 11, .drop_last = true}),
                    contains_text("[loader] batch_size: expected at most the 10 images of counting, got 11"));
  CHECK_THROWS_WITH(open({}, {.batch_size = 8, .drop_last = true, .max_images = 7}), contains_text("at most the 7"));
  CHECK_THROWS_WITH(open({}, {.max_images = -1}), contains_text("max_images"));
  CHECK_THROWS_WITH(open({}, {.workers = 0}), contains_text("workers: expected 1..256, got 0"));
  CHECK_THROWS_WITH(open({}, {.prefetch = 0}), contains_text("prefetch: expected 1 or more, got 0"));
  CHECK_THROWS_WITH(open({.pad_crop = -1, .mean = {}, .std = {}}, {}), contains_text("pad_crop: expected 0..1"));
  CHECK_THROWS_WITH(open({.pad_crop = 2, .mean = {}, .std = {}}, {}), contains_text("pad_crop: expected 0..1"));
  CHECK_THROWS_WITH(open({.mean = {0, 0}, .std = {}}, {}), contains_text("mean: expected one value for each of the 1"));
  CHECK_THROWS_WITH(open({.mean = {}, .std = {0}}, {}), contains_text("std: expected values above 0, got 0"));
  CHECK_THROWS_WITH(Loader(std::make_shared<CountingDataset>(0), {}, {}), contains_text("got an empty set"));
  Loader loader(std::make_shared<CountingDataset>(10), {}, {.batch_size = 5});
  Batch batch;
  CHECK_THROWS_WITH(loader.next(batch), contains_text("expected start()"));
  CHECK_THROWS_WITH(loader.start(-1), contains_text("expected an epoch of 0 or more, got -1"));
  CHECK_THROWS_WITH(loader.start(0, 3), contains_text("expected a first batch in 0..2, got 3"));
}

TEST_CASE("An error of a worker comes out of next() in its turn", "[data]") {
  for (const int64_t workers : {1, 3}) {
    Loader loader(std::make_shared<CountingDataset>(10, 5), {}, {.batch_size = 2, .workers = workers});
    Batch batch;
    for (int round = 0; round < 3; ++round) {
      loader.start(round);
      REQUIRE(loader.next(batch));
      REQUIRE(loader.next(batch));
      REQUIRE_THROWS_WITH(loader.next(batch), "[counting] image 5 cannot be read");
      REQUIRE_THROWS_AS(loader.next(batch), Error);  // and again
    }
    loader.start(0, 3);
    REQUIRE(loader.next(batch));
    CHECK(batch.labels.data<int32_t>()[0] == 6);
  }
}

TEST_CASE("Starting, stopping and destroying at random never hangs", "[data]") {
  RngStream random(make_rng_key(2, "test:start"));
  const auto dataset = synthetic(200, 16);
  std::vector<std::vector<Contents>> expected;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    Loader loader(dataset, augmented, training);
    loader.start(epoch);
    expected.push_back(rest_of_epoch(loader));
  }
  for (int round = 0; round < 200; ++round) {
    LoaderOptions options = training;
    options.workers = 1 + random.below(6);
    options.prefetch = 1 + random.below(6);
    Loader loader(dataset, augmented, options);
    const uint32_t starts = random.below(4);
    for (uint32_t i = 0; i < starts; ++i) {
      const uint32_t epoch = random.below(3);
      const uint32_t first = random.below(static_cast<uint32_t>(loader.batches_per_epoch()) + 1);
      loader.start(epoch, first);
      const uint32_t taken = random.below(14);
      Batch batch;
      for (uint32_t k = 0; k < taken && loader.next(batch); ++k) {
        REQUIRE(contents(batch) == expected[epoch][first + k]);
      }
      if (random.below(4) == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.below(500)));
    }
  }
}

TEST_CASE("Waiting is measured and taken once", "[data]") {
  struct SlowDataset : CountingDataset {
    using CountingDataset::CountingDataset;
    int32_t read(int64_t index, uint8_t* pixels) const override {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return CountingDataset::read(index, pixels);
    }
  };
  Loader loader(std::make_shared<SlowDataset>(2), {}, {.batch_size = 2});
  CHECK(loader.take_wait_seconds() == 0);
  loader.start(0);
  Batch batch;
  REQUIRE(loader.next(batch));
  CHECK(loader.take_wait_seconds() > 0);
  CHECK(loader.take_wait_seconds() == 0);
}
