// Image files in memory (JPEG, PNG, BMP, GIF, TIFF, WebP, PNM) to RGB pixels, as PIL's Image.open(...).convert("RGB")
// makes them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace luq {

struct Region {  // of an image, in pixels
  int64_t top = 0, left = 0, height = 0, width = 0;
  friend bool operator==(const Region&, const Region&) = default;
};

// RGB pixels (height, width, 3) of 8 bits, rows row_bytes apart, beginning at `first` in storage that is kept from
// image to image.
struct Image {
  int64_t height = 0, width = 0, row_bytes = 0;
  std::vector<uint8_t> storage;
  int64_t first = 0;

  const uint8_t* pixels() const { return storage.data() + first; }
  uint8_t* pixels() { return storage.data() + first; }
  // Makes room for dense rows; what the pixels hold is not said.
  void resize(int64_t new_height, int64_t new_width);
};

struct DecodeOptions {
  bool exif_rotate = false;               // turn and mirror as the EXIF orientation tag says
  int64_t max_pixels = int64_t{1} << 28;  // larger images are refused, a guard against decompression bombs
};

// One image at a time; not thread-safe: each thread has its own, and reuses it. The first bytes tell the format. Grey
// is replicated, palettes are looked up, alpha is dropped, samples of 16 bits lose their lower 8 (those of PNM are
// scaled by the largest that the file names), CMYK and YCCK of JPEG are taken as Adobe's inverted kind; colour profiles
// and gamma are ignored. Of several pictures in a file (GIF, TIFF, WebP) the first is taken. docs/data.md has the list.
class ImageDecoder {
 public:
  explicit ImageDecoder(const DecodeOptions& options = {});
  ~ImageDecoder();
  ImageDecoder(ImageDecoder&&) noexcept;
  ImageDecoder& operator=(ImageDecoder&&) noexcept;

  // Reads the header; file must stay as it is until decode() is done. Throws Error `[image] ...`, which says what is
  // wrong, for other formats, for a broken header, for a truncated JPEG and for too many pixels; std::bad_alloc, here
  // and in decode(); and UserError when the library that reads the format cannot be loaded.
  void open(std::span<const uint8_t> file);
  // Of the opened image, turned as it will be decoded.
  int64_t height() const;
  int64_t width() const;
  // The region's pixels, the same to the bit as those of the whole image. Rows and columns of a JPEG outside it are not
  // decoded as far as the format allows. reduction 2, 4, 8: a JPEG is decoded at 1/reduction of its size in the
  // frequency domain, and the region, in pixels of the full size, is rounded to the reduced ones; other formats ignore
  // it. Throws Error `[image] ...` for broken or truncated data, and for a region that is empty or not inside the
  // image.
  void decode(const Region& region, Image& image, int64_t reduction = 1);
  // The whole image.
  void decode(Image& image);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "jpg", "png", "bmp", "gif", "tif", "webp", "pnm": what the file's first bytes say it is; "" when it is none of these.
std::string image_extension(std::span<const uint8_t> file);
// "a JPEG, PNG, ... or PNM file", for messages.
std::string image_formats();

// "libjpeg-turbo 2.1.5, libpng 1.6.39, ...": what decodes.
std::string image_library_versions();

}  // namespace luq
