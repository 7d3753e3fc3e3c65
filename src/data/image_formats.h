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

class PngDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool with_exif);
  void decode(const Region& region, Image& image) const;

 private:
  std::span<const uint8_t> file_;
};

// The orientation tag, 1..8; 1 where there is none or where it cannot be read.
int exif_orientation(const std::vector<uint8_t>& exif);

std::string libjpeg_version();
std::string libpng_version();

}  // namespace luq
