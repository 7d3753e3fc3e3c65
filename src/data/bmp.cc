// OpenCV reads BMP files, behind a header and a palette that are written anew: so files of OS/2, palettes with entries
// missing and unusual headers are read as PIL reads them. Run lengths are spread to pixels of 8 bits, and colours of 16
// bits made 8 bits, here, as PIL does both. A .dib file may be one without the 14 bytes of the file's header.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "src/data/opencv_pixels.h"

namespace luq {
namespace {

enum Compression : uint32_t { plain = 0, rle8 = 1, rle4 = 2, masks = 3 };

using Masks = std::array<uint32_t, 4>;  // red, green, blue, alpha
constexpr Masks masks_565 = {0xf800, 0x7e0, 0x1f, 0}, masks_555 = {0x7c00, 0x3e0, 0x1f, 0},
                masks_888 = {0xff0000, 0xff00, 0xff, 0};
constexpr std::array<Masks, 7> masks_of_32_bits = {{{0xff0000, 0xff00, 0xff, 0},
                                                    {0xff000000, 0xff0000, 0xff00, 0},
                                                    {0xff000000, 0xff00, 0xff, 0},
                                                    {0xff000000, 0xff0000, 0xff00, 0xff},
                                                    {0xff, 0xff00, 0xff0000, 0xff000000},
                                                    {0xff0000, 0xff00, 0xff, 0xff000000},
                                                    {0xff000000, 0xff00, 0xff, 0xff0000}}};

struct BmpHeader {
  int64_t height = 0, width = 0;
  bool top_down = false;
  uint32_t bits = 0, compression = plain;
  Masks masks{};
  size_t palette_at = 0, palette_entries = 0, entry_bytes = 4;
  size_t pixels_at = 0;
};

class Bytes {
 public:
  explicit Bytes(std::span<const uint8_t> file) : file_(file) {}
  uint32_t u8(size_t at) const {
    if (at >= file_.size()) fail("[image] broken BMP: the file ends early");
    return file_[at];
  }
  uint32_t u16(size_t at) const { return u8(at) | u8(at + 1) << 8; }
  uint32_t u32(size_t at) const { return u16(at) | u16(at + 2) << 16; }

 private:
  std::span<const uint8_t> file_;
};

BmpHeader parse(std::span<const uint8_t> file) {
  const Bytes bytes(file);
  BmpHeader header;
  const size_t start = file[0] == 'B' ? 14 : 0;
  const uint32_t size = bytes.u32(start);
  header.palette_at = start + size;
  uint32_t colours = 0;
  if (size == 12) {
    header.width = bytes.u16(start + 4);
    header.height = bytes.u16(start + 6);
    header.bits = bytes.u16(start + 10);
    header.entry_bytes = 3;
  } else if (size == 40 || size == 52 || size == 56 || size == 64 || size == 108 || size == 124) {
    header.width = static_cast<int32_t>(bytes.u32(start + 4));
    header.height = static_cast<int32_t>(bytes.u32(start + 8));
    header.top_down = header.height < 0;
    header.height = std::abs(header.height);
    header.bits = bytes.u16(start + 14);
    header.compression = bytes.u32(start + 16);
    colours = bytes.u32(start + 32);
  } else {
    fail("[image] BMP: expected a header of 12, 40, 52, 56, 64, 108 or 124 bytes, got {}", size);
  }
  const bool palette = header.bits == 1 || header.bits == 4 || header.bits == 8;
  if (!palette && header.bits != 16 && header.bits != 24 && header.bits != 32) {
    fail("[image] BMP: expected 1, 4, 8, 16, 24 or 32 bits a pixel, got {}", header.bits);
  }
  const bool fits = header.compression == plain || (header.compression == rle8 && header.bits == 8) ||
                    (header.compression == rle4 && header.bits == 4) || (header.compression == masks && !palette);
  if (!fits) {
    fail(
        "[image] BMP: compression {} of {} bits a pixel is not read: expected none, run lengths of 4 or 8 bits, or "
        "masks",
        header.compression, header.bits);
  }
  if (header.compression == masks) {
    for (size_t i = 0; i < 3; ++i) header.masks[i] = bytes.u32(start + 40 + 4 * i);
    if (size >= 56 && header.bits == 32) header.masks[3] = bytes.u32(start + 52);
    if (size == 40) header.palette_at += 12;
    if (header.bits == 32 && header.masks == Masks{}) header.compression = plain;
  }
  if (header.compression == masks) {
    const bool known = header.bits == 16   ? header.masks == masks_565 || header.masks == masks_555
                       : header.bits == 24 ? header.masks == masks_888
                                           : std::find(masks_of_32_bits.begin(), masks_of_32_bits.end(),
                                                       header.masks) != masks_of_32_bits.end();
    if (!known) {
      fail(
          "[image] BMP: masks {:08x} of {} bits a pixel are not read: expected a byte for each colour, or 5, 6 and 5 "
          "bits",
          fmt::join(header.masks, " "), header.bits);
    }
    if (header.bits == 24) header.compression = plain;
  }
  header.pixels_at = start == 0 ? header.palette_at : bytes.u32(10);
  if (palette) {
    header.palette_entries = colours == 0 ? size_t{1} << header.bits : colours;
    if (header.palette_entries > 65536) fail("[image] broken BMP: a palette of {} colours", header.palette_entries);
    const size_t end = header.palette_at + header.entry_bytes * header.palette_entries;
    if (header.pixels_at == header.palette_at) header.pixels_at = end;  // as some programs write it
    if (header.pixels_at > header.palette_at && header.pixels_at < end) {
      header.palette_entries = (header.pixels_at - header.palette_at) / header.entry_bytes;
    }
  }
  if (header.pixels_at < start + size || header.pixels_at >= file.size()) fail("[image] broken BMP: no pixels");
  return header;
}

void put16(std::vector<uint8_t>& out, uint32_t value) {
  out.push_back(static_cast<uint8_t>(value));
  out.push_back(static_cast<uint8_t>(value >> 8));
}
void put32(std::vector<uint8_t>& out, uint32_t value) {
  put16(out, value & 0xffff);
  put16(out, value >> 16);
}

class BmpDecoder : public WholeDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool) override {
    file_ = file;
    header_ = parse(file);
    return {.height = header_.height, .width = header_.width, .exif = {}};
  }

  void decode(const Region& region, Image& image) override {
    write_plain_file();
    const bool five_bits = header_.bits == 16, six_bits = five_bits && header_.masks == masks_565;
    copy_region(reader_.decode(plain_, "BMP"), header_.height, header_.width, region, image,
                [&](uint32_t sample, int c) {
                  if (!five_bits) return static_cast<uint8_t>(sample);
                  return static_cast<uint8_t>(six_bits && c == 1 ? (sample >> 2) * 255 / 63 : (sample >> 3) * 255 / 31);
                });
  }

 private:
  // All colours that a pixel may have: one that is not there is black, or grey where all that are there are grey.
  void write_palette(size_t colours) {
    const size_t begin = plain_.size();
    bool grey = true;
    for (size_t i = 0; i < colours; ++i) {
      const size_t at = header_.palette_at + i * header_.entry_bytes;
      const bool there = i < header_.palette_entries && at + 3 <= file_.size();
      for (size_t c = 0; c < 3; ++c) {
        plain_.push_back(there ? file_[at + c] : 0);
        grey = grey && (!there || file_[at + c] == i);
      }
      plain_.push_back(0);
    }
    for (size_t i = header_.palette_entries; grey && i < colours; ++i) {
      std::fill_n(plain_.begin() + static_cast<int64_t>(begin + 4 * i), 3, static_cast<uint8_t>(i));
    }
  }

  // Appends pixels of 8 bits. A run ends where its row does, and single pixels go on in the next one.
  void spread_run_lengths() {
    const auto width = static_cast<size_t>(header_.width), pixels = width * static_cast<size_t>(header_.height);
    const size_t padded = (width + 3) / 4 * 4, begin = plain_.size();
    const bool four_bits = header_.compression == rle4;
    const auto put = [&](size_t pixel, uint32_t colour) {
      plain_[begin + pixel / width * padded + pixel % width] = static_cast<uint8_t>(colour);
    };
    const auto half = [](uint32_t byte, size_t i) { return i % 2 == 0 ? byte >> 4 : byte & 15; };
    plain_.resize(begin + padded * static_cast<size_t>(header_.height));
    const Bytes bytes(file_);
    size_t at = header_.pixels_at, pixel = 0, x = 0;
    bool row_begins = true;
    while (pixel < pixels) {
      const uint32_t count = bytes.u8(at), value = bytes.u8(at + 1);
      at += 2;
      if (count == 0 && value == 1) break;
      if (count == 0 && value == 0) {
        pixel = row_begins ? pixel + width : (pixel + width - 1) / width * width;
        x = 0;
        row_begins = true;
      } else if (count == 0 && value == 2) {  // a jump
        const size_t right = bytes.u8(at), rows = bytes.u8(at + 1);
        at += 2;
        pixel = std::min(pixels, pixel + right + rows * width);
        x = pixel % width;
        row_begins = row_begins && right == 0;
      } else {
        const size_t run =
            count > 0 ? std::min<size_t>(count, width - std::min(x, width)) : std::min<size_t>(value, pixels - pixel);
        for (size_t i = 0; i < run; ++i) {
          const uint32_t byte = count > 0 ? value : bytes.u8(at + (four_bits ? i / 2 : i));
          put(pixel + i, four_bits ? half(byte, i) : byte);
        }
        if (count == 0) {
          at += four_bits ? (run + 1) / 2 : run;
          at += at % 2;
        }
        pixel += run;
        x += count > 0 ? run : value;
        row_begins = false;
      }
    }
  }

  void write_plain_file() {
    const bool run_lengths = header_.compression == rle8 || header_.compression == rle4;
    const bool with_masks = header_.compression == masks;
    const size_t colours = header_.bits <= 8 ? size_t{1} << header_.bits : 0;
    const uint32_t header_bytes = with_masks && header_.bits == 32 ? 108 : 40;  // as OpenCV looks for masks
    const size_t begin = size_t{14} + header_bytes + (with_masks && header_bytes == 40 ? 12 : 0) + 4 * colours;
    std::span<const uint8_t> pixels = file_.subspan(header_.pixels_at);
    plain_.clear();
    plain_.reserve(begin + pixels.size() + 3);
    plain_.insert(plain_.end(), {'B', 'M'});
    put32(plain_, static_cast<uint32_t>(begin + pixels.size()));
    put32(plain_, 0);
    put32(plain_, static_cast<uint32_t>(begin));
    put32(plain_, header_bytes);
    put32(plain_, static_cast<uint32_t>(header_.width));
    put32(plain_, static_cast<uint32_t>(header_.top_down ? -header_.height : header_.height));
    put16(plain_, 1);
    put16(plain_, run_lengths ? 8 : header_.bits);
    put32(plain_, run_lengths ? plain : header_.compression);
    put32(plain_, static_cast<uint32_t>(pixels.size()));
    put32(plain_, 0);
    put32(plain_, 0);
    put32(plain_, static_cast<uint32_t>(colours));
    put32(plain_, 0);
    if (with_masks) {
      for (const uint32_t mask : header_.masks) put32(plain_, mask);
      plain_.resize(begin);
    }
    write_palette(colours);
    if (run_lengths) {
      spread_run_lengths();
      return;
    }
    plain_.insert(plain_.end(), pixels.begin(), pixels.end());
    // The last row's padding is left out now and then.
    const size_t row = (static_cast<size_t>(header_.width) * header_.bits + 7) / 8, padded = (row + 3) / 4 * 4;
    const size_t needed = (static_cast<size_t>(header_.height) - 1) * padded + row;
    if (pixels.size() < needed) fail("[image] broken BMP: the file ends early");
    plain_.resize(std::max(plain_.size(), begin + static_cast<size_t>(header_.height) * padded));
  }

  std::span<const uint8_t> file_;
  BmpHeader header_;
  std::vector<uint8_t> plain_;  // the file as OpenCV gets it
  OpenCvReader reader_;
};

}  // namespace

std::unique_ptr<WholeDecoder> make_bmp_decoder() { return std::make_unique<BmpDecoder>(); }

}  // namespace luq
