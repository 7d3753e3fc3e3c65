// A data set whose pixels are all in memory, and the readers of the file formats that fill one.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "luq/data/dataset.h"

namespace luq {

struct LabelledImages {
  int64_t height = 0, width = 0, channels = 0;
  std::vector<uint8_t> pixels;  // (N, height, width, channels)
  std::vector<uint8_t> labels;  // (N)
};

class MemoryDataset : public Dataset {
 public:
  // info.images, height, width and channels are taken from `images`.
  MemoryDataset(DatasetInfo info, LabelledImages images) : info_(std::move(info)), images_(std::move(images)) {
    info_.images = static_cast<int64_t>(images_.labels.size());
    info_.height = images_.height;
    info_.width = images_.width;
    info_.channels = images_.channels;
  }
  const DatasetInfo& info() const override { return info_; }
  int32_t read(int64_t index, uint8_t* pixels) const override {
    const int64_t size = info_.height * info_.width * info_.channels;
    std::memcpy(pixels, images_.pixels.data() + index * size, static_cast<size_t>(size));
    return images_.labels[static_cast<size_t>(index)];
  }

 private:
  DatasetInfo info_;
  LabelledImages images_;
};

// What an error about a file ends with, for example "install the Debian package ...".
struct FileAdvice {
  std::string dataset;
  std::string text;
};

// One IDX file of images (magic number 2051) and one of labels (2049), gzip-compressed or not:
// http://yann.lecun.com/exdb/mnist. Throws UserError naming the file for anything but two whole files of as many images
// as labels, at least one, with labels below num_classes.
LabelledImages read_idx(const std::string& image_file, const std::string& label_file, int64_t num_classes,
                        const FileAdvice& advice);

// Files of CIFAR's binary version, one after the other: records of label_bytes labels, of which the last is taken, and
// 3 planes (red, green, blue) of 32 x 32. Throws UserError as read_idx; label_limits[i] bounds the i-th label.
LabelledImages read_cifar(const std::vector<std::string>& files, const std::vector<int64_t>& label_limits,
                          const FileAdvice& advice);

}  // namespace luq
