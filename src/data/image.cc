#include "luq/data/image.h"

#include <array>
#include <cstring>
#include <utility>

#include "luq/core/error.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

enum class Kind { none, jpeg, png };

constexpr std::array<uint8_t, 3> kJpegStart = {0xff, 0xd8, 0xff};
constexpr std::array<uint8_t, 8> kPngStart = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

template <size_t kSize>
bool starts_with(std::span<const uint8_t> file, const std::array<uint8_t, kSize>& start) {
  return file.size() >= kSize && std::memcmp(file.data(), start.data(), kSize) == 0;
}

// EXIF orientations as steps from the stored image to the upright one: first transpose, then mirror.
struct Turn {
  bool transpose = false, flip_rows = false, flip_columns = false;
};
constexpr std::array<Turn, 9> kTurns = {{{},
                                         {},
                                         {false, false, true},
                                         {false, true, true},
                                         {false, true, false},
                                         {true, false, false},
                                         {true, false, true},
                                         {true, true, true},
                                         {true, true, false}}};

// Where a region of the upright image lies in the stored one, whose size is height x width.
Region stored_region(const Region& region, const Turn& turn, int64_t height, int64_t width) {
  Region stored = region;
  const int64_t upright_height = turn.transpose ? width : height, upright_width = turn.transpose ? height : width;
  if (turn.flip_rows) stored.top = upright_height - region.top - region.height;
  if (turn.flip_columns) stored.left = upright_width - region.left - region.width;
  if (turn.transpose) {
    std::swap(stored.top, stored.left);
    std::swap(stored.height, stored.width);
  }
  return stored;
}

void apply(const Turn& turn, const Image& stored, Image& upright) {
  upright.resize(turn.transpose ? stored.width : stored.height, turn.transpose ? stored.height : stored.width);
  for (int64_t y = 0; y < upright.height; ++y) {
    const int64_t from_row = turn.flip_rows ? upright.height - 1 - y : y;
    uint8_t* out = upright.pixels() + y * upright.row_bytes;
    for (int64_t x = 0; x < upright.width; ++x, out += 3) {
      const int64_t from_column = turn.flip_columns ? upright.width - 1 - x : x;
      const int64_t row = turn.transpose ? from_column : from_row, column = turn.transpose ? from_row : from_column;
      std::memcpy(out, stored.pixels() + row * stored.row_bytes + column * 3, 3);
    }
  }
}

}  // namespace

void Image::resize(int64_t new_height, int64_t new_width) {
  height = new_height;
  width = new_width;
  row_bytes = new_width * 3;
  first = 0;
  const auto size = static_cast<size_t>(height * row_bytes);
  if (storage.size() < size) storage.resize(size);
}

struct ImageDecoder::State {
  DecodeOptions options;
  JpegDecoder jpeg;
  PngDecoder png;
  Kind kind = Kind::none;
  ImageHeader header;
  Turn turn;
  Image stored;  // before it is turned
};

ImageDecoder::ImageDecoder(const DecodeOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
}
ImageDecoder::~ImageDecoder() = default;
ImageDecoder::ImageDecoder(ImageDecoder&&) noexcept = default;
ImageDecoder& ImageDecoder::operator=(ImageDecoder&&) noexcept = default;

void ImageDecoder::open(std::span<const uint8_t> file) {
  State& state = *state_;
  state.kind = Kind::none;
  if (file.empty()) fail("[image] expected a JPEG or PNG file, got an empty one");
  const bool is_jpeg = starts_with(file, kJpegStart);
  if (!is_jpeg && !starts_with(file, kPngStart)) {
    fail("[image] expected a JPEG or PNG file, got one that begins with the bytes {:02x}",
         fmt::join(file.first(std::min<size_t>(file.size(), 8)), " "));
  }
  const bool with_exif = state.options.exif_rotate;
  state.header = is_jpeg ? state.jpeg.open(file, with_exif) : state.png.open(file, with_exif);
  const auto& [height, width, exif] = state.header;
  if (height < 1 || width < 1 || height > state.options.max_pixels / width) {
    fail("[image] expected an image of 1 to {} pixels, got {} x {}", state.options.max_pixels, height, width);
  }
  state.turn = kTurns[static_cast<size_t>(exif_orientation(exif))];
  state.kind = is_jpeg ? Kind::jpeg : Kind::png;
}

int64_t ImageDecoder::height() const { return state_->turn.transpose ? state_->header.width : state_->header.height; }
int64_t ImageDecoder::width() const { return state_->turn.transpose ? state_->header.height : state_->header.width; }

void ImageDecoder::decode(const Region& region, Image& image, int64_t reduction) {
  State& state = *state_;
  const Kind kind = std::exchange(state.kind, Kind::none);
  if (kind == Kind::none) fail("[image] decode: expected an opened image");
  if (region.height < 1 || region.width < 1 || region.top < 0 || region.left < 0 ||
      region.height > height() - region.top || region.width > width() - region.left) {
    fail("[image] expected a region inside {} x {}, got {} x {} at row {}, column {}", height(), width(), region.height,
         region.width, region.top, region.left);
  }
  if (reduction != 1 && reduction != 2 && reduction != 4 && reduction != 8) {
    fail("[image] expected a reduction of 1, 2, 4 or 8, got {}", reduction);
  }
  const Turn turn = state.turn;
  const bool turned = turn.transpose || turn.flip_rows || turn.flip_columns;
  const Region stored = stored_region(region, turn, state.header.height, state.header.width);
  Image& target = turned ? state.stored : image;
  if (kind == Kind::jpeg) {
    state.jpeg.decode(stored, reduction, target);
  } else {
    state.png.decode(stored, target);
  }
  if (turned) apply(turn, state.stored, image);
}

void ImageDecoder::decode(Image& image) { decode({0, 0, height(), width()}, image); }

std::string image_library_versions() { return libjpeg_version() + ", " + libpng_version(); }

}  // namespace luq
