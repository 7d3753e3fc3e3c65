// Image files on their way into batches: the same for any number of workers, with every augmentation on.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernels/kernels.h"
#include "luq/data/loader.h"
#include "tests/catch.h"
#include "tests/finished.h"
#include "tests/places.h"

using namespace luq;

namespace {

namespace fs = std::filesystem;

// The files of tests/golden/images, several times over; the label is the index.
class Files : public Dataset {
 public:
  Files() {
    for (const auto& entry : fs::directory_iterator(source_folder() + "/tests/golden/images")) {
      if (entry.path().extension() != ".safetensors") paths_.push_back(entry.path());
    }
    std::sort(paths_.begin(), paths_.end());
    info_.name = "files";
    info_.images = 3 * static_cast<int64_t>(paths_.size());
    info_.num_classes = info_.images;
    info_.encoded = true;
    info_.channels = 3;
  }
  const DatasetInfo& info() const override { return info_; }
  int32_t read_file(int64_t index, std::vector<uint8_t>& bytes) const override {
    std::ifstream file(paths_[static_cast<size_t>(index) % paths_.size()], std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
    return static_cast<int32_t>(index);
  }

 private:
  DatasetInfo info_;
  std::vector<fs::path> paths_;
};

TransformOptions everything() {
  TransformOptions options;
  options.image_size = 32;
  options.eval_resize = 36;
  options.random_resized_crop = options.horizontal_flip = true;
  options.rand_augment = {2, 9};
  options.color_jitter = {.brightness = 0.4, .contrast = 0.4, .saturation = 0.4, .hue = 0.1};
  options.lighting = 0.1;
  options.random_erasing = 0.25;
  options.mixup_alpha = 0.2;
  options.cutmix_alpha = 1;
  return options;
}

std::vector<std::vector<float>> batches(Loader& loader, int64_t epoch, int64_t first) {
  std::vector<std::vector<float>> all;
  loader.start(epoch, first);
  for (Batch batch; loader.next(batch);) {
    std::vector<float> values = finished(batch.images);
    for (int64_t i = 0; i < batch.size(); ++i) {
      values.push_back(static_cast<float>(batch.labels.data<int32_t>()[i]));
      if (!batch.other_labels.defined()) continue;
      values.push_back(static_cast<float>(batch.other_labels.data<int32_t>()[i]));
      values.push_back(batch.label_weight.data<float>()[i]);
    }
    all.push_back(std::move(values));
  }
  return all;
}

}  // namespace

TEST_CASE("Batches of files do not depend on workers, nor on where an epoch is resumed", "[data][image]") {
  const auto dataset = std::make_shared<Files>();
  std::vector<std::vector<float>> expected;
  for (const int64_t workers : {1, 3}) {
    Loader loader(
        dataset, everything(),
        {.batch_size = 10, .shuffle = true, .augment = true, .drop_last = true, .workers = workers, .seed = 4});
    const auto got = batches(loader, 2, 0);
    REQUIRE(got.size() == 8);
    if (expected.empty()) expected = got;
    CHECK(got == expected);
    CHECK(batches(loader, 2, 5) == std::vector<std::vector<float>>(expected.begin() + 5, expected.end()));
    CHECK(batches(loader, 3, 0) != expected);
  }
}

TEST_CASE("A training image is its crop decoded, resized and normalised; scaled decoding comes near", "[data][image]") {
  const Files files;
  TransformOptions options;
  options.image_size = 24;
  options.random_resized_crop = true;
  const Transform transform(files.info(), options);
  options.scaled_decode = true;
  const Transform scaled(files.info(), options);
  Transform::Buffers buffers = transform.make_buffers();
  const std::vector<double> mean{0.485, 0.456, 0.406}, std{0.229, 0.224, 0.225};
  std::vector<uint8_t> bytes, pixels(24 * 24 * 3);
  ImageDecoder decoder;
  Image image;
  int other = 0;
  for (int64_t index = 0; index < files.info().images; ++index) {
    files.read_file(index, bytes);
    const ImageKey key{1, 0, index};
    const std::vector<float> out = trained(transform, buffers, bytes, key);
    decoder.open(bytes);
    decoder.decode(random_resized_crop(decoder.height(), decoder.width(), options, key), image);
    kernels_for({}).resize({.x = image.pixels(),
                            .h = image.height,
                            .w = image.width,
                            .c = 3,
                            .row_bytes = image.row_bytes,
                            .oh = 24,
                            .ow = 24,
                            .y = pixels.data()});
    for (size_t i = 0; i < pixels.size(); ++i) {
      REQUIRE(out[i] == static_cast<float>((pixels[i] / 255.0 - mean[i % 3]) / std[i % 3]));
    }
    const std::vector<float> near = trained(scaled, buffers, bytes, key);
    double apart = 0;
    for (size_t i = 0; i < pixels.size(); ++i) apart += std::abs(static_cast<double>(near[i] - out[i]));
    CHECK(apart / static_cast<double>(pixels.size()) < 0.25);  // 14 grey levels
    other += near != out;
  }
  CHECK(other > 20);
}
