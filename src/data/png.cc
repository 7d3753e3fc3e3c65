// As in jpeg.cc, an error of libpng is a longjmp past nothing that has a destructor.
#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "luq/core/error.h"
#include "src/core/no_memory.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

constexpr std::array<uint8_t, 6> kExifStart = {'E', 'x', 'i', 'f', 0, 0};  // which a PNG leaves out

struct Source {
  std::span<const uint8_t> file;
  size_t position = 0;
  char message[256] = "";
  png_alloc_size_t missing = 0;  // bytes that libpng or zlib wanted and did not get
};

// libpng goes on without what it needs memory for where it can, so that an image would come out otherwise.
png_voidp obtain(png_structp png, png_alloc_size_t bytes) {
  void* memory = std::malloc(bytes);
  if (memory == nullptr) static_cast<Source*>(png_get_mem_ptr(png))->missing = bytes;
  return memory;
}

void give_back(png_structp, png_voidp memory) { std::free(memory); }

void on_error(png_structp png, png_const_charp message) {
  Source& source = *static_cast<Source*>(png_get_error_ptr(png));
  std::snprintf(source.message, sizeof source.message, "%s", message);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read(png_structp png, png_bytep out, size_t count) {
  Source& source = *static_cast<Source*>(png_get_io_ptr(png));
  if (source.file.size() - source.position < count) png_error(png, "the file ends early");
  std::memcpy(out, source.file.data() + source.position, count);
  source.position += count;
}

class Reader {
 public:
  explicit Reader(std::span<const uint8_t> file) : source_{.file = file} {
    png_ = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning, &source_, obtain, give_back);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      check_memory();
      fail("[image] libpng: {}", static_cast<const char*>(source_.message));
    }
    png_set_read_fn(png_, &source_, read);
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  template <typename Step>
  void run(Step step) {
    const bool sound = attempt(step);
    check_memory();
    if (!sound) fail("[image] broken PNG: {}", static_cast<const char*>(source_.message));
  }
  png_structp png() { return png_; }
  png_infop info() { return info_; }

 private:
  void check_memory() const {
    if (source_.missing > 0) fail_out_of_memory("[image] a PNG is decoded:", static_cast<int64_t>(source_.missing));
  }
  template <typename Step>
  bool attempt(Step step) {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    step();
    return true;
  }

  Source source_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
};

}  // namespace

ImageHeader PngDecoder::open(std::span<const uint8_t> file, bool with_exif) {
  file_ = file;
  Reader reader(file);
  png_uint_32 width = 0, height = 0, exif_size = 0;
  png_bytep exif = nullptr;
  reader.run([&] {
    png_read_info(reader.png(), reader.info());
    width = png_get_image_width(reader.png(), reader.info());
    height = png_get_image_height(reader.png(), reader.info());
    if (with_exif) png_get_eXIf_1(reader.png(), reader.info(), &exif_size, &exif);
  });
  ImageHeader header{.height = height, .width = width, .exif = {}};
  if (exif_size > 0) {
    header.exif.resize(kExifStart.size() + exif_size);
    std::copy_n(kExifStart.begin(), kExifStart.size(), header.exif.begin());
    std::copy_n(exif, exif_size, header.exif.begin() + kExifStart.size());
  }
  return header;
}

void PngDecoder::decode(const Region& region, Image& image) {
  Reader reader(file_);
  int passes = 1;
  reader.run([&] {
    png_read_info(reader.png(), reader.info());
    png_set_expand(reader.png());
    png_set_strip_16(reader.png());
    png_set_gray_to_rgb(reader.png());
    png_set_strip_alpha(reader.png());
    passes = png_set_interlace_handling(reader.png());
    png_read_update_info(reader.png(), reader.info());
  });
  const int64_t height = png_get_image_height(reader.png(), reader.info());
  const int64_t width = png_get_image_width(reader.png(), reader.info());
  if (png_get_rowbytes(reader.png(), reader.info()) != static_cast<size_t>(width) * 3) {
    fail("[image] broken PNG: expected rows of {} bytes, got {}", width * 3,
         png_get_rowbytes(reader.png(), reader.info()));
  }
  image.resize(height, width);
  // All rows, so that a broken file is found to be broken whatever part of it is wanted.
  reader.run([&] {
    for (int pass = 0; pass < passes; ++pass) {
      for (int64_t y = 0; y < height; ++y) png_read_row(reader.png(), image.pixels() + y * image.row_bytes, nullptr);
    }
  });
  keep_region(region, image);
}

std::string libpng_version() { return fmt::format("libpng {}", png_get_libpng_ver(nullptr)); }

}  // namespace luq
