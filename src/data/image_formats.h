// What reads one format: a header first, then pixels.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "luq/data/image.h"

namespace luq {

struct ImageHeader {
  int64_t height = 0, width = 0;  // as stored
  std::vector<uint8_t> exif;      // "Exif", two zeros and a TIFF structure, or empty
  int orientation = 1;            // EXIF's number, of a format whose pixels are always turned by it (TIFF)
};

class JpegDecoder {
 public:
  JpegDecoder();
  ~JpegDecoder();
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  ImageHeader open(std::span<const uint8_t> file, bool with_exif);
  // The region of the stored image at 1/reduction of its size (1, 2, 4, 8).
  void decode(const Region& region, int64_t reduction, Image& image);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A format that is decoded as a whole, whatever part of it is wanted.
class WholeDecoder {
 public:
  virtual ~WholeDecoder() = default;
  // The file must stay as it is until decode() is done; nothing as large as the image is allocated here. Throws Error.
  virtual ImageHeader open(std::span<const uint8_t> file, bool with_exif) = 0;
  virtual void decode(const Region& region, Image& image) = 0;
};

class PngDecoder : public WholeDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool with_exif) override;
  void decode(const Region& region, Image& image) override;

 private:
  std::span<const uint8_t> file_;
};

std::unique_ptr<WholeDecoder> make_bmp_decoder();
std::unique_ptr<WholeDecoder> make_gif_decoder();
std::unique_ptr<WholeDecoder> make_pnm_decoder();
std::unique_ptr<WholeDecoder> make_tiff_decoder();
std::unique_ptr<WholeDecoder> make_webp_decoder();

// Makes of a whole image in dense rows a part of it.
inline void keep_region(const Region& region, Image& image) {
  image.first = region.top * image.row_bytes + region.left * 3;
  image.height = region.height;
  image.width = region.width;
}

// CMYK to RGB, a colour at a time, as PIL: light - ink * light / 255, rounded; light is 255 - black.
inline uint8_t from_cmyk(uint32_t ink, uint32_t light) {
  const uint32_t product = ink * light + 128;
  return static_cast<uint8_t>(light - (((product >> 8) + product) >> 8));
}

// The orientation tag, 1..8; 1 where there is none or where it cannot be read.
int exif_orientation(const std::vector<uint8_t>& exif);

std::string libjpeg_version();
std::string libpng_version();
std::string giflib_version();
std::string libtiff_version();
std::string opencv_version();

}  // namespace luq
