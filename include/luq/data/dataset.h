// Labelled images in memory or on disk.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "luq/core/tensor.h"

namespace luq {

// What lies among the images of a data set and is passed over, by its kind: ".svg", ".DS_Store", "._*". Entries of
// shards are files too.
struct UnusedFiles {
  static constexpr size_t most_names = 100;
  struct Kind {
    int64_t count = 0;
    std::vector<std::string> names;  // the first of them, most_names at most
  };
  std::map<std::string, Kind> kinds;

  void add(const std::string& kind, const std::string& name);
  void add(const UnusedFiles& others);
  int64_t count() const;
  // "9 files are not used: 4 .svg, 5 .mp4", or "".
  std::string to_text() const;
};

struct DatasetInfo {
  std::string name;
  int64_t images = 0;
  bool encoded = false;                         // image files of any size, read by read_file; otherwise pixels, by read
  int64_t height = 0, width = 0, channels = 0;  // encoded: 0, 0 and the 3 of what a file is decoded to
  int64_t num_classes = 0;
  std::vector<double> mean, std;  // per channel, of training values in 0..1
  std::vector<std::string> class_names;
  UnusedFiles unused;
  std::vector<std::string> notes;  // sentences about other things that a user should know
};

// What to tell a user of the splits of a data set when it is opened, a sentence each: how many files are not used, and
// the notes.
std::vector<std::string> warnings_of(const std::vector<const DatasetInfo*>& splits);

// Thread-safe: any number of threads may read at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual const DatasetInfo& info() const = 0;
  // pixels: (height, width, channels) uint8 of image `index`; returns its label.
  virtual int32_t read(int64_t index, uint8_t* pixels) const;
  // bytes: the file of image `index` as it is stored (JPEG, PNG, ...); returns its label. Throws Error naming the file
  // and the system's reason when it cannot be read.
  virtual int32_t read_file(int64_t index, std::vector<uint8_t>& bytes) const;
  // What messages call image `index`: a path, or an entry of an archive.
  virtual std::string image_name(int64_t index) const;
};

struct SyntheticOptions {
  int64_t train_images = 1024, test_images = 256, image_size = 32, channels = 3, num_classes = 10;
  uint64_t seed = 0;
};

// Of data sets of image files; docs/data.md describes their layouts.
struct ImageFileOptions {
  // image_folder, imagenet: file of the classes of test images that lie in one folder; empty: looked for beside them.
  std::string val_labels = "";
  // imagenet: file of the classes in the order of the development kit's ids; empty: val_labels holds no ids.
  std::string devkit_classes = "";
  // webdataset: paths of shards, relative to the data set's folder, with braces and commas (s-{000..146}.tar); empty:
  // train-*.tar and val-*.tar.
  std::string train_shards = "", val_shards = "";
  int64_t num_classes = 0;  // webdataset; 0: from classes.txt, or else the largest label of both splits
};

enum class Split { train, test };

// name: fashion_mnist, mnist, cifar10, cifar100, image_folder, imagenet, webdataset, synthetic. path: folder of the
// files; empty: the usual places (`find_dataset`). Throws UserError naming the folder or file, what is wrong with it
// (missing, truncated, wrong magic number, label out of range, no images, classes that differ between the splits) and
// what to install or do.
std::unique_ptr<Dataset> open_dataset(const std::string& name, const std::string& path, Split split,
                                      const SyntheticOptions& synthetic = {}, const ImageFileOptions& files = {});
std::vector<std::string> dataset_names();
// Folders where a data set is looked for when no path is given.
std::vector<std::string> dataset_locations(const std::string& name);
// What is published of a data set, to plan with where it is not: images, sizes and classes of a split. Nothing for
// image_folder and synthetic. Throws UserError for an unknown name.
std::optional<DatasetInfo> published_info(const std::string& name, Split split);
// The first of these folders that holds every file of the data set (its folder of training or test images), or "": what
// open_dataset takes when no path is given. "" for synthetic, which has no files. Throws UserError for an unknown name.
std::string find_dataset(const std::string& name);

// "path: reason" on one line, whether the reason names the path itself or not.
std::string path_and_reason(const std::string& path, std::string reason);

}  // namespace luq
