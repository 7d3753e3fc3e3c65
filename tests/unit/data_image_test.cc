// The decoder: parts equal the whole, broken files are told from sound ones, and one decoder serves many files.
#include "luq/data/image.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "tests/catch.h"
#include "tests/places.h"

using namespace luq;

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<uint8_t>;

const std::string kFolder = source_folder() + "/tests/golden/images/";
const std::string kFormats = source_folder() + "/tests/golden/formats/";

Bytes read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> image_files() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  REQUIRE(files.size() == 29);
  return files;
}

Bytes pixels_of(const Image& image) {
  Bytes pixels;
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* row = image.pixels() + y * image.row_bytes;
    pixels.insert(pixels.end(), row, row + image.width * 3);
  }
  return pixels;
}

Bytes decode(const Bytes& file, ImageDecoder& decoder) {
  Image image;
  decoder.open(file);
  decoder.decode(image);
  return pixels_of(image);
}

}  // namespace

TEST_CASE("A part of an image is decoded to the bit as in the whole", "[data][image]") {
  RngStream random(make_rng_key(1, "test:parts"));
  ImageDecoder decoder;
  Image whole, part;
  for (const fs::path& path : image_files()) {
    INFO(path);
    const Bytes file = read_file(path);
    decoder.open(file);
    const int64_t height = decoder.height(), width = decoder.width();
    decoder.decode(whole);
    REQUIRE((whole.height == height && whole.width == width));
    for (int round = 0; round < 60; ++round) {
      Region r;
      r.height = 1 + random.below(static_cast<uint32_t>(height));
      r.width = 1 + random.below(static_cast<uint32_t>(width));
      r.top = random.below(static_cast<uint32_t>(height - r.height + 1));
      r.left = random.below(static_cast<uint32_t>(width - r.width + 1));
      INFO(r.height << " x " << r.width << " at " << r.top << ", " << r.left);
      decoder.open(file);
      decoder.decode(r, part);
      REQUIRE((part.height == r.height && part.width == r.width));
      for (int64_t y = 0; y < r.height; ++y) {
        const uint8_t* row = whole.pixels() + (r.top + y) * whole.row_bytes + r.left * 3;
        REQUIRE(std::equal(row, row + r.width * 3, part.pixels() + y * part.row_bytes));
      }
    }
  }
}

TEST_CASE("Reduced decoding gives about the mean of the pixels, for the whole and for parts", "[data][image]") {
  ImageDecoder decoder;
  Image whole, small;
  const Bytes file = read_file(kFolder + "420.jpg");
  decoder.open(file);
  decoder.decode(whole);
  for (const int64_t reduction : {2, 4, 8}) {
    const Region region{16, 24, 160, 200};
    decoder.open(file);
    decoder.decode(region, small, reduction);
    REQUIRE((small.height == 160 / reduction && small.width == 200 / reduction));
    double apart = 0;
    for (int64_t y = 0; y < small.height; ++y) {
      for (int64_t x = 0; x < small.width * 3; ++x) {
        double mean = 0;
        for (int64_t i = 0; i < reduction * reduction; ++i) {
          const int64_t row = region.top + y * reduction + i / reduction;
          const int64_t column = region.left + x / 3 * reduction + i % reduction;
          mean += whole.pixels()[row * whole.row_bytes + column * 3 + x % 3];
        }
        apart += std::abs(mean / static_cast<double>(reduction * reduction) - small.pixels()[y * small.row_bytes + x]);
      }
    }
    CHECK(apart / static_cast<double>(small.height * small.width * 3) < 4);
  }
  decoder.open(file);
  decoder.decode({0, 0, 1, 1}, small, 8);
  CHECK((small.height == 1 && small.width == 1));
  decoder.open(file);
  decoder.decode({whole.height - 1, whole.width - 1, 1, 1}, small, 8);
  CHECK((small.height == 1 && small.width == 1));
}

TEST_CASE("A truncated file is an error wherever it is cut", "[data][image]") {
  ImageDecoder decoder;
  for (const fs::path& path : image_files()) {
    if (path.filename().string().starts_with("exif_")) continue;
    INFO(path);
    const Bytes file = read_file(path);
    const bool is_png = file[0] == 0x89;
    // A PNG's last chunk says nothing: 12 bytes that nobody misses.
    const size_t needed = is_png ? file.size() - 13 : file.size() - 1;
    for (size_t i = 0; i <= 40; ++i) {
      const size_t size = needed * i / 40;
      INFO(size << " of " << file.size() << " bytes");
      CHECK_THROWS_AS(decode(Bytes(file.begin(), file.begin() + static_cast<ptrdiff_t>(size)), decoder), Error);
    }
  }
}

TEST_CASE("Damaged files are decoded or refused, and the decoder goes on", "[data][image]") {
  RngStream random(make_rng_key(2, "test:damage"));
  ImageDecoder decoder({.exif_rotate = true, .max_pixels = 1 << 18}), fresh({.exif_rotate = true});
  for (const fs::path& path : image_files()) {
    INFO(path);
    const Bytes file = read_file(path);
    int refused = 0;
    for (int round = 0; round < 60; ++round) {
      Bytes damaged = file;
      for (int i = 0; i < 3; ++i) {
        damaged[random.below(static_cast<uint32_t>(std::min<size_t>(damaged.size(), 2000)))] =
            static_cast<uint8_t>(random.bits());
      }
      try {
        decode(damaged, decoder);
      } catch (const Error&) {
        ++refused;
      }
    }
    CHECK(refused > 0);
    CHECK(decode(file, decoder) == decode(file, fresh));
  }
}

TEST_CASE("A truncated file of another format is an error wherever it is cut", "[data][image]") {
  ImageDecoder decoder;
  for (const char* name : {"rgb.bmp",        "palette_8.bmp",   "rle8.bmp",
                           "rle4_jumps.bmp", "rgb.dib",         "555.bmp",
                           "os2_24.bmp",     "p6_255.ppm",      "p5_1023.pgm",
                           "p3_255.ppm",     "p4.pbm",          "palette.gif",
                           "interlaced.gif", "small_frame.gif", "rgb.tif",
                           "rgb_lzw.tif",    "deflate.tif",     "jpeg_420.tif",
                           "palette_8.tif",  "big.tif",         "rgb_tiles_separate.tif",
                           "lossy.webp",     "lossless.webp",   "alpha_lossy.webp"}) {
    INFO(name);
    const Bytes file = read_file(kFormats + name);
    CHECK_NOTHROW(decode(file, decoder));
    for (size_t i = 0; i < 40; ++i) {
      const size_t size = file.size() * i / 40;
      INFO(size << " of " << file.size() << " bytes");
      CHECK_THROWS_AS(decode(Bytes(file.begin(), file.begin() + static_cast<ptrdiff_t>(size)), decoder), Error);
    }
  }
}

TEST_CASE("A larger image of any format is refused before it is decoded", "[data][image]") {
  ImageDecoder decoder({.max_pixels = 100});
  for (const char* name : {"rgb.bmp", "p6_255.ppm", "palette.gif", "rgb.tif", "lossy.webp", "animation.webp"}) {
    INFO(name);
    CHECK_THROWS_WITH(decoder.open(read_file(kFormats + name)),
                      "[image] expected an image of 1 to 100 pixels, got 19 x 23");
  }
  // Headers that promise what no memory holds.
  const auto text = [](const std::string& bytes) { return Bytes(bytes.begin(), bytes.end()); };
  ImageDecoder usual;
  CHECK_THROWS_WITH(usual.open(text("P6 2000000000 2000000000 255\n")), contains_text("got 2000000000 x 2000000000"));
  CHECK_THROWS_AS(decode(text("P5 16384 16384 255\n1"), usual), Error);
  CHECK_THROWS_AS(usual.open(text("P6 99999999999999999999 1 255\n")), Error);
}

TEST_CASE("Damaged files of other formats are decoded or refused, and the decoder goes on", "[data][image]") {
  RngStream random(make_rng_key(3, "test:damage"));
  ImageDecoder decoder({.exif_rotate = true, .max_pixels = 1 << 18});
  int files = 0;
  for (const auto& entry : fs::directory_iterator(kFormats)) {
    if (entry.path().extension() == ".safetensors") continue;
    INFO(entry.path());
    const Bytes file = read_file(entry.path());
    for (int round = 0; round < 12; ++round) {
      Bytes damaged = file;
      for (int i = 0; i < 3; ++i) {
        damaged[random.below(static_cast<uint32_t>(std::min<size_t>(damaged.size(), 300)))] =
            static_cast<uint8_t>(random.bits());
      }
      try {
        decode(damaged, decoder);
      } catch (const Error&) {
      }
    }
    ++files;
  }
  CHECK(files > 170);
  for (const char* name : {"rgb.bmp", "p6_255.ppm", "palette.gif", "rgb.tif", "lossy.webp"}) {
    ImageDecoder fresh;
    const Bytes file = read_file(kFormats + name);
    CHECK(decode(file, decoder) == decode(file, fresh));
  }
}

TEST_CASE("Text of a PNM file that no writer makes is refused", "[data][image]") {
  ImageDecoder decoder;
  const auto text = [](const std::string& content) { return Bytes(content.begin(), content.end()); };
  CHECK_THROWS_WITH(decode(text("P2\n2 2\n100\n0 1\n101 3\n"), decoder), contains_text("at most 100, got 101"));
  CHECK_THROWS_WITH(decode(text("P3\n1 1\n255\n0 300 1\n"), decoder), contains_text("at most 255, got 300"));
  CHECK_THROWS_WITH(decode(text("P1\n2 2\n0 1 2 1\n"), decoder), contains_text("at most 1, got 2"));
  CHECK_THROWS_WITH(decode(text("P2\n2 1\n255\n0 x1\n"), decoder), contains_text("got the byte 78"));
  decode(text("P1\n2 2\n01\n10"), decoder);
  decode(text("P2\n2 1\n7\n7 0 "), decoder);
}

TEST_CASE("What a file holds is told by its first bytes", "[data][image]") {
  for (const auto& [name, extension] :
       std::vector<std::pair<const char*, const char*>>{{"rgb.bmp", "bmp"},
                                                        {"rgb.dib", "dib"},
                                                        {"p6_255.ppm", "pnm"},
                                                        {"palette.gif", "gif"},
                                                        {"big_endian_big.tif", "tif"},
                                                        {"lossy.webp", "webp"},
                                                        {"../images/rgb.jpg", "jpg"},
                                                        {"../images/png_named.JPEG", "png"},
                                                        {"p7.pam", ""}}) {
    INFO(name);
    CHECK(image_extension(read_file(kFormats + name)) == extension);
  }
  CHECK(image_extension({}) == "");
}

TEST_CASE("Messages about files say what is wrong", "[data][image]") {
  ImageDecoder decoder;
  const auto refused = [&](const Bytes& file, const std::string& message) {
    CHECK_THROWS_WITH(decode(file, decoder), contains_text(message));
  };
  refused({}, "[image] expected a JPEG, PNG, BMP, GIF, TIFF, WebP or PNM file, got an empty file");
  refused({'G', 'I', 'F', '8'}, "got a file that begins with the bytes 47 49 46 38");
  refused({0xff, 0xd8, 0xff}, "[image] broken JPEG: Premature end of JPEG file");
  const Bytes jpeg = read_file(kFolder + "420.jpg"), png = read_file(kFolder + "rgba.png");
  refused(Bytes(jpeg.begin(), jpeg.end() - 2), "[image] truncated JPEG: no end marker");
  Bytes hole(jpeg.begin(), jpeg.begin() + 9000);
  hole.insert(hole.end(), jpeg.end() - 2, jpeg.end());
  refused(hole, "[image] broken JPEG: Corrupt JPEG data: premature end of data segment");
  refused(Bytes(png.begin(), png.begin() + 3000), "[image] broken PNG: the file ends early");
  Bytes flipped = png;
  flipped[2000] ^= 1;
  refused(flipped, "[image] broken PNG: ");

  ImageDecoder small({.max_pixels = 1000});
  CHECK_THROWS_WITH(small.open(jpeg), "[image] expected an image of 1 to 1000 pixels, got 227 x 301");
  CHECK_THROWS_WITH(small.open(png), "[image] expected an image of 1 to 1000 pixels, got 66 x 83");
  Image image;
  CHECK_THROWS_WITH(small.decode({0, 0, 1, 1}, image), contains_text("expected an opened image"));
  for (const Region& region : {Region{0, 0, 0, 1}, {0, 0, 228, 1}, {-1, 0, 1, 1}, {200, 0, 28, 1}, {0, 300, 1, 2}}) {
    decoder.open(jpeg);
    CHECK_THROWS_WITH(decoder.decode(region, image), contains_text("expected a region inside 227 x 301"));
  }
  decoder.open(jpeg);
  CHECK_THROWS_WITH(decoder.decode({0, 0, 1, 1}, image, 3), contains_text("reduction of 1, 2, 4 or 8, got 3"));
}

TEST_CASE("The libraries that decode are named", "[data][image]") {
  CHECK(image_library_versions().starts_with("libjpeg-turbo "));
  for (const char* library : {", libpng 1.", ", libtiff 4.", ", giflib 5.", ", OpenCV 4."}) {
    CHECK_THAT(image_library_versions(), contains_text(library));
  }
}
