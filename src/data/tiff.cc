// The first picture of a TIFF file, by libtiff. Not by OpenCV, which multiplies colours by alpha and takes what it has
// got where a strip is broken. Samples are read as they are stored and made RGB here, as PIL makes them; of YCbCr where
// PIL leaves it to libtiff, libtiff does.
#include <tiffio.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "luq/core/error.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

struct Source {
  std::span<const uint8_t> file;
  uint64_t position = 0;
  char message[256] = "";
};

// libtiff's handlers are the process's, and other users of it have their own clients: this thread's file gets messages.
thread_local Source* reading = nullptr;

void on_error(thandle_t, const char*, const char* format, va_list arguments) {
  if (reading == nullptr || reading->message[0] != '\0') return;  // the first says what is wrong
  std::vsnprintf(reading->message, sizeof reading->message, format, arguments);
}

void set_handlers() {
  static const bool done = [] {
    TIFFSetErrorHandler(nullptr);
    TIFFSetWarningHandler(nullptr);
    TIFFSetErrorHandlerExt(on_error);
    return true;
  }();
  static_cast<void>(done);
}

tmsize_t read(thandle_t handle, void* out, tmsize_t count) {
  Source& source = *static_cast<Source*>(handle);
  const uint64_t left = source.file.size() - std::min<uint64_t>(source.position, source.file.size());
  const uint64_t got = std::min(left, static_cast<uint64_t>(count));
  if (got > 0) std::memcpy(out, source.file.data() + source.position, got);
  source.position += got;
  return static_cast<tmsize_t>(got);
}
tmsize_t write(thandle_t, void*, tmsize_t) { return 0; }
toff_t seek(thandle_t handle, toff_t offset, int from) {
  Source& source = *static_cast<Source*>(handle);
  source.position = from == SEEK_SET   ? offset
                    : from == SEEK_CUR ? source.position + offset
                                       : source.file.size() + offset;
  return source.position;
}
int close(thandle_t) { return 0; }
toff_t size(thandle_t handle) { return static_cast<Source*>(handle)->file.size(); }

struct Layout {
  int64_t height = 0, width = 0;
  uint16_t bits = 1, samples = 1, photometric = PHOTOMETRIC_MINISWHITE, planar = PLANARCONFIG_CONTIG,
           compression = COMPRESSION_NONE, format = SAMPLEFORMAT_UINT, extra = 0, first_extra = 0, orientation = 1;
  bool tiled = false;
};

class TiffFile {
 public:
  explicit TiffFile(std::span<const uint8_t> file) : source_{.file = file} {
    set_handlers();
    reading = &source_;
    tiff_ = TIFFClientOpen("image", "rm", &source_, read, write, seek, close, size, nullptr, nullptr);
    if (tiff_ == nullptr) {
      reading = nullptr;
      fail("[image] broken TIFF: {}", reason());
    }
  }
  ~TiffFile() {
    TIFFClose(tiff_);
    reading = nullptr;
  }
  TiffFile(const TiffFile&) = delete;
  TiffFile& operator=(const TiffFile&) = delete;

  TIFF* get() { return tiff_; }
  [[noreturn]] void refuse() const { fail("[image] broken TIFF: {}", reason()); }

  Layout layout() {
    Layout layout;
    uint32_t height = 0, width = 0;
    uint16_t* extras = nullptr;
    TIFFGetField(tiff_, TIFFTAG_IMAGELENGTH, &height);
    TIFFGetField(tiff_, TIFFTAG_IMAGEWIDTH, &width);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_BITSPERSAMPLE, &layout.bits);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_SAMPLESPERPIXEL, &layout.samples);
    TIFFGetField(tiff_, TIFFTAG_PHOTOMETRIC, &layout.photometric);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_PLANARCONFIG, &layout.planar);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_COMPRESSION, &layout.compression);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_SAMPLEFORMAT, &layout.format);
    TIFFGetFieldDefaulted(tiff_, TIFFTAG_ORIENTATION, &layout.orientation);
    if (TIFFGetField(tiff_, TIFFTAG_EXTRASAMPLES, &layout.extra, &extras) != 0 && layout.extra > 0 &&
        extras != nullptr) {
      layout.first_extra = extras[0];
    } else {
      layout.extra = 0;
    }
    layout.height = height;
    layout.width = width;
    layout.tiled = TIFFIsTiled(tiff_) != 0;
    return layout;
  }

  // A colour map's entry c (0 red, 1 green, 2 blue), of 16 bits.
  std::array<const uint16_t*, 3> colour_map() {
    std::array<uint16_t*, 3> map{};
    if (TIFFGetField(tiff_, TIFFTAG_COLORMAP, &map[0], &map[1], &map[2]) == 0) {
      fail("[image] broken TIFF: a palette's picture without a palette");
    }
    return {map[0], map[1], map[2]};
  }

 private:
  const char* reason() const { return source_.message[0] != '\0' ? source_.message : "libtiff cannot read it"; }
  Source source_;
  TIFF* tiff_ = nullptr;
};

void check_supported(const Layout& layout) {
  const auto unsupported = [](const std::string& what) { fail("[image] TIFF: {}: convert the file", what); };
  const uint16_t bits = layout.bits, photometric = layout.photometric;
  if (layout.format != SAMPLEFORMAT_UINT && layout.format != SAMPLEFORMAT_VOID) {
    unsupported("samples that are signed or floating point are not read");
  }
  if (bits != 1 && bits != 2 && bits != 4 && bits != 8 && bits != 16) {
    unsupported(fmt::format("samples of {} bits are not read, only of 1, 2, 4, 8 and 16", bits));
  }
  switch (layout.compression) {
    case COMPRESSION_NONE:
    case COMPRESSION_CCITTRLE:
    case COMPRESSION_CCITTFAX3:
    case COMPRESSION_CCITTFAX4:
    case COMPRESSION_LZW:
    case COMPRESSION_JPEG:
    case COMPRESSION_ADOBE_DEFLATE:
    case COMPRESSION_DEFLATE:
    case COMPRESSION_PACKBITS:
    case COMPRESSION_LZMA:
    case COMPRESSION_ZSTD:
      break;
    default:
      unsupported(fmt::format("compression {} is not read", layout.compression));
  }
  if (TIFFIsCODECConfigured(layout.compression) == 0) {
    unsupported(fmt::format("compression {} is not in this libtiff", layout.compression));
  }
  const auto colours = [&](int count) {
    if (layout.samples < count || layout.samples > count + 3) {
      unsupported(fmt::format("{} samples a pixel with photometric interpretation {} are not read", layout.samples,
                              photometric));
    }
  };
  switch (photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
      colours(1);
      if (layout.first_extra == EXTRASAMPLE_ASSOCALPHA) unsupported("grey that is multiplied by alpha is not read");
      break;
    case PHOTOMETRIC_PALETTE:
      colours(1);
      if (bits == 16) unsupported("palettes of 16 bits are not read");
      break;
    case PHOTOMETRIC_RGB:
      colours(3);
      if (bits < 8) unsupported(fmt::format("colours of {} bits are not read", bits));
      break;
    case PHOTOMETRIC_SEPARATED:
      colours(4);
      if (bits < 8) unsupported(fmt::format("colours of {} bits are not read", bits));
      break;
    case PHOTOMETRIC_YCBCR:
      if (bits != 8 || (layout.samples != 3 && layout.samples != 1)) unsupported("YCbCr is read with 8 bits alone");
      if (layout.compression == COMPRESSION_JPEG && layout.planar == PLANARCONFIG_SEPARATE) {
        unsupported("JPEG-compressed YCbCr in planes is not read");
      }
      break;
    default:
      unsupported(fmt::format("photometric interpretation {} is not read", photometric));
  }
}

// Whether the first directory says that samples are indexes of a palette. Where the palette is missing libtiff says
// that they are grey.
bool says_palette(std::span<const uint8_t> file) {
  const bool big_endian = file[0] == 'M', big = file[big_endian ? 3 : 2] == 43;
  const auto number = [&](uint64_t at, uint64_t bytes) {
    uint64_t value = 0;
    for (uint64_t i = 0; i < bytes && at < file.size() && bytes <= file.size() - at; ++i) {
      value |= uint64_t{file[at + i]} << (8 * (big_endian ? bytes - 1 - i : i));
    }
    return value;
  };
  const uint64_t word = big ? 8 : 4, entry_bytes = big ? 20 : 12;
  const uint64_t directory = number(big ? 8 : 4, word), count_bytes = big ? 8 : 2;
  const uint64_t entries = std::min<uint64_t>(number(directory, count_bytes), 65535);
  for (uint64_t i = 0; i < entries; ++i) {
    const uint64_t entry = directory + count_bytes + i * entry_bytes;
    if (number(entry, 2) == TIFFTAG_PHOTOMETRIC) return number(entry + 4 + word, 2) == PHOTOMETRIC_PALETTE;
  }
  return false;
}

// Samples of a row, `step` apart in `out`, as 8 bits: indexes of a palette as they are, others scaled to 255.
void unpack(const uint8_t* row, uint16_t bits, int64_t count, bool index, uint8_t* out, int64_t step) {
  if (bits == 8) {
    for (int64_t i = 0; i < count; ++i) out[i * step] = row[i];
  } else if (bits == 16) {
    for (int64_t i = 0; i < count; ++i) {
      uint16_t sample = 0;
      std::memcpy(&sample, row + 2 * i, 2);
      out[i * step] = static_cast<uint8_t>(sample >> 8);
    }
  } else {
    const unsigned mask = (1u << bits) - 1, scale = index ? 1 : 255 / mask;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = i * bits;
      out[i * step] = static_cast<uint8_t>((static_cast<unsigned>(row[at / 8]) >> (8 - bits - at % 8) & mask) * scale);
    }
  }
}

// JFIF's equations in 6 fractional bits, as PIL evaluates them for files that are not compressed.
void from_ycbcr(const uint8_t* in, bool grey, uint8_t* out) {
  if (grey) {
    std::fill_n(out, 3, in[0]);
    return;
  }
  const auto part = [](double factor, int sample) { return static_cast<int>(factor * 64 * (sample - 128) + 0.5); };
  const int blue = in[1], red = in[2];
  const int added[3] = {part(1.402, red) >> 6, (part(-0.34414, blue) + part(-0.71414, red)) >> 6,
                        part(1.772, blue) >> 6};
  for (int c = 0; c < 3; ++c) out[c] = static_cast<uint8_t>(std::clamp(in[0] + added[c], 0, 255));
}

class TiffDecoder : public WholeDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool) override {
    file_ = file;
    TiffFile tiff(file);
    const Layout layout = tiff.layout();
    check_supported(layout);
    if (says_palette(file) && layout.photometric != PHOTOMETRIC_PALETTE) {
      fail("[image] broken TIFF: its palette cannot be read");
    }
    ImageHeader header{.height = layout.height, .width = layout.width, .exif = {}};
    if (layout.orientation >= 1 && layout.orientation <= 8) header.orientation = layout.orientation;
    return header;
  }

  void decode(const Region& region, Image& image) override {
    TiffFile tiff(file_);
    Layout layout = tiff.layout();
    if (layout.photometric == PHOTOMETRIC_YCBCR && layout.samples == 3) {
      uint16_t across = 0, down = 0;
      TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_YCBCRSUBSAMPLING, &across, &down);
      if (layout.compression == COMPRESSION_JPEG) {
        TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
        layout.photometric = PHOTOMETRIC_RGB;
      } else if (layout.compression != COMPRESSION_NONE || across != 1 || down != 1) {
        return decode_ycbcr(tiff, layout, region, image);
      }
    }
    const bool index = layout.photometric == PHOTOMETRIC_PALETTE;
    samples_.resize(static_cast<size_t>(layout.height * layout.width * layout.samples));
    for_each_block(tiff, layout, [&](const Block& block, const uint8_t* rows, int64_t row_bytes) {
      for (int64_t y = 0; y < block.height; ++y) {
        uint8_t* out = samples_.data() + ((block.top + y) * layout.width + block.left) * layout.samples + block.plane;
        const bool together = layout.planar == PLANARCONFIG_CONTIG;
        unpack(rows + y * row_bytes, layout.bits, together ? block.width * layout.samples : block.width, index, out,
               together ? 1 : layout.samples);
      }
    });
    to_rgb(tiff, layout, region, image);
  }

 private:
  struct Block {
    int64_t top, left, height, width;  // inside the picture
    uint16_t plane;
  };

  // What a file of a few bytes may ask for is bounded by its picture.
  void make_room(int64_t bytes, const Layout& layout) {
    const int64_t most = (int64_t{64} << 20) + 16 * layout.height * layout.width;
    if (bytes < 1 || bytes > most) fail("[image] broken TIFF: blocks of {} bytes", bytes);
    block_.resize(static_cast<size_t>(bytes));
  }

  template <typename Use>
  void for_each_block(TiffFile& tiff, const Layout& layout, const Use& use) {
    uint32_t rows = static_cast<uint32_t>(layout.height), block_height = rows, block_width = 0;
    const bool together = layout.planar == PLANARCONFIG_CONTIG;
    if (layout.tiled) {
      TIFFGetField(tiff.get(), TIFFTAG_TILEWIDTH, &block_width);
      TIFFGetField(tiff.get(), TIFFTAG_TILELENGTH, &block_height);
    } else {
      TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_ROWSPERSTRIP, &block_height);
      block_height = std::min(block_height, rows);
      block_width = static_cast<uint32_t>(layout.width);
    }
    if (block_width == 0 || block_height == 0) fail("[image] broken TIFF: empty blocks");
    make_room(layout.tiled ? TIFFTileSize64(tiff.get()) : TIFFVStripSize64(tiff.get(), block_height), layout);
    const auto row_bytes =
        static_cast<int64_t>(layout.tiled ? TIFFTileRowSize64(tiff.get()) : TIFFScanlineSize64(tiff.get()));
    const int64_t samples = int64_t{block_width} * (together ? layout.samples : 1);
    if (row_bytes < (samples * layout.bits + 7) / 8) fail("[image] broken TIFF: rows of {} bytes", row_bytes);
    for (uint16_t plane = 0; plane < (together ? 1 : layout.samples); ++plane) {
      for (int64_t top = 0; top < layout.height; top += block_height) {
        for (int64_t left = 0; left < layout.width; left += block_width) {
          const Block block{top, left, std::min<int64_t>(block_height, layout.height - top),
                            std::min<int64_t>(block_width, layout.width - left), plane};
          const auto x = static_cast<uint32_t>(left), y = static_cast<uint32_t>(top);
          const int64_t needed = block.height * row_bytes;
          if (needed > static_cast<int64_t>(block_.size())) fail("[image] broken TIFF: blocks of other sizes");
          const tmsize_t got = layout.tiled
                                   ? TIFFReadEncodedTile(tiff.get(), TIFFComputeTile(tiff.get(), x, y, 0, plane),
                                                         block_.data(), static_cast<tmsize_t>(block_.size()))
                                   : TIFFReadEncodedStrip(tiff.get(), TIFFComputeStrip(tiff.get(), y, plane),
                                                          block_.data(), static_cast<tmsize_t>(needed));
          if (got < needed) tiff.refuse();
          use(block, block_.data(), row_bytes);
        }
      }
    }
  }

  void to_rgb(TiffFile& tiff, const Layout& layout, const Region& region, Image& image) {
    std::array<const uint16_t*, 3> map{};
    if (layout.photometric == PHOTOMETRIC_PALETTE) map = tiff.colour_map();
    const bool multiplied =
        layout.photometric == PHOTOMETRIC_RGB && layout.samples > 3 && layout.first_extra == EXTRASAMPLE_ASSOCALPHA;
    image.resize(region.height, region.width);
    for (int64_t y = 0; y < region.height; ++y) {
      const uint8_t* in = samples_.data() + ((region.top + y) * layout.width + region.left) * layout.samples;
      uint8_t* out = image.pixels() + y * image.row_bytes;
      for (int64_t x = 0; x < region.width; ++x, in += layout.samples, out += 3) {
        switch (layout.photometric) {
          case PHOTOMETRIC_PALETTE:
            for (size_t c = 0; c < 3; ++c) out[c] = static_cast<uint8_t>(map[c][in[0]] >> 8);
            break;
          case PHOTOMETRIC_RGB:
            for (int c = 0; c < 3; ++c) {
              out[c] = !multiplied ? in[c] : in[3] == 0 ? 0 : static_cast<uint8_t>(std::min(255, in[c] * 255 / in[3]));
            }
            break;
          case PHOTOMETRIC_YCBCR:
            from_ycbcr(in, layout.samples == 1, out);
            break;
          case PHOTOMETRIC_SEPARATED:
            for (int c = 0; c < 3; ++c) out[c] = from_cmyk(in[c], 255u - in[3]);
            break;
          default:
            std::fill_n(out, 3,
                        layout.photometric == PHOTOMETRIC_MINISWHITE ? static_cast<uint8_t>(255 - in[0]) : in[0]);
        }
      }
    }
  }

  // YCbCr that is compressed otherwise than by JPEG, or has fewer samples of colour than pixels.
  void decode_ycbcr(TiffFile& tiff, const Layout& layout, const Region& region, Image& image) {
    rgba_.resize(static_cast<size_t>(layout.height * layout.width));
    if (TIFFReadRGBAImageOriented(tiff.get(), static_cast<uint32_t>(layout.width), static_cast<uint32_t>(layout.height),
                                  rgba_.data(), layout.orientation, 1) == 0) {
      tiff.refuse();
    }
    image.resize(region.height, region.width);
    for (int64_t y = 0; y < region.height; ++y) {
      const uint32_t* in = rgba_.data() + (region.top + y) * layout.width + region.left;
      uint8_t* out = image.pixels() + y * image.row_bytes;
      for (int64_t x = 0; x < region.width; ++x, ++in) {
        *out++ = static_cast<uint8_t>(TIFFGetR(*in));
        *out++ = static_cast<uint8_t>(TIFFGetG(*in));
        *out++ = static_cast<uint8_t>(TIFFGetB(*in));
      }
    }
  }

  std::span<const uint8_t> file_;
  std::vector<uint8_t> samples_, block_;
  std::vector<uint32_t> rgba_;
};

}  // namespace

std::unique_ptr<WholeDecoder> make_tiff_decoder() { return std::make_unique<TiffDecoder>(); }

std::string libtiff_version() {
  const std::string text = TIFFGetVersion();  // "LIBTIFF, Version 4.5.0", and lines of copyright
  const size_t begin = text.find_first_of("0123456789");
  return "libtiff " + text.substr(begin, text.find_first_not_of("0123456789.", begin) - begin);
}

}  // namespace luq
