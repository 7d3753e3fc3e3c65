// The IDX format: a big-endian 32-bit magic number (0, 0, 8 for unsigned bytes, number of dimensions), the dimensions
// as big-endian 32-bit numbers, then the values.
#include <string>

#include "luq/core/error.h"
#include "src/data/gz_file.h"
#include "src/data/memory_dataset.h"

namespace luq {
namespace {

constexpr uint32_t image_magic = 0x00000803, label_magic = 0x00000801;
constexpr uint32_t max_side = 4096;

std::vector<uint32_t> read_header(GzFile& file, const char* what, uint32_t magic) {
  const size_t words = 1 + (magic & 0xff);
  const std::vector<uint8_t> bytes = file.read(4 * words);
  std::vector<uint32_t> header;
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    header.push_back(uint32_t{bytes[i]} << 24 | uint32_t{bytes[i + 1]} << 16 | uint32_t{bytes[i + 2]} << 8 |
                     bytes[i + 3]);
  }
  if (!header.empty() && header[0] != magic) {
    file.fail(fmt::format("expected the magic number 0x{:08x} of IDX {}, got 0x{:08x}", magic, what, header[0]));
  }
  if (header.size() != words) {
    file.fail(fmt::format("truncated: expected a header of {} bytes, got {}", 4 * words, bytes.size()));
  }
  header.erase(header.begin());
  if (header[0] == 0) file.fail(fmt::format("expected at least one of the {}, got an empty set", what));
  return header;
}

std::vector<uint8_t> read_values(GzFile& file, uint64_t expected) {
  std::vector<uint8_t> values = file.read(expected);
  if (values.size() != expected) {
    file.fail(fmt::format("truncated: expected {} bytes after the header, got {}", expected, values.size()));
  }
  // Reading past the end also has zlib verify the checksum.
  if (!file.read(1).empty()) file.fail(fmt::format("expected {} bytes after the header, got more", expected));
  return values;
}

}  // namespace

LabelledImages read_idx(const std::string& image_file, const std::string& label_file, int64_t num_classes,
                        const FileAdvice& advice) {
  GzFile images(image_file, advice);
  const std::vector<uint32_t> extents = read_header(images, "images", image_magic);
  if (extents[1] < 1 || extents[1] > max_side || extents[2] < 1 || extents[2] > max_side) {
    images.fail(
        fmt::format("expected images of 1..{} rows and columns, got {} x {}", max_side, extents[1], extents[2]));
  }
  GzFile labels(label_file, advice);
  const uint32_t count = read_header(labels, "labels", label_magic)[0];
  if (count != extents[0]) {
    labels.fail(
        fmt::format("expected one label for each of the {} images of {}, got {}", extents[0], image_file, count));
  }
  LabelledImages out;
  out.height = extents[1];
  out.width = extents[2];
  out.channels = 1;
  out.labels = read_values(labels, count);
  for (size_t i = 0; i < out.labels.size(); ++i) {
    if (out.labels[i] >= num_classes) {
      labels.fail(fmt::format("expected labels in 0..{}, got {} for image {}", num_classes - 1, out.labels[i], i));
    }
  }
  out.pixels = read_values(images, uint64_t{count} * extents[1] * extents[2]);
  return out;
}

}  // namespace luq
