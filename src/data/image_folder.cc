// The order is torchvision's: classes sorted by name, then, within a class, its folders sorted by path and the files of
// each sorted by name, all bytewise. So an index means the same image in both.
//
// A folder of a class is read by one thread, several classes at a time: what takes long is waiting for a network disk,
// so there are more threads than cores. File types come with the names of a folder where its file system gives them,
// and no file is opened or asked about before it is read.
#include "src/data/image_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "luq/core/error.h"
#include "luq/core/stop_signals.h"
#include "src/core/folder_entries.h"
#include "src/data/class_names.h"
#include "src/data/image_names.h"
#include "src/data/label_file.h"
#include "src/data/parallel.h"
#include "src/data/passed_over.h"
#include "src/data/whole_file.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr size_t scan_threads = 16;
constexpr int64_t imagenet_classes = 1000;
constexpr size_t listed = 5;  // names in a message

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

// Paths one behind the other in one string: ImageNet has 1.28 million.
class PathList {
 public:
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  void add(std::string_view path) {
    text_ += path;
    ends_.push_back(text_.size());
  }
  std::string_view operator[](int64_t i) const {
    const auto at = static_cast<size_t>(i);
    const uint64_t begin = at == 0 ? 0 : ends_[at - 1];
    return std::string_view(text_).substr(begin, ends_[at] - begin);
  }

 private:
  std::string text_;
  std::vector<uint64_t> ends_;
};

struct Contents {
  std::vector<std::string> files, folders;  // names, sorted; a link to a folder is a folder
};

Contents list(const fs::path& folder) {
  Contents contents;
  const std::error_code error = for_folder_entries(folder, [&](const fs::directory_entry& entry) {
    throw_if_stopped();
    std::error_code no_matter;  // of a broken link, which is found out when it is read
    const bool is_a_folder = entry.is_directory(no_matter);
    // What the system cannot tell is not "a file": a class must not be left out.
    if (no_matter == std::errc::io_error) {
      fail_user("[data] {}: cannot be read: {}", entry.path().string(), no_matter.message());
    }
    (is_a_folder ? contents.folders : contents.files).push_back(entry.path().filename().string());
    return true;
  });
  if (error) fail_user("[data] {}: the folder cannot be read: {}", folder.string(), error.message());
  std::sort(contents.files.begin(), contents.files.end());
  std::sort(contents.folders.begin(), contents.folders.end());
  return contents;
}

void drop_system_folders(Contents& contents, const std::string& folder, UnusedFiles& unused) {
  std::erase_if(contents.folders, [&](const std::string& name) {
    if (!is_system_folder(name)) return false;
    unused.add("folder " + name, folder + "/" + name);
    return true;
  });
}

// Takes out what is neither an image nor a folder of a user.
void keep_images(Contents& contents, const std::string& folder, UnusedFiles& unused) {
  std::erase_if(contents.files, [&](const std::string& name) {
    if (has_image_extension(name) && !is_apple_double(name)) return false;
    unused.add(kind_of_file(name), folder + "/" + name);
    return true;
  });
  drop_system_folders(contents, folder, unused);
}

std::string first_of(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), listed);
  const std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<int64_t>(shown), ", "));
  return names.size() > shown ? fmt::format("{} and {} more", text, names.size() - shown) : text;
}

// The images in and below one folder, as paths relative to `root`.
class ClassScan {
 public:
  ClassScan(fs::path root, const std::string& name) : root_(std::move(root)) {
    walk(name);
    std::sort(folders_.begin(), folders_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  }

  std::vector<std::string> images() const {
    std::vector<std::string> paths;
    for (const auto& [folder, files] : folders_) {
      for (const std::string& file : files) paths.push_back(folder + "/" + file);
    }
    return paths;
  }
  const UnusedFiles& unused() const { return unused_; }

 private:
  void walk(const std::string& folder) {
    struct stat status {};
    if (::stat((root_ / folder).c_str(), &status) != 0)
      fail_user("[data] {}: the folder cannot be read", (root_ / folder).string());
    const std::pair<dev_t, ino_t> identity{status.st_dev, status.st_ino};
    if (std::find(above_.begin(), above_.end(), identity) != above_.end()) {
      fail_user("[data] {}: a link to a folder in which it lies; remove it", (root_ / folder).string());
    }
    Contents contents = list(root_ / folder);
    keep_images(contents, (root_ / folder).string(), unused_);
    folders_.emplace_back(folder, std::move(contents.files));
    above_.push_back(identity);
    for (const std::string& inner : contents.folders) walk(folder + "/" + inner);
    above_.pop_back();
  }

  fs::path root_;
  std::vector<std::pair<std::string, std::vector<std::string>>> folders_;
  std::vector<std::pair<dev_t, ino_t>> above_;
  UnusedFiles unused_;
};

struct LabelledPaths {
  PathList paths;  // relative to the split's folder
  std::vector<int32_t> labels;
};

LabelledPaths scan_classes(const fs::path& folder, const std::vector<std::string>& classes, UnusedFiles& unused) {
  std::vector<std::vector<std::string>> images(classes.size());
  std::vector<UnusedFiles> others(classes.size());
  for_each_parallel(classes.size(), scan_threads, [&](size_t i) {
    const ClassScan scan(folder, classes[i]);
    images[i] = scan.images();
    others[i] = scan.unused();
  });
  for (const UnusedFiles& of_class : others) unused.add(of_class);

  LabelledPaths found;
  std::vector<std::string> empty;
  for (size_t i = 0; i < classes.size(); ++i) {
    if (images[i].empty()) empty.push_back(classes[i]);
    for (const std::string& path : images[i]) found.paths.add(path);
    found.labels.insert(found.labels.end(), images[i].size(), static_cast<int32_t>(i));
  }
  if (!empty.empty()) {
    fail_user("[data] {}: expected images {} in each of the {} folders of classes, got none in {}", folder.string(),
              image_extensions, classes.size(), first_of(empty));
  }
  return found;
}

void check_same_classes(const fs::path& train, const std::vector<std::string>& of_train, const fs::path& test,
                        const std::vector<std::string>& of_test) {
  std::vector<std::string> only_train, only_test;
  std::set_difference(of_train.begin(), of_train.end(), of_test.begin(), of_test.end(), std::back_inserter(only_train));
  std::set_difference(of_test.begin(), of_test.end(), of_train.begin(), of_train.end(), std::back_inserter(only_test));
  if (only_train.empty() && only_test.empty()) return;
  std::string text;
  if (!only_train.empty()) text += fmt::format("; only in the former: {}", first_of(only_train));
  if (!only_test.empty()) text += fmt::format("; only in the latter: {}", first_of(only_test));
  const std::string alike = first_alike(only_train, only_test);
  if (!alike.empty()) text += fmt::format("; {}: rename one of them", alike);
  fail_user("[data] expected folders of the same classes in {} and {}, got {} and {}{}", train.string(), test.string(),
            of_train.size(), of_test.size(), text);
}

std::string find_test_folder(const fs::path& root) {
  for (const char* name : {"val", "test"}) {
    if (is_folder(root / name)) return (root / name).string();
  }
  return "";
}

std::string find_label_file(const std::string& given, const std::vector<fs::path>& folders) {
  std::vector<std::string> tried;
  if (!given.empty()) {
    for (const fs::path& file : {fs::path(given), folders.back() / given}) {
      std::error_code error;
      if (fs::exists(file, error)) return file.string();
      tried.push_back(file.string());
    }
    fail_user("[data] data.val_labels: {}: no such file", fmt::join(tried, " and "));
  }
  for (const fs::path& folder : folders) {
    for (const char* name : {"LOC_val_solution.csv", "val.txt", "val_labels.txt", "val_labels.csv",
                             "imagenet_2012_validation_synset_labels.txt", "ILSVRC2012_validation_ground_truth.txt"}) {
      const fs::path file = folder / name;
      std::error_code error;
      if (fs::exists(file, error)) return file.string();
    }
  }
  return "";
}

// What lies in train/, val/ or test/ itself.
Contents list_split(const fs::path& folder, UnusedFiles& unused) {
  Contents contents = list(folder);
  drop_system_folders(contents, folder.string(), unused);
  return contents;
}

class ImageFolder : public Dataset {
 public:
  ImageFolder(std::string folder, LabelledPaths images, DatasetInfo info)
      : folder_(std::move(folder)), images_(std::move(images)), info_(std::move(info)) {
    info_.images = images_.paths.size();
    info_.encoded = true;
    info_.channels = 3;
    info_.num_classes = static_cast<int64_t>(info_.class_names.size());
    info_.mean = {0.485, 0.456, 0.406};  // of ImageNet, as torchvision's weights expect
    info_.std = {0.229, 0.224, 0.225};
  }

  const DatasetInfo& info() const override { return info_; }
  int32_t read_file(int64_t index, std::vector<uint8_t>& bytes) const override {
    read_whole_file(image_name(index), bytes);
    return images_.labels[static_cast<size_t>(index)];
  }
  std::string image_name(int64_t index) const override { return folder_ + "/" + std::string(images_.paths[index]); }

 private:
  std::string folder_;
  LabelledPaths images_;
  DatasetInfo info_;
};

LabelledPaths label_flat_folder(const fs::path& folder, const std::vector<std::string>& files,
                                const std::vector<std::string>& classes, const std::string& label_file,
                                const ImageFileOptions& options) {
  if (label_file.empty()) {
    fail_user(
        "[data] {}: holds {} images and no folders of classes, so a file must give the classes: set data.val_labels to "
        "it "
        "(LOC_val_solution.csv, lines \"image class\", or a class on each line in the order of the images' names)",
        folder.string(), files.size());
  }
  std::vector<std::string> devkit_classes;
  if (!options.devkit_classes.empty()) {
    devkit_classes = parse_class_list(read_text_file(options.devkit_classes), options.devkit_classes);
  }
  LabelledPaths images;
  for (const std::string& file : files) images.paths.add(file);
  images.labels = parse_label_file(read_text_file(label_file), label_file, files, classes, devkit_classes);
  return images;
}

void check_imagenet(const fs::path& folder, const std::vector<std::string>& classes) {
  const auto is_wnid = [](const std::string& name) {
    return name.size() == 9 && name[0] == 'n' &&
           std::all_of(name.begin() + 1, name.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  const auto other = std::find_if_not(classes.begin(), classes.end(), is_wnid);
  if (static_cast<int64_t>(classes.size()) == imagenet_classes && other == classes.end()) return;
  fail_user(
      "[data] imagenet: {}: expected folders of ImageNet's {} classes (n01440764 ... n15075141), got {} folders{}; for "
      "a part of "
      "it, or another set in folders of classes, say data.name: image_folder",
      folder.string(), imagenet_classes, classes.size(), other == classes.end() ? "" : ", among them '" + *other + "'");
}

}  // namespace

std::vector<std::string> images_below(const std::string& folder, UnusedFiles& unused) {
  std::string name = folder;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  const ClassScan scan("", name);
  unused.add(scan.unused());
  return scan.images();
}

std::string find_image_folder(const std::string& location) {
  for (const fs::path& root : {fs::path(location), fs::path(location) / "ILSVRC/Data/CLS-LOC"}) {
    if (is_folder(root / "train") || !find_test_folder(root).empty()) return root.string();
  }
  return "";
}

std::unique_ptr<Dataset> open_image_folder(const std::string& name, const std::string& root,
                                           const std::string& location, Split split, const ImageFileOptions& options) {
  const fs::path train = fs::path(root) / "train", test = find_test_folder(root);
  const bool has_train = is_folder(train);
  if (split == Split::train && !has_train) fail_user("[data] {}: {}: no such folder", name, train.string());
  if (split == Split::test && test.empty()) {
    fail_user("[data] {}: expected test images in {}/val or {}/test, got neither folder", name, root, root);
  }
  DatasetInfo info;
  info.name = name;
  UnusedFiles& unused = info.unused;
  UnusedFiles of_other_split;
  const Contents in_train = has_train ? list_split(train, split == Split::train ? unused : of_other_split) : Contents();
  const Contents in_test = test.empty() ? Contents() : list_split(test, split == Split::test ? unused : of_other_split);
  const std::vector<std::string>&of_train = in_train.folders, &of_test = in_test.folders;
  const std::vector<std::string>& classes = has_train ? of_train : of_test;
  if (classes.empty()) {
    fail_user("[data] {}: {}: expected a folder for each class, got none{}", name, (has_train ? train : test).string(),
              has_train ? "" : fmt::format(" (and {} is not there, whose folders could name them)", train.string()));
  }
  if (name == "imagenet") check_imagenet(has_train ? train : test, classes);
  if (has_train && !of_test.empty()) check_same_classes(train, of_train, test, of_test);
  info.class_names = classes;
  if (const std::string alike = first_alike(classes, classes, false); !alike.empty()) {
    info.notes.push_back(fmt::format("classes {}; they are different classes here", alike));
  }

  std::vector<std::string> used;
  if (has_train) used.push_back("train");
  if (!test.empty()) used.push_back(test.filename().string());
  if (name == "imagenet") used.push_back("test");  // published without classes
  add_unused_images(root, split, split_by_name(has_train, !test.empty()), used, unused);

  if (split == Split::test && !of_test.empty()) {
    for (const auto& [key, file] :
         {std::pair{"data.val_labels", options.val_labels}, {"data.devkit_classes", options.devkit_classes}}) {
      if (!file.empty()) {
        fail_user("[data] {} {}: expected none, since the test images lie in folders of their classes ({})", key, file,
                  test.string());
      }
    }
  }
  if (split == Split::train || !of_test.empty()) {
    const fs::path& folder = split == Split::train ? train : test;
    for (const std::string& file : (split == Split::train ? in_train : in_test).files) {
      unused.add(kind_of_file(file) + " beside the folders of classes", (folder / file).string());
    }
    LabelledPaths images = scan_classes(folder, classes, unused);
    return std::make_unique<ImageFolder>(folder.string(), std::move(images), info);
  }
  Contents flat = in_test;
  const std::string label_file = find_label_file(options.val_labels, {test, root, location});
  std::erase_if(flat.files, [&](const std::string& file) {
    std::error_code error;
    return file == fs::path(label_file).filename() && fs::equivalent(test / file, label_file, error);
  });
  keep_images(flat, test.string(), unused);
  if (flat.files.empty()) fail_user("[data] {}: {}: holds neither folders of classes nor images", name, test.string());
  LabelledPaths images = label_flat_folder(test, flat.files, classes, label_file, options);
  return std::make_unique<ImageFolder>(test.string(), std::move(images), info);
}

}  // namespace luq
