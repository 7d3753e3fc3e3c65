// Batches on their way to a device: uploads beside the kernels, and the feeder that keeps one batch ahead.
#include <cstring>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "luq/core/allocator.h"
#include "luq/train/optimizer.h"
#include "src/train/batch_feeder.h"
#include "src/train/experiment_parts.h"
#include "src/train/training_step.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"

namespace luq {
namespace {

constexpr Device kCuda{DeviceType::cuda, 0};
constexpr int kSeeds = 40;
constexpr int64_t kBytes = 1000;

enum class Wait { none, join, host };

// What is in device memory after an upload of sevens into memory that was cleared before, for one seed.
std::vector<uint8_t> uploaded(uint64_t seed, Wait wait) {
  emulation::set_seed(seed);
  const DeviceMemory& memory = *device_memory(kCuda);
  Tensor from = Tensor::pinned({kBytes}, DType::uint8, kCuda);
  std::memset(from.raw(), 7, kBytes);
  Tensor to = Tensor::empty({kBytes}, DType::uint8, kCuda), copy = Tensor::empty({kBytes}, DType::uint8, kCuda);
  memory.clear(to.raw(), kBytes);
  memory.start_upload(to.raw(), from.raw(), kBytes);
  if (wait == Wait::join) memory.join_uploads();
  if (wait == Wait::host) {
    memory.wait_for_uploads();
    std::memset(from.raw(), 9, kBytes);
  }
  memory.within_device(copy.raw(), to.raw(), kBytes);
  std::vector<uint8_t> seen(kBytes);
  memory.to_host(seen.data(), copy.raw(), kBytes);
  memory.wait_for_uploads();
  return seen;
}

int wrong(Wait wait) {
  int count = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) count += uploaded(seed, wait) != std::vector<uint8_t>(kBytes, 7);
  return count;
}

std::vector<float> host_values(const Tensor& tensor) {
  const Tensor here = tensor.to({});
  return {here.data<float>(), here.data<float>() + here.numel()};
}

std::shared_ptr<const Dataset> some_images() {
  return open_dataset("synthetic", "", Split::train, {.train_images = 44, .image_size = 8, .channels = 3, .seed = 5});
}

const TransformOptions kAugmented{.pad_crop = 2, .horizontal_flip = true, .random_erasing = 0.5, .mixup_alpha = 0.4};
const LoaderOptions kTraining{
    .batch_size = 8, .shuffle = true, .augment = true, .workers = 2, .seed = 3, .device = kCuda};

std::vector<std::vector<float>> rest(auto& batches) {
  std::vector<std::vector<float>> all;
  for (Batch batch; batches.next(batch);) {
    all.push_back(host_values(finish_images(kernels_for(kCuda), batch.images.to(kCuda), DType::float32)));
    for (int64_t i = 0; i < batch.size(); ++i) {
      all.back().push_back(static_cast<float>(batch.labels.template data<int32_t>()[i]));
    }
  }
  return all;
}

ExperimentConfig small_config() {
  ExperimentConfig config;
  config.device = "cuda";
  config.model.name = "resnet20";
  config.data.name = "synthetic";
  config.data.synthetic = {.train_images = 32, .test_images = 8, .image_size = 8, .channels = 1, .num_classes = 5};
  config.train.batch_size = 8;
  return config;
}

std::vector<double> losses(auto&& make_batches) {
  const ExperimentConfig config = small_config();
  ExperimentParts parts = make_parts(config, true);
  const auto optimizer = make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels);
  auto batches = make_batches(parts);
  batches->start(0);
  std::vector<double> seen;
  uint64_t step = 0;
  for (Batch batch; batches->next(batch) && step < 3; ++step) {
    Ctx ctx = parts.context(config);
    ctx.training = true;
    ctx.step = step;
    seen.push_back(training_step(config, parts, ctx, *optimizer, batch, 0.05).loss);
  }
  return seen;
}

}  // namespace

TEST_CASE("cuda: what joins an upload sees it, whatever the streams do", "[cuda]") {
  CHECK(wrong(Wait::join) == 0);
  CHECK(wrong(Wait::host) == 0);
  CHECK(wrong(Wait::none) > 0);  // for some seeds the kernels' stream is faster
}

TEST_CASE("cuda: pinned memory is kept for the next batch", "[cuda]") {
  const void* first = nullptr;
  {
    const Tensor pinned = Tensor::pinned({3 * kBytes}, DType::uint8, kCuda);
    CHECK(pinned.device() == Device{});
    first = pinned.raw();
  }
  CHECK(Tensor::pinned({3 * kBytes}, DType::uint8, kCuda).raw() == first);
}

TEST_CASE("cuda: the feeder gives the loader's batches, in mid-epoch and after a new start too", "[cuda]") {
  Loader loader(some_images(), kAugmented, kTraining);
  loader.start(2);
  const std::vector<std::vector<float>> expected = rest(loader);
  REQUIRE(expected.size() == 6);
  const int64_t before = memory_stats(kCuda).live_bytes;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    emulation::set_seed(seed);
    BatchFeeder feeder(some_images(), kAugmented, kTraining);
    REQUIRE(feeder.batches_per_epoch() == 6);
    feeder.start(1);
    Batch dropped;
    REQUIRE(feeder.next(dropped));  // and perhaps one is on its way
    dropped = {};
    feeder.start(2);
    CHECK(rest(feeder) == expected);
    feeder.start(2, 4);
    Batch batch;
    REQUIRE(feeder.next(batch));
    CHECK(batch.images.pixels.device() == kCuda);
    CHECK(feeder.take_wait_seconds() > 0);
    CHECK(feeder.take_wait_seconds() == 0);
    CHECK(rest(feeder) == std::vector<std::vector<float>>{expected[5]});
  }
  CHECK(memory_stats(kCuda).live_bytes == before);
}

TEST_CASE("cuda: training on fed batches gives what training on the loader's gives", "[cuda]") {
  const auto options = [](const ExperimentParts& parts) {
    return LoaderOptions{.batch_size = 8, .shuffle = true, .augment = true, .seed = 1, .device = parts.device};
  };
  const std::vector<double> fed = losses([&](const ExperimentParts& parts) {
    return std::make_unique<BatchFeeder>(parts.train_set, TransformOptions{.horizontal_flip = true}, options(parts));
  });
  const std::vector<double> plain = losses([&](const ExperimentParts& parts) {
    return std::make_unique<Loader>(parts.train_set, TransformOptions{.horizontal_flip = true}, options(parts));
  });
  REQUIRE(fed.size() == 3);
  CHECK(fed == plain);
}

TEST_CASE("What kernels hold beside tensors is counted", "[memory]") {
  constexpr int64_t kMore = int64_t{3} << 20;
  const int64_t bytes = memory_stats(kCuda).scratch_bytes + kMore, live = memory_stats(kCuda).live_bytes;
  kernels::cuda::scratch(bytes);
  CHECK(memory_stats(kCuda).scratch_bytes >= bytes);
  CHECK(memory_stats(kCuda).scratch_bytes < bytes + kMore);
  CHECK(memory_stats(kCuda).live_bytes == live);
}

}  // namespace luq
