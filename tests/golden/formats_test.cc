// Files of the formats beside JPEG and PNG as PIL sees them: tests/golden/formats/, written by make_formats.py.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "luq/core/error.h"
#include "luq/core/safetensors.h"
#include "luq/data/image.h"
#include "tests/catch.h"
#include "tests/places.h"

using namespace luq;

namespace {

namespace fs = std::filesystem;

const std::string kFolder = source_folder() + "/tests/golden/formats/";

std::vector<uint8_t> read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

void check_pixels(const Image& image, const Region& region, const Tensor& expected) {
  REQUIRE((image.height == region.height && image.width == region.width));
  int64_t different = 0;
  for (int64_t y = 0; y < region.height; ++y) {
    const uint8_t* row = expected.data<uint8_t>() + ((region.top + y) * expected.size(1) + region.left) * 3;
    different += !std::equal(row, row + region.width * 3, image.pixels() + y * image.row_bytes);
  }
  CHECK(different == 0);
}

}  // namespace

TEST_CASE("Files of every format have PIL's pixels, as a whole and in parts", "[golden][image][formats]") {
  const SafeTensors golden = load_safetensors(kFolder + "pixels.safetensors");
  ImageDecoder decoder;
  Image image;
  int files = 0;
  for (const auto& [name, expected] : golden.tensors) {
    INFO(name);
    const std::vector<uint8_t> file = read_file(kFolder + name.substr(name.find('/') + 1));
    decoder.open(file);
    const int64_t height = decoder.height(), width = decoder.width();
    REQUIRE(expected.shape() == Shape({height, width, 3}));
    decoder.decode(image);
    check_pixels(image, {0, 0, height, width}, expected);
    for (const Region& part : {Region{height - 1, width - 1, 1, 1},
                               {height / 3, width / 4, height / 2, width / 3},
                               {0, 1, height, width - 1}}) {
      decoder.open(file);
      decoder.decode(part, image, 2);
      check_pixels(image, part, expected);
    }
    ++files;
  }
  CHECK(files == 174);
}

TEST_CASE("What is not read is refused with its reason", "[golden][image][formats]") {
  const std::map<std::string, std::string> reasons = {
      {"32_bits.tif", "samples of 32 bits are not read"},
      {"32_odd_masks.bmp", "masks 000003ff 000ffc00 3ff00000 00000000 of 32 bits a pixel are not read"},
      {"float.tif", "samples that are signed or floating point are not read"},
      {"grey_multiplied.tif", "grey that is multiplied by alpha is not read"},
      {"lab.tif", "photometric interpretation 8 is not read"},
      {"p7.pam", "got a file that begins with the bytes 50 37"},
      {"palette_missing.tif", "its palette cannot be read"},
      {"signed.tif", "samples that are signed or floating point are not read"},
      {"webp.tif", "compression 50001 is not read"}};
  const SafeTensors golden = load_safetensors(kFolder + "pixels.safetensors");
  size_t refused = 0;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    const std::string name = entry.path().filename().string();
    if (name == "pixels.safetensors" || golden.find("pil/" + name) || golden.find("ours/" + name)) continue;
    INFO(name);
    ImageDecoder decoder;
    const std::vector<uint8_t> file = read_file(entry.path());
    REQUIRE(reasons.count(name) == 1);
    CHECK_THROWS_WITH(decoder.open(file), contains_text(reasons.at(name)));
    ++refused;
  }
  CHECK(refused == reasons.size());
}
