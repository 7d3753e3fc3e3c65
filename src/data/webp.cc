// OpenCV reads WebP files that hold one picture. Of an animation the first frame is cut out and given to it as such a
// file, and laid on a black canvas, as PIL shows it.
#include <algorithm>
#include <cstring>
#include <optional>

#include "src/data/opencv_pixels.h"

namespace luq {
namespace {

using Span = std::span<const uint8_t>;

uint32_t u16(Span bytes, size_t at) { return bytes[at] | static_cast<uint32_t>(bytes[at + 1]) << 8; }
uint32_t u24(Span bytes, size_t at) { return u16(bytes, at) | static_cast<uint32_t>(bytes[at + 2]) << 16; }
uint32_t u32(Span bytes, size_t at) { return u24(bytes, at) | static_cast<uint32_t>(bytes[at + 3]) << 24; }

[[noreturn]] void broken(const char* reason) { fail("[image] broken WebP: {}", reason); }

struct Chunk {
  Span name, content;
};

// Takes the first chunk off; nothing at the end.
std::optional<Chunk> take_chunk(Span& chunks) {
  if (chunks.size() < 8) return std::nullopt;
  const size_t size = u32(chunks, 4);
  if (size > chunks.size() - 8) broken("the file ends early");
  const Chunk chunk{chunks.first(4), chunks.subspan(8, size)};
  chunks = chunks.subspan(std::min(chunks.size(), 8 + size + size % 2));
  return chunk;
}

bool is(const Chunk& chunk, const char* name) { return std::memcmp(chunk.name.data(), name, 4) == 0; }

struct Size {
  int64_t height = 0, width = 0;
};

// Of a picture's own chunk: VP8 (lossy) or VP8L (lossless).
std::optional<Size> picture_size(const Chunk& chunk) {
  const Span c = chunk.content;
  if (is(chunk, "VP8 ")) {
    if (c.size() < 10 || c[3] != 0x9d || c[4] != 0x01 || c[5] != 0x2a) broken("no lossy picture");
    return Size{u16(c, 8) & 0x3fff, u16(c, 6) & 0x3fff};
  }
  if (is(chunk, "VP8L")) {
    if (c.size() < 5 || c[0] != 0x2f) broken("no lossless picture");
    const uint32_t bits = u32(c, 1);
    return Size{(bits >> 14 & 0x3fff) + 1, (bits & 0x3fff) + 1};
  }
  return std::nullopt;
}

class WebpDecoder : public WholeDecoder {
 public:
  ImageHeader open(Span file, bool with_exif) override {
    picture_ = {};
    top_ = left_ = 0;
    canvas_ = {};
    const uint64_t size = uint64_t{u32(file, 4)} + 8;
    if (size > file.size()) broken("the file ends early");
    Span chunks = file.subspan(12, size < 12 ? 0 : size - 12);
    std::vector<uint8_t> exif;
    bool found = false;
    while (const std::optional<Chunk> chunk = take_chunk(chunks)) {
      const Span c = chunk->content;
      if (is(*chunk, "VP8X")) {
        if (c.size() < 10) broken("a short header");
        canvas_ = {u24(c, 7) + 1, u24(c, 4) + 1};
      } else if (is(*chunk, "EXIF") && with_exif && !c.empty()) {
        constexpr uint8_t start[6] = {'E', 'x', 'i', 'f', 0, 0};
        if (c.size() < 6 || !std::equal(start, start + 6, c.begin())) exif.assign(start, start + 6);
        exif.insert(exif.end(), c.begin(), c.end());
      } else if (is(*chunk, "ANMF") && !found) {
        open_frame(c);
        found = true;
      } else if (const std::optional<Size> of_picture = found ? std::nullopt : picture_size(*chunk)) {
        picture_ = *of_picture;
        if (canvas_.width != 0 && (canvas_.width != picture_.width || canvas_.height != picture_.height)) {
          broken("the picture is not as large as its canvas");
        }
        canvas_ = picture_;
        given_ = file.first(size);
        found = true;
      }
      if (found && !with_exif) break;
    }
    if (!found) broken("no picture");
    return {.height = canvas_.height, .width = canvas_.width, .exif = std::move(exif)};
  }

  void decode(const Region& region, Image& image) override {
    const LuqOpenCvPixels pixels = reader_.decode(given_, "WebP");
    const auto same = [](uint32_t sample, int) { return static_cast<uint8_t>(sample); };
    if (picture_.height == canvas_.height && picture_.width == canvas_.width) {
      copy_region(pixels, picture_.height, picture_.width, region, image, same);
      return;
    }
    copy_region(pixels, picture_.height, picture_.width, {0, 0, picture_.height, picture_.width}, frame_, same);
    image.resize(canvas_.height, canvas_.width);
    std::memset(image.pixels(), 0, static_cast<size_t>(image.height * image.row_bytes));
    for (int64_t y = 0; y < picture_.height; ++y) {
      std::memcpy(image.pixels() + (top_ + y) * image.row_bytes + left_ * 3, frame_.pixels() + y * frame_.row_bytes,
                  static_cast<size_t>(picture_.width) * 3);
    }
    keep_region(region, image);
  }

 private:
  // The frame's chunks (alpha and picture) as a file of their own.
  void open_frame(Span frame) {
    if (frame.size() < 16) broken("a short frame");
    left_ = 2 * int64_t{u24(frame, 0)};
    top_ = 2 * int64_t{u24(frame, 3)};
    picture_ = {u24(frame, 9) + 1, u24(frame, 6) + 1};
    if (left_ + picture_.width > canvas_.width || top_ + picture_.height > canvas_.height) {
      broken("a frame outside its canvas");
    }
    const Span inner = frame.subspan(16);
    Span chunks = inner;
    bool found = false, alpha = false;
    while (const std::optional<Chunk> chunk = take_chunk(chunks)) {
      alpha = alpha || is(*chunk, "ALPH");
      const std::optional<Size> size = picture_size(*chunk);
      if (!size) continue;
      if (size->width != picture_.width || size->height != picture_.height) broken("a frame of another size");
      found = true;
      break;
    }
    if (!found) broken("a frame without a picture");
    frame_file_.assign({'R', 'I', 'F', 'F', 0, 0, 0, 0, 'W', 'E', 'B', 'P'});
    if (alpha) {
      constexpr uint8_t flag_of_alpha = 0x10;
      frame_file_.insert(frame_file_.end(), {'V', 'P', '8', 'X', 10, 0, 0, 0, flag_of_alpha, 0, 0, 0});
      for (const int64_t length : {picture_.width - 1, picture_.height - 1}) {
        for (int shift = 0; shift < 24; shift += 8) frame_file_.push_back(static_cast<uint8_t>(length >> shift));
      }
    }
    frame_file_.insert(frame_file_.end(), inner.begin(), inner.end());
    const size_t size = frame_file_.size() - 8;
    for (size_t i = 0; i < 4; ++i) frame_file_[4 + i] = static_cast<uint8_t>(size >> (8 * i));
    given_ = frame_file_;
  }

  Span given_;  // what OpenCV gets
  Size canvas_, picture_;
  int64_t top_ = 0, left_ = 0;  // of the picture on the canvas
  std::vector<uint8_t> frame_file_;
  Image frame_;
  OpenCvReader reader_;
};

}  // namespace

std::unique_ptr<WholeDecoder> make_webp_decoder() { return std::make_unique<WebpDecoder>(); }

}  // namespace luq
