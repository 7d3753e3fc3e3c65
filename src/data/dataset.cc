// The data sets: where their files are, what their classes and statistics are.
#include "luq/data/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/core/shell.h"
#include "src/data/image_folder.h"
#include "src/data/image_names.h"
#include "src/data/memory_dataset.h"
#include "src/data/synthetic.h"
#include "src/data/webdataset.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

enum class Format { idx, cifar };

struct KnownDataset {
  std::string name;
  Format format;
  std::vector<std::string> train_files, test_files;  // IDX: images, then labels
  std::string archive_folder;                        // in which the published archive holds them, or ""
  std::string system_folder;                         // in which a Debian package puts them, or ""
  std::string advice;                                // how to get them
  int64_t train_images, test_images, image_size, channels;
  std::vector<int64_t> label_limits;  // of each label of an image; the last is the class
  std::vector<double> mean, std;
  std::vector<std::string> class_names;
};

const std::vector<KnownDataset>& known_datasets() {
  static const std::vector<std::string> idx_train = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"};
  static const std::vector<std::string> idx_test = {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};
  static const std::vector<KnownDataset> known = {
      {.name = "fashion_mnist",
       .format = Format::idx,
       .train_files = idx_train,
       .test_files = idx_test,
       .archive_folder = "",
       .system_folder = "/usr/share/datasets/fashion-mnist",
       .advice = "install the Debian package dataset-fashion-mnist (apt-get install dataset-fashion-mnist)",
       .train_images = 60000,
       .test_images = 10000,
       .image_size = 28,
       .channels = 1,
       .label_limits = {10},
       .mean = {0.2860},
       .std = {0.3530},
       .class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                       "Ankle boot"}},
      {.name = "mnist",
       .format = Format::idx,
       .train_files = idx_train,
       .test_files = idx_test,
       .archive_folder = "",
       .system_folder = "",
       .advice = "download the four files of MNIST into ./data/mnist",
       .train_images = 60000,
       .test_images = 10000,
       .image_size = 28,
       .channels = 1,
       .label_limits = {10},
       .mean = {0.1307},
       .std = {0.3081},
       .class_names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}},
      {.name = "cifar10",
       .format = Format::cifar,
       .train_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                       "data_batch_5.bin"},
       .test_files = {"test_batch.bin"},
       .archive_folder = "cifar-10-batches-bin",
       .system_folder = "",
       .advice = "unpack cifar-10-binary.tar.gz (the binary version, https://www.cs.toronto.edu/~kriz/cifar.html) into "
                 "./data/cifar10",
       .train_images = 50000,
       .test_images = 10000,
       .image_size = 32,
       .channels = 3,
       .label_limits = {10},
       .mean = {0.4914, 0.4822, 0.4465},
       .std = {0.2470, 0.2435, 0.2616},
       .class_names = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}},
      {.name = "cifar100",
       .format = Format::cifar,
       .train_files = {"train.bin"},
       .test_files = {"test.bin"},
       .archive_folder = "cifar-100-binary",
       .system_folder = "",
       .advice =
           "unpack cifar-100-binary.tar.gz (the binary version, https://www.cs.toronto.edu/~kriz/cifar.html) into "
           "./data/cifar100",
       .train_images = 50000,
       .test_images = 10000,
       .image_size = 32,
       .channels = 3,
       .label_limits = {20, 100},
       .mean = {0.5071, 0.4865, 0.4409},
       .std = {0.2673, 0.2564, 0.2762},
       .class_names = {"apple",       "aquarium_fish", "baby",      "bear",       "beaver",       "bed",
                       "bee",         "beetle",        "bicycle",   "bottle",     "bowl",         "boy",
                       "bridge",      "bus",           "butterfly", "camel",      "can",          "castle",
                       "caterpillar", "cattle",        "chair",     "chimpanzee", "clock",        "cloud",
                       "cockroach",   "couch",         "crab",      "crocodile",  "cup",          "dinosaur",
                       "dolphin",     "elephant",      "flatfish",  "forest",     "fox",          "girl",
                       "hamster",     "house",         "kangaroo",  "keyboard",   "lamp",         "lawn_mower",
                       "leopard",     "lion",          "lizard",    "lobster",    "man",          "maple_tree",
                       "motorcycle",  "mountain",      "mouse",     "mushroom",   "oak_tree",     "orange",
                       "orchid",      "otter",         "palm_tree", "pear",       "pickup_truck", "pine_tree",
                       "plain",       "plate",         "poppy",     "porcupine",  "possum",       "rabbit",
                       "raccoon",     "ray",           "road",      "rocket",     "rose",         "sea",
                       "seal",        "shark",         "shrew",     "skunk",      "skyscraper",   "snail",
                       "snake",       "spider",        "squirrel",  "streetcar",  "sunflower",    "sweet_pepper",
                       "table",       "tank",          "telephone", "television", "tiger",        "tractor",
                       "train",       "trout",         "tulip",     "turtle",     "wardrobe",     "whale",
                       "willow_tree", "wolf",          "woman",     "worm"}},
  };
  return known;
}

// A data set of image files that has a name here.
struct KnownImageFiles {
  std::string name;
  std::vector<std::string> system_folders;
  std::string advice;                                          // its layout, how to get it, and what to try without it
  int64_t train_images = 0, test_images = 0, num_classes = 0;  // 0: as there are
};

const std::vector<KnownImageFiles>& known_image_files() {
  static const std::string layout =
      fmt::format("train/<class>/*.JPEG {} and val/<class>/* or test/<class>/*", image_extensions);
  static const std::vector<KnownImageFiles> known = {
      {.name = "image_folder",
       .system_folders = {},
       .advice = "set data.path to a folder that holds " + layout +
                 "; tools/prepare_photos.sh and tools/prepare_elpv.sh make such folders"},
      {.name = "imagenet",
       .system_folders = {"/data/imagenet", "/datasets/imagenet"},
       .advice =
           "set data.path to a folder that holds " + layout +
           " with the classes n01440764 ... n15075141 (or val/*.JPEG and a file of their classes, docs/data.md); "
           "ImageNet is to be had at https://image-net.org, after registration. Without it --dry-run tells the cost, "
           "and tools/prepare_photos.sh makes a small set of image files (data.name: image_folder)",
       .train_images = 1281167,
       .test_images = 50000,
       .num_classes = 1000},
      {.name = "webdataset",
       .system_folders = {},
       .advice = "set data.path to a folder of tar shards train-*.tar and val-*.tar, or say how they are called in "
                 "data.train_shards and data.val_shards; luqtrain pack makes them from folders of classes"},
  };
  return known;
}

const KnownImageFiles* find_known_image_files(const std::string& name) {
  for (const KnownImageFiles& known : known_image_files()) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

// Null for synthetic; throws UserError for an unknown name.
const KnownDataset* find_known(const std::string& name) {
  if (name == "synthetic") return nullptr;
  for (const KnownDataset& known : known_datasets()) {
    if (known.name == name) return &known;
  }
  fail_user("[data] expected a data set among {}, got '{}'{}", fmt::join(dataset_names(), ", "), name,
            did_you_mean(name, dataset_names()));
}

// folder/name or folder/name.gz, whichever exists, or "".
std::string find_file(const fs::path& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz"}) {
    const fs::path file = folder / (name + suffix);
    std::error_code error;
    if (fs::exists(file, error) && !fs::is_directory(file, error)) return file.string();
  }
  return "";
}

std::vector<std::string> missing_files(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<std::string> missing;
  for (const std::string& name : names) {
    if (find_file(folder, name).empty()) missing.push_back(name);
  }
  return missing;
}

// The location itself, or the archive's folder in it when that one exists and the files are not in the location.
fs::path folder_in(const KnownDataset& known, const fs::path& location, const std::vector<std::string>& names) {
  if (known.archive_folder.empty() || missing_files(location, names).empty()) return location;
  const fs::path inner = location / known.archive_folder;
  std::error_code error;
  return fs::is_directory(inner, error) ? inner : location;
}

std::vector<std::string> all_files(const KnownDataset& known) {
  std::vector<std::string> names = known.train_files;
  names.insert(names.end(), known.test_files.begin(), known.test_files.end());
  return names;
}

// Says what is wrong with a folder that does not hold all files.
std::string describe_lack(const fs::path& folder, const std::vector<std::string>& names) {
  std::error_code error;
  if (!fs::exists(folder, error)) return error ? error.message() : "no such folder";
  if (!fs::is_directory(folder, error)) return "not a folder";
  return fmt::format("{} missing", fmt::join(missing_files(folder, names), ", "));
}

fs::path locate(const KnownDataset& known, const std::string& path, const std::vector<std::string>& names,
                const FileAdvice& advice) {
  if (!path.empty()) {
    const fs::path folder = folder_in(known, path, names);
    if (missing_files(folder, names).empty()) return folder;
    fail_user("[data] {}: {}: {}; {}", known.name, folder.string(), describe_lack(folder, names), advice.text);
  }
  const std::string found = find_dataset(known.name);
  if (!found.empty()) return found;
  std::vector<std::string> lacks;
  for (const std::string& location : dataset_locations(known.name)) {
    const fs::path folder = folder_in(known, location, all_files(known));
    lacks.push_back(fmt::format("{} ({})", folder.string(), describe_lack(folder, all_files(known))));
  }
  fail_user("[data] {}: not found in {}; {}. Without it: --smoke tries everything on a few made-up images", known.name,
            fmt::join(lacks, ", "), advice.text);
}

// The folder in `location` that holds the data set, or "".
std::string find_in(const KnownImageFiles& known, const std::string& location) {
  if (known.name == "webdataset") return holds_shards(location) ? location : "";
  return find_image_folder(location);
}

std::unique_ptr<Dataset> open_image_files(const KnownImageFiles& known, const std::string& path, Split split,
                                          const ImageFileOptions& options) {
  const bool shards = known.name == "webdataset";
  const bool named = shards && !(options.train_shards.empty() && options.val_shards.empty());
  if (named && path.empty()) return open_webdataset(find_dataset(known.name), split, options);
  const std::vector<std::string> locations =
      path.empty() ? dataset_locations(known.name) : std::vector<std::string>{path};
  std::vector<std::string> lacks;
  for (const std::string& location : locations) {
    std::error_code error;
    const std::string root = named && fs::is_directory(location, error) ? location : find_in(known, location);
    if (!root.empty()) {
      return shards ? open_webdataset(root, split, options)
                    : open_image_folder(known.name, root, location, split, options);
    }
    lacks.push_back(fmt::format("{} ({})", location,
                                !fs::exists(location, error)         ? (error ? error.message() : "no such folder")
                                : !fs::is_directory(location, error) ? "not a folder"
                                : shards                             ? "holds no train-*.tar or val-*.tar"
                                                                     : "holds neither train/ nor val/ nor test/"));
  }
  fail_user(
      "[data] {}: not found in {}; {}. To try without it: --smoke runs everything on a few made-up image files, and "
      "--set data.name=synthetic --set data.synthetic.image_size=224 trains on made-up pixels",
      known.name, fmt::join(lacks, ", "), known.advice);
}

}  // namespace

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  for (const KnownDataset& known : known_datasets()) names.push_back(known.name);
  for (const KnownImageFiles& known : known_image_files()) names.push_back(known.name);
  names.push_back("synthetic");
  return names;
}

std::vector<std::string> dataset_locations(const std::string& name) {
  const KnownImageFiles* image_files = find_known_image_files(name);
  const KnownDataset* known = image_files == nullptr ? find_known(name) : nullptr;
  if (known == nullptr && image_files == nullptr) return {};
  std::vector<std::string> locations;
  if (const char* data = std::getenv("LUQ_DATA_DIR"); data != nullptr && *data != '\0') {
    locations.push_back((fs::path(expand_home(data)) / name).string());
  }
  locations.push_back((fs::path("data") / name).string());
  if (known != nullptr && !known->system_folder.empty()) locations.push_back(known->system_folder);
  if (image_files != nullptr) {
    locations.insert(locations.end(), image_files->system_folders.begin(), image_files->system_folders.end());
  }
  return locations;
}

std::optional<DatasetInfo> published_info(const std::string& name, Split split) {
  const bool is_train = split == Split::train;
  DatasetInfo info;
  info.name = name;
  if (const KnownImageFiles* known = find_known_image_files(name)) {
    if (known->num_classes == 0) return std::nullopt;
    info.images = is_train ? known->train_images : known->test_images;
    info.encoded = true;
    info.channels = 3;
    info.num_classes = known->num_classes;
    return info;
  }
  const KnownDataset* known = find_known(name);
  if (known == nullptr) return std::nullopt;
  info.images = is_train ? known->train_images : known->test_images;
  info.height = info.width = known->image_size;
  info.channels = known->channels;
  info.num_classes = known->label_limits.back();
  info.mean = known->mean;
  info.std = known->std;
  info.class_names = known->class_names;
  return info;
}

std::string find_dataset(const std::string& name) {
  if (const KnownImageFiles* known = find_known_image_files(name)) {
    for (const std::string& location : dataset_locations(name)) {
      const std::string root = find_in(*known, location);
      if (!root.empty()) return root;
    }
    return "";
  }
  const KnownDataset* known = find_known(name);
  if (known == nullptr) return "";
  const std::vector<std::string> names = all_files(*known);
  for (const std::string& location : dataset_locations(name)) {
    const fs::path folder = folder_in(*known, location, names);
    if (missing_files(folder, names).empty()) return folder.string();
  }
  return "";
}

std::vector<std::string> warnings_of(const std::vector<const DatasetInfo*>& splits) {
  UnusedFiles unused;
  std::vector<std::string> warnings;
  for (const DatasetInfo* split : splits) {
    unused.add(split->unused);
    for (const std::string& note : split->notes) {
      if (std::find(warnings.begin(), warnings.end(), note) == warnings.end()) warnings.push_back(note);
    }
  }
  if (unused.count() > 0) warnings.push_back(unused.to_text() + "; luqtrain validate-data lists them");
  return warnings;
}

int32_t Dataset::read(int64_t, uint8_t*) const { fail("[data] {}: holds image files, not pixels", info().name); }

int32_t Dataset::read_file(int64_t, std::vector<uint8_t>&) const {
  fail("[data] {}: holds pixels, not image files", info().name);
}

std::string Dataset::image_name(int64_t index) const { return fmt::format("image {} of {}", index, info().name); }

std::unique_ptr<Dataset> open_dataset(const std::string& name, const std::string& path, Split split,
                                      const SyntheticOptions& synthetic, const ImageFileOptions& files) {
  if (const KnownImageFiles* known = find_known_image_files(name)) return open_image_files(*known, path, split, files);
  const KnownDataset* known = find_known(name);
  if (known == nullptr) return make_synthetic_dataset(split, synthetic);
  const FileAdvice advice{name, fmt::format("{}, or set data.path to a folder that holds {}{}", known->advice,
                                            fmt::join(all_files(*known), ", "),
                                            known->format == Format::idx ? " (or the same as .gz)" : "")};
  const std::vector<std::string>& names = split == Split::train ? known->train_files : known->test_files;
  const fs::path folder = locate(*known, path, names, advice);
  std::vector<std::string> found;
  for (const std::string& file : names) found.push_back(find_file(folder, file));
  LabelledImages images = known->format == Format::idx
                              ? read_idx(found[0], found[1], known->label_limits.back(), advice)
                              : read_cifar(found, known->label_limits, advice);
  return std::make_unique<MemoryDataset>(*published_info(name, split), std::move(images));
}

std::string path_and_reason(const std::string& path, std::string reason) {
  const size_t named = reason.find(path + ": ");
  if (named != std::string::npos) reason.erase(0, named + path.size() + 2);
  std::string line = path + ": " + reason;
  for (size_t at = 0; (at = line.find('\n', at)) != std::string::npos;) line.replace(at, 1, "\\n");
  return line;
}

}  // namespace luq
