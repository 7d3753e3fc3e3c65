// OpenCV reads PNM files (P1 to P6), behind a header that is written anew with the largest sample that its bytes can
// hold: so samples come as they are stored, and are made 8 bits here as PIL makes them of colours, whatever the largest
// is.
#include <algorithm>
#include <cmath>

#include "src/data/opencv_pixels.h"

namespace luq {
namespace {

struct PnmHeader {
  int kind = 0;  // 1..6
  int64_t height = 0, width = 0, largest = 1;
  size_t pixels_at = 0;
};

bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

class HeaderReader {
 public:
  explicit HeaderReader(std::span<const uint8_t> file) : file_(file) {}

  int64_t number(const char* what, int64_t limit) {
    while (true) {
      if (next() == '#') {
        while (next() != '\n' && next() != '\r') ++at_;
      } else if (!is_space(next())) {
        break;
      }
      ++at_;
    }
    int64_t value = 0;
    const size_t begin = at_;
    for (; at_ < file_.size() && file_[at_] >= '0' && file_[at_] <= '9' && value <= limit; ++at_) {
      value = value * 10 + (file_[at_] - '0');
    }
    if (at_ == begin || value < 1 || value > limit) {
      fail("[image] broken PNM: expected a {} of 1 to {} in its header", what, limit);
    }
    return value;
  }
  // Behind the one blank that ends the header.
  size_t end() {
    if (!is_space(next())) fail("[image] broken PNM: expected a blank behind its header");
    return at_ + 1;
  }

 private:
  uint8_t next() const {
    if (at_ >= file_.size()) fail("[image] broken PNM: the file ends early");
    return file_[at_];
  }
  std::span<const uint8_t> file_;
  size_t at_ = 2;
};

// OpenCV takes any text for samples, and what is too large for the largest.
void check_text(std::span<const uint8_t> text, const PnmHeader& header) {
  int64_t left = header.height * header.width * (header.kind == 3 ? 3 : 1);
  int64_t value = -1;  // of the sample that is being read
  bool comment = false;
  for (size_t i = 0; i <= text.size() && left > 0; ++i) {
    const uint8_t c = i < text.size() ? text[i] : ' ';
    if (comment) {
      comment = c != '\n' && c != '\r';
      continue;
    }
    comment = c == '#';
    if (c >= '0' && c <= '9') {
      value = std::min<int64_t>(std::max<int64_t>(value, 0) * 10 + (c - '0'), INT32_MAX);
      if (value > header.largest) {
        fail("[image] broken PNM: expected samples of at most {}, got {}", header.largest, value);
      }
    } else if (!is_space(c) && !comment) {
      fail("[image] broken PNM: expected numbers and blanks, got the byte {:02x}", c);
    }
    const bool ends = header.kind == 1 ? value >= 0 : value >= 0 && (is_space(c) || comment);
    if (!ends) continue;
    value = -1;
    --left;
  }
}

class PnmDecoder : public WholeDecoder {
 public:
  ImageHeader open(std::span<const uint8_t> file, bool) override {
    file_ = file;
    HeaderReader reader(file);
    header_ = {.kind = file[1] - '0'};
    header_.width = reader.number("width", INT32_MAX);
    header_.height = reader.number("height", INT32_MAX);
    if (header_.kind != 1 && header_.kind != 4) header_.largest = reader.number("largest sample", 65535);
    header_.pixels_at = reader.end();
    return {.height = header_.height, .width = header_.width, .exif = {}};
  }

  void decode(const Region& region, Image& image) override {
    const bool bits = header_.kind == 1 || header_.kind == 4, wide = header_.largest > 255;
    const std::string start = fmt::format("P{}\n{} {}\n{}", header_.kind, header_.width, header_.height,
                                          bits   ? ""
                                          : wide ? "65535\n"
                                                 : "255\n");
    const std::span<const uint8_t> samples = file_.subspan(header_.pixels_at);
    if (header_.kind < 4) check_text(samples, header_);
    plain_.assign(start.begin(), start.end());
    plain_.insert(plain_.end(), samples.begin(), samples.end());
    if (header_.kind < 4) plain_.push_back('\n');
    const double largest = bits ? 255 : static_cast<double>(header_.largest);
    std::vector<uint8_t> scaled(wide ? 65536 : 256);
    for (uint32_t i = 0; i < scaled.size(); ++i) {
      scaled[i] = static_cast<uint8_t>(std::min(255.0, std::nearbyint(static_cast<double>(i) / largest * 255)));
    }
    copy_region(reader_.decode(plain_, "PNM"), header_.height, header_.width, region, image,
                [&](uint32_t sample, int) { return scaled[sample]; });
  }

 private:
  std::span<const uint8_t> file_;
  PnmHeader header_;
  std::vector<uint8_t> plain_;  // the file as OpenCV gets it
  OpenCvReader reader_;
};

}  // namespace

std::unique_ptr<WholeDecoder> make_pnm_decoder() { return std::make_unique<PnmDecoder>(); }

}  // namespace luq
