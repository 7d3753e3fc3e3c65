#include "src/data/sample_images.h"

#include <cstdlib>
#include <set>
#include <string>

#include "luq/core/error.h"
#include "luq/data/dataset.h"
#include "luq/data/image.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {

TEST_CASE("sample_images: a JPEG file decodes to nearly its pixels", "[data][sample_images]") {
  for (const int64_t channels : {1, 3}) {
    for (const bool progressive : {false, true}) {
      constexpr int64_t height = 21, width = 35;
      std::vector<uint8_t> pixels;
      for (int64_t i = 0; i < height * width * channels; ++i) {
        pixels.push_back(static_cast<uint8_t>(3 * (i / channels / width) + 2 * (i / channels % width)));
      }
      ImageDecoder decoder;
      const std::vector<uint8_t> file = encode_jpeg(pixels.data(), height, width, channels, 95, progressive);
      decoder.open(file);
      REQUIRE(decoder.height() == height);
      REQUIRE(decoder.width() == width);
      Image image;
      decoder.decode(image);
      int64_t furthest = 0;
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          const int64_t wanted = pixels[static_cast<size_t>((y * width + x) * channels)];
          for (int64_t c = 0; c < 3; ++c) {
            furthest = std::max(furthest, std::abs(wanted - image.pixels()[y * image.row_bytes + x * 3 + c]));
          }
        }
      }
      CHECK(furthest <= 4);  // a smooth slope at quality 95
    }
  }
  CHECK_THROWS_AS(encode_jpeg(nullptr, 0, 3, 3, 90, false), Error);
}

TEST_CASE("sample_images: a data set in ImageNet's layout", "[data][sample_images]") {
  const TemporaryFolder folder;
  write_sample_images(folder / "images", 1000);
  for (const Split split : {Split::train, Split::test}) {
    const auto set = open_dataset("imagenet", folder / "images", split);
    CHECK(set->info().images == 1000);
    CHECK(set->info().num_classes == 1000);
    ImageDecoder decoder;
    std::set<std::string> files;
    std::vector<uint8_t> bytes;
    for (int64_t index = 0; index < 16; ++index) {
      CHECK(set->read_file(index, bytes) == index);
      decoder.open(bytes);
      Image image;
      decoder.decode(image);
      files.emplace(bytes.begin(), bytes.end());
    }
    CHECK(files.size() == 8);
  }
  write_file(folder / "file", "x");
  CHECK_THROWS_WITH(write_sample_images(folder / "file", 2), contains_text(folder / "file"));
}

TEST_CASE("dataset: what is published of the sets is what is in them", "[data]") {
  const auto train = published_info("imagenet", Split::train), test = published_info("imagenet", Split::test);
  REQUIRE(train);
  CHECK(train->images == 1281167);
  CHECK(train->num_classes == 1000);
  CHECK(train->encoded);
  CHECK(test->images == 50000);
  CHECK_FALSE(published_info("image_folder", Split::train));
  CHECK_FALSE(published_info("synthetic", Split::train));
  CHECK_THROWS_AS(published_info("imagnet", Split::train), UserError);
  for (const std::string& name : dataset_names()) {
    const auto info = published_info(name, Split::test);
    if (!info || find_dataset(name).empty()) continue;
    INFO(name);
    const auto set = open_dataset(name, "", Split::test);
    CHECK(set->info().images == info->images);
    CHECK(set->info().height == info->height);
    CHECK(set->info().channels == info->channels);
    CHECK(set->info().num_classes == info->num_classes);
  }
}

}  // namespace luq
