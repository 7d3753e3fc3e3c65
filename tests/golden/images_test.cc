// Image files as PIL and torchvision see them: tests/golden/images/, written by make_images.py.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "kernels/kernels.h"
#include "luq/core/safetensors.h"
#include "luq/data/transform.h"
#include "src/data/augment.h"
#include "tests/catch.h"
#include "tests/finished.h"
#include "tests/places.h"

using namespace luq;

namespace {

const std::string kFolder = source_folder() + "/tests/golden/images/";

std::vector<uint8_t> read_file(const std::string& name) {
  std::ifstream file(kFolder + name, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Difference {
  int largest = 0;
  int64_t pixels = 0, of = 0;
};

template <typename T>
Difference difference(const T* values, const Tensor& golden) {
  Difference result{.of = golden.numel()};
  for (int64_t i = 0; i < golden.numel(); ++i) {
    const int apart = std::abs(static_cast<int>(std::lround(values[i])) - golden.data<uint8_t>()[i]);
    result.largest = std::max(result.largest, apart);
    result.pixels += apart > 0;
  }
  return result;
}

}  // namespace

TEST_CASE("Evaluation's pixels are PIL's and torchvision's within one grey level", "[golden][image]") {
  const SafeTensors golden = load_safetensors(kFolder + "golden.safetensors");
  DatasetInfo info;
  info.encoded = true;
  info.mean = {0, 0, 0};
  info.std = {1 / 255.0, 1 / 255.0, 1 / 255.0};  // so that the network's input is the pixel's value
  const Transform transform(info, {});
  Transform::Buffers buffers = transform.make_buffers();
  int files = 0;
  for (const auto& [name, expected] : golden.tensors) {
    if (!name.starts_with("eval/")) continue;
    INFO(name);
    const std::vector<float> out = evaluated(transform, buffers, read_file(name.substr(5)));
    REQUIRE(expected.shape() == Shape{224, 224, 3});
    const Difference found = difference(out.data(), expected);
    INFO(found.pixels << " of " << found.of << " values differ");
    CHECK(found.largest <= 1);
    ++files;
  }
  CHECK(files == 13);
}

TEST_CASE("Crops of every kind of file, resized, are torchvision's within one grey level", "[golden][image]") {
  const SafeTensors golden = load_safetensors(kFolder + "golden.safetensors");
  const Tensor& parts = *golden.find("parts");
  ImageDecoder decoder;
  Image image;
  int crops = 0;
  for (const auto& [name, expected] : golden.tensors) {
    if (!name.starts_with("crop/")) continue;
    INFO(name);
    const size_t slash = name.rfind('/');
    const int64_t* part = parts.data<int64_t>() + 4 * std::stoi(name.substr(slash + 1));
    const std::vector<uint8_t> file = read_file(name.substr(5, slash - 5));
    decoder.open(file);
    decoder.decode({part[0], part[1], part[2], part[3]}, image);
    std::vector<uint8_t> out(64 * 64 * 3);
    kernels_for({}).resize({.x = image.pixels(),
                            .h = image.height,
                            .w = image.width,
                            .c = 3,
                            .row_bytes = image.row_bytes,
                            .oh = 64,
                            .ow = 64,
                            .y = out.data()});
    const Difference found = difference(out.data(), expected);
    INFO(found.pixels << " of " << found.of << " values differ");
    CHECK(found.largest <= 1);
    ++crops;
  }
  CHECK(crops == 63);
}

TEST_CASE("exif_rotate turns as ImageOps.exif_transpose, whole images and parts", "[golden][image]") {
  const SafeTensors golden = load_safetensors(kFolder + "golden.safetensors");
  ImageDecoder decoder({.exif_rotate = true});
  Image image, part;
  int files = 0;
  for (const auto& [name, expected] : golden.tensors) {
    if (!name.starts_with("exif/")) continue;
    INFO(name);
    const std::vector<uint8_t> file = read_file(name.substr(5));
    decoder.open(file);
    decoder.decode(image);
    const Region region{3, 7, 40, 31};
    decoder.open(file);
    decoder.decode(region, part);
    for (int64_t y = 0; y < region.height; ++y) {
      const uint8_t* row = image.pixels() + (region.top + y) * image.row_bytes + region.left * 3;
      REQUIRE(std::equal(row, row + region.width * 3, part.pixels() + y * part.row_bytes));
    }
    std::vector<uint8_t> out(36 * 48 * 3);
    kernels_for({}).resize({.x = image.pixels(),
                            .h = image.height,
                            .w = image.width,
                            .c = 3,
                            .row_bytes = image.row_bytes,
                            .oh = 36,
                            .ow = 48,
                            .y = out.data()});
    CHECK(difference(out.data(), expected).largest <= 1);
    ++files;
  }
  CHECK(files == 9);
}

TEST_CASE("Operations of RandAugment, TrivialAugment and ColorJitter are torchvision's within one grey level",
          "[golden][image]") {
  const std::vector<std::string> names = {"Identity",  "ShearX",     "ShearY",       "TranslateX", "TranslateY",
                                          "Rotate",    "Brightness", "Color",        "Contrast",   "Sharpness",
                                          "Posterize", "Solarize",   "AutoContrast", "Equalize"};
  REQUIRE(names.size() == kAugmentOps);
  const std::map<std::string, void (*)(const Pixels&, double)> adjust = {{"adjust_brightness", adjust_brightness},
                                                                         {"adjust_contrast", adjust_contrast},
                                                                         {"adjust_saturation", adjust_saturation},
                                                                         {"adjust_hue", adjust_hue}};
  const SafeTensors golden = load_safetensors(kFolder + "augment.safetensors");
  const Tensor& image = *golden.find("image");
  std::vector<uint8_t> scratch;
  int results = 0;
  for (const auto& [name, expected] : golden.tensors) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos) continue;
    INFO(name);
    std::vector<uint8_t> values(image.data<uint8_t>(), image.data<uint8_t>() + image.numel());
    const Pixels pixels{values.data(), image.shape()[0], image.shape()[1]};
    const std::string op = name.substr(0, slash);
    const double magnitude = std::stod(name.substr(slash + 1));
    if (adjust.count(op) == 1) {
      adjust.at(op)(pixels, magnitude);
    } else {
      const auto found = std::find(names.begin(), names.end(), op);
      REQUIRE(found != names.end());
      apply(static_cast<AugmentOp>(found - names.begin()), magnitude, pixels, scratch);
    }
    const Difference apart = difference(values.data(), expected);
    INFO(apart.pixels << " of " << apart.of << " values differ, by up to " << apart.largest);
    CHECK(apart.largest <= 1);
    if (op != "Identity") CHECK(difference(values.data(), image).pixels > 0);
    ++results;
  }
  CHECK(results == 38);

  const Tensor &rand = *golden.find("rand_augment"), &trivial = *golden.find("trivial_augment");
  for (int64_t op = 0; op < kAugmentOps; ++op) {
    for (int64_t bin = 0; bin < kMagnitudeBins; ++bin) {
      INFO(names[static_cast<size_t>(op)] << ", bin " << bin);
      const int64_t i = op * kMagnitudeBins + bin;
      CHECK(rand_augment_magnitude(static_cast<AugmentOp>(op), bin, 40, 52) == Approx(rand.data<float>()[i]));
      CHECK(trivial_augment_magnitude(static_cast<AugmentOp>(op), bin) == Approx(trivial.data<float>()[i]));
    }
  }
}
