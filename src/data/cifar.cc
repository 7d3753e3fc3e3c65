// CIFAR's binary version: https://www.cs.toronto.edu/~kriz/cifar.html.
#include "luq/core/error.h"
#include "src/data/gz_file.h"
#include "src/data/memory_dataset.h"

namespace luq {
namespace {

constexpr int64_t side = 32, planes = 3, plane_size = side * side;
constexpr uint64_t max_file_bytes = uint64_t{1} << 30;

}  // namespace

LabelledImages read_cifar(const std::vector<std::string>& files, const std::vector<int64_t>& label_limits,
                          const FileAdvice& advice) {
  LabelledImages out;
  out.height = out.width = side;
  out.channels = planes;
  const size_t label_bytes = label_limits.size();
  const size_t record_bytes = label_bytes + planes * plane_size;
  for (const std::string& name : files) {
    GzFile file(name, advice);
    const std::vector<uint8_t> bytes = file.read(max_file_bytes);
    if (bytes.size() == max_file_bytes) file.fail("expected less than 1 GiB, got more");
    if (bytes.empty()) file.fail("expected at least one image, got an empty file");
    if (bytes.size() % record_bytes != 0) {
      file.fail(fmt::format("truncated, or of another kind: expected whole records of {} bytes, got {} bytes",
                            record_bytes, bytes.size()));
    }
    const size_t records = bytes.size() / record_bytes;
    out.pixels.reserve(out.pixels.size() + records * planes * plane_size);
    for (size_t record = 0; record < records; ++record) {
      const uint8_t* labels = bytes.data() + record * record_bytes;
      for (size_t i = 0; i < label_bytes; ++i) {
        if (labels[i] >= label_limits[i]) {
          file.fail(
              fmt::format("expected labels in 0..{}, got {} for image {}", label_limits[i] - 1, labels[i], record));
        }
      }
      out.labels.push_back(labels[label_bytes - 1]);
      const uint8_t* pixels = labels + label_bytes;  // (3, 32, 32)
      for (int64_t i = 0; i < plane_size; ++i) {
        for (int64_t plane = 0; plane < planes; ++plane) out.pixels.push_back(pixels[plane * plane_size + i]);
      }
    }
  }
  return out;
}

}  // namespace luq
