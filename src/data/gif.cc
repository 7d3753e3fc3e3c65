// The first frame of a GIF file on its canvas, by giflib, with the colours that PIL gives it: a transparent colour is
// its entry of the palette, and a colour that is not in the palette is grey.
#include <gif_lib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "luq/core/error.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

struct Source {
  std::span<const uint8_t> file;
  size_t position = 0;
};

int read(GifFileType* gif, GifByteType* out, int count) {
  Source& source = *static_cast<Source*>(gif->UserData);
  const size_t got = std::min(static_cast<size_t>(count), source.file.size() - source.position);
  std::memcpy(out, source.file.data() + source.position, got);
  source.position += got;
  return static_cast<int>(got);
}

[[noreturn]] void refuse(int error) {
  if (error == D_GIF_ERR_NOT_ENOUGH_MEM) throw std::bad_alloc();
  const char* text = GifErrorString(error);
  fail("[image] broken GIF: {}", text != nullptr ? text : "the file ends early");
}

// At the first frame's pixels.
class Reader {
 public:
  explicit Reader(std::span<const uint8_t> file) : source_{.file = file} {
    int error = 0;
    gif_ = DGifOpen(&source_, read, &error);
    if (gif_ == nullptr) refuse(error);
    try {
      find_frame();
    } catch (...) {
      close();
      throw;
    }
  }
  ~Reader() { close(); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const GifImageDesc& frame() const { return gif_->Image; }
  int64_t height() const { return std::max<int64_t>(gif_->SHeight, int64_t{frame().Top} + frame().Height); }
  int64_t width() const { return std::max<int64_t>(gif_->SWidth, int64_t{frame().Left} + frame().Width); }
  uint8_t background() const { return background_; }  // of the canvas around the frame

  // A palette that says that colour i is grey i is none, and the global one then stands for the frame's own.
  std::array<std::array<uint8_t, 3>, 256> palette() const {
    std::array<std::array<uint8_t, 3>, 256> colours{};
    const ColorMapObject* map = frame().ColorMap;
    if (map == nullptr || is_grey(*map)) map = gif_->SColorMap;
    if (map == nullptr || is_grey(*map)) {
      for (size_t i = 0; i < 256; ++i) colours[i].fill(static_cast<uint8_t>(i));
      return colours;
    }
    for (int i = 0; i < std::min(map->ColorCount, 256); ++i) {
      colours[static_cast<size_t>(i)] = {map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue};
    }
    return colours;
  }
  void read_row(uint8_t* row) { check(DGifGetLine(gif_, row, frame().Width)); }

 private:
  static bool is_grey(const ColorMapObject& map) {
    for (int i = 0; i < map.ColorCount; ++i) {
      const GifColorType& colour = map.Colors[i];
      if (colour.Red != i || colour.Green != i || colour.Blue != i) return false;
    }
    return true;
  }
  void close() {
    int error = 0;
    DGifCloseFile(gif_, &error);
  }
  void check(int code) const {
    if (code != GIF_OK) refuse(gif_->Error);
  }
  void find_frame() {
    while (true) {
      GifRecordType type = UNDEFINED_RECORD_TYPE;
      check(DGifGetRecordType(gif_, &type));
      if (type == IMAGE_DESC_RECORD_TYPE) {
        check(DGifGetImageDesc(gif_));
        if (frame().Width < 1 || frame().Height < 1) fail("[image] broken GIF: an empty frame");
        return;
      }
      if (type == TERMINATE_RECORD_TYPE) fail("[image] broken GIF: it holds no picture");
      if (type != EXTENSION_RECORD_TYPE) continue;
      int code = 0;
      GifByteType* block = nullptr;
      check(DGifGetExtension(gif_, &code, &block));
      if (code == GRAPHICS_EXT_FUNC_CODE && block != nullptr && block[0] >= 4 && (block[1] & 1) != 0) {
        background_ = block[4];
      }
      while (block != nullptr) check(DGifGetExtensionNext(gif_, &block));
    }
  }

  Source source_;
  GifFileType* gif_ = nullptr;
  uint8_t background_ = 0;
};

class GifDecoder : public WholeDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool) override {
    file_ = file;
    const Reader reader(file);
    return {.height = reader.height(), .width = reader.width(), .exif = {}};
  }

  void decode(const Region& region, Image& image) override {
    Reader reader(file_);
    const auto palette = reader.palette();
    const GifImageDesc& frame = reader.frame();
    image.resize(reader.height(), reader.width());
    uint8_t* pixels = image.pixels();
    if (frame.Width < image.width || frame.Height < image.height) {
      const auto& colour = palette[reader.background()];
      for (int64_t i = 0; i < image.height * image.width; ++i) std::copy(colour.begin(), colour.end(), pixels + 3 * i);
    }
    std::vector<uint8_t> row(static_cast<size_t>(frame.Width));
    constexpr std::array<std::array<int, 2>, 4> passes = {{{0, 8}, {4, 8}, {2, 4}, {1, 2}}};  // first row and step
    const auto read_pass = [&](int first, int step) {
      for (int y = first; y < frame.Height; y += step) {
        reader.read_row(row.data());
        uint8_t* out = pixels + (frame.Top + y) * image.row_bytes + int64_t{frame.Left} * 3;
        for (const uint8_t index : row) out = std::copy(palette[index].begin(), palette[index].end(), out);
      }
    };
    if (frame.Interlace) {
      for (const auto& [first, step] : passes) read_pass(first, step);
    } else {
      read_pass(0, 1);
    }
    keep_region(region, image);
  }

 private:
  std::span<const uint8_t> file_;
};

}  // namespace

std::unique_ptr<WholeDecoder> make_gif_decoder() { return std::make_unique<GifDecoder>(); }

std::string giflib_version() { return fmt::format("giflib {}.{}.{}", GIFLIB_MAJOR, GIFLIB_MINOR, GIFLIB_RELEASE); }

}  // namespace luq
