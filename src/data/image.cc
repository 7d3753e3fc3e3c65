#include "luq/data/image.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "luq/core/error.h"
#include "src/core/no_memory.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

using std::string_view_literals::operator""sv;

// What a file is by its first bytes. JPEG has a decoder of its own kind, which reads parts.
struct Format {
  std::string_view name, start, extension;
  std::unique_ptr<WholeDecoder> (*make)();
};
constexpr size_t kJpeg = 0;
const std::array<Format, 14> kFormats = {{
    {"JPEG", "\xff\xd8\xff"sv, "jpg", nullptr},
    {"PNG", "\x89PNG"sv, "png", [] { return std::unique_ptr<WholeDecoder>(new PngDecoder); }},
    {"BMP", "BM"sv, "bmp", make_bmp_decoder},
    {"BMP", "\x28\0\0\0"sv, "dib", make_bmp_decoder},  // the length of the header
    {"BMP", "\x6c\0\0\0"sv, "dib", make_bmp_decoder},
    {"BMP", "\x7c\0\0\0"sv, "dib", make_bmp_decoder},
    {"GIF", "GIF87a"sv, "gif", make_gif_decoder},
    {"GIF", "GIF89a"sv, "gif", make_gif_decoder},
    {"TIFF", "II*\0"sv, "tif", make_tiff_decoder},
    {"TIFF", "MM\0*"sv, "tif", make_tiff_decoder},
    {"TIFF", "II+\0"sv, "tif", make_tiff_decoder},
    {"TIFF", "MM\0+"sv, "tif", make_tiff_decoder},
    {"WebP", "RIFF"sv, "webp", make_webp_decoder},
    {"PNM", "P"sv, "pnm", make_pnm_decoder},
}};

bool has_start(std::span<const uint8_t> file, const Format& format) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(format.start)) return false;
  if (format.name == "WebP") return text.size() >= 16 && text.substr(8, 4) == "WEBP";
  if (format.name == "PNM") {
    return text.size() >= 3 && text[1] >= '1' && text[1] <= '6' && std::isspace(static_cast<unsigned char>(text[2]));
  }
  return true;
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
  std::array<std::unique_ptr<WholeDecoder>, kFormats.size()> others;  // made when they are needed
  bool opened = false;
  size_t format = kJpeg;
  ImageHeader header;
  Turn turn;
  Image stored;  // before it is turned

  static constexpr int64_t library_bytes = 8 << 20;  // what a library may want beside an image

  // Some libraries do not say whether a file is broken or memory was short. What fails is tried again: a file that is
  // broken stays so. And where there is no memory, there is none for a buffer like theirs either.
  template <typename Step>
  auto twice(const Step& step) {
    try {
      return step();
    } catch (const UserError&) {
      throw;
    } catch (const Error&) {
      const int64_t bytes =
          library_bytes + 8 * std::clamp<int64_t>(header.height * header.width, 1, options.max_pixels);
      void* volatile room = std::malloc(static_cast<size_t>(bytes));  // volatile: it would be left out otherwise
      if (room == nullptr) fail_out_of_memory("[image] it is decoded:", bytes);
      std::free(room);
      return step();
    }
  }
};

ImageDecoder::ImageDecoder(const DecodeOptions& options) : state_(std::make_unique<State>()) {
  state_->options = options;
}
ImageDecoder::~ImageDecoder() = default;
ImageDecoder::ImageDecoder(ImageDecoder&&) noexcept = default;
ImageDecoder& ImageDecoder::operator=(ImageDecoder&&) noexcept = default;

void ImageDecoder::open(std::span<const uint8_t> file) {
  State& state = *state_;
  state.opened = false;
  state.header = {};
  if (file.empty()) fail("[image] expected {}, got an empty file", image_formats());
  const auto format =
      std::find_if(kFormats.begin(), kFormats.end(), [&](const Format& known) { return has_start(file, known); });
  if (format == kFormats.end()) {
    fail("[image] expected {}, got a file that begins with the bytes {:02x}", image_formats(),
         fmt::join(file.first(std::min<size_t>(file.size(), 8)), " "));
  }
  state.format = static_cast<size_t>(format - kFormats.begin());
  const bool with_exif = state.options.exif_rotate;
  if (state.format == kJpeg) {
    state.header = state.jpeg.open(file, with_exif);
  } else {
    std::unique_ptr<WholeDecoder>& decoder = state.others[state.format];
    if (decoder == nullptr) decoder = format->make();
    state.header = state.twice([&] { return decoder->open(file, with_exif); });
  }
  const int64_t height = state.header.height, width = state.header.width;
  if (height < 1 || width < 1 || height > state.options.max_pixels / width) {
    fail("[image] expected an image of 1 to {} pixels, got {} x {}", state.options.max_pixels, height, width);
  }
  const ImageHeader& header = state.header;
  state.turn = kTurns[static_cast<size_t>(header.exif.empty() ? header.orientation : exif_orientation(header.exif))];
  state.opened = true;
}

int64_t ImageDecoder::height() const { return state_->turn.transpose ? state_->header.width : state_->header.height; }
int64_t ImageDecoder::width() const { return state_->turn.transpose ? state_->header.height : state_->header.width; }

void ImageDecoder::decode(const Region& region, Image& image, int64_t reduction) {
  State& state = *state_;
  if (!std::exchange(state.opened, false)) fail("[image] decode: expected an opened image");
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
  if (state.format == kJpeg) {
    state.jpeg.decode(stored, reduction, target);
  } else {
    state.twice([&] { state.others[state.format]->decode(stored, target); });
  }
  if (turned) apply(turn, state.stored, image);
}

void ImageDecoder::decode(Image& image) { decode({0, 0, height(), width()}, image); }

std::string image_extension(std::span<const uint8_t> file) {
  const auto format =
      std::find_if(kFormats.begin(), kFormats.end(), [&](const Format& known) { return has_start(file, known); });
  return format == kFormats.end() ? "" : std::string(format->extension);
}

std::string image_formats() { return "a JPEG, PNG, BMP, GIF, TIFF, WebP or PNM file"; }

std::string image_library_versions() {
  return fmt::format("{}, {}, {}, {}, {}", libjpeg_version(), libpng_version(), libtiff_version(), giflib_version(),
                     opencv_version());
}

}  // namespace luq
