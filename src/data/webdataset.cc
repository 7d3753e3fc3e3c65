// An index of every shard is read, or made, when the data set is opened; after that an image is one pread. The
// shards read last stay open, and no more of them: a set may have more shards than a process may have open files.
#include "src/data/webdataset.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "luq/core/error.h"
#include "src/core/folder_entries.h"
#include "src/data/class_names.h"
#include "src/data/label_file.h"
#include "src/data/parallel.h"
#include "src/data/passed_over.h"
#include "src/data/tar_shard.h"
#include "src/data/whole_file.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr size_t max_paths = 1000000;
constexpr size_t index_threads = 16;

// ---- Braces
// ----------------------------------------------------------------------------------------------------------

class Braces {
 public:
  explicit Braces(const std::string& pattern) : pattern_(pattern) {}

  std::vector<std::string> expand() {
    std::vector<std::string> paths = list(0);
    for (const std::string& path : paths) {
      if (path.empty()) refuse("expected paths of shards, got an empty one");
    }
    return paths;
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const { fail_user("[data] shards '{}': {}", pattern_, problem); }

  void check_count(size_t count) const {
    if (count > max_paths) refuse(fmt::format("expected at most {} shards, got more", max_paths));
  }

  // Items separated by commas, up to the end (depth 0) or the closing brace, on which it stops.
  std::vector<std::string> list(int depth) {
    constexpr int max_depth = 16;
    if (depth > max_depth) refuse(fmt::format("braces in braces more than {} deep", max_depth));
    std::vector<std::string> all;
    while (true) {
      const size_t begin = at_;
      std::vector<std::string> item = sequence(depth);
      const std::vector<std::string> range =
          depth > 0 ? counted(pattern_.substr(begin, at_ - begin)) : std::vector<std::string>();
      const std::vector<std::string>& added = range.empty() ? item : range;
      check_count(all.size() + added.size());
      all.insert(all.end(), added.begin(), added.end());
      if (at_ == pattern_.size() || pattern_[at_] != ',') break;
      ++at_;
    }
    return all;
  }

  // Text and braces, one after the other.
  std::vector<std::string> sequence(int depth) {
    std::vector<std::string> all = {""};
    while (at_ < pattern_.size() && pattern_[at_] != ',') {
      const char c = pattern_[at_];
      if (c == '}' && depth > 0) break;
      if (c == '}') refuse("a closing brace without its opening one");
      ++at_;
      if (c != '{') {
        for (std::string& text : all) text += c;
        continue;
      }
      const std::vector<std::string> inner = list(depth + 1);
      if (at_ == pattern_.size()) refuse("an opening brace without its closing one");
      ++at_;
      check_count(all.size() * inner.size());
      std::vector<std::string> product;
      for (const std::string& head : all) {
        for (const std::string& tail : inner) product.push_back(head + tail);
      }
      all = std::move(product);
    }
    return all;
  }

  // "008..011" counts, "0..10..2" in twos, as in bash; empty for anything else.
  std::vector<std::string> counted(const std::string& range) const {
    const size_t dots = range.find("..");
    if (dots == std::string::npos) return {};
    const size_t more = range.find("..", dots + 2);
    const std::string text = range.substr(0, more);
    const std::optional<int64_t> first = number(text.substr(0, dots)), last = number(text.substr(dots + 2));
    const std::optional<int64_t> step = more == std::string::npos ? 1 : number(range.substr(more + 2));
    if (!first || !last || !step) return {};
    if (*step == 0) refuse("a range that counts in steps of 0");
    const size_t width =
        text.find('0') == 0 || text.find('0', dots) == dots + 2 ? std::max(dots, text.size() - dots - 2) : 0;
    const int64_t count = std::abs(*last - *first) / *step + 1, sign = *first <= *last ? 1 : -1;
    check_count(static_cast<size_t>(count));
    std::vector<std::string> all;
    for (int64_t i = 0; i < count; ++i) all.push_back(fmt::format("{:0{}}", *first + sign * i * *step, width));
    return all;
  }

  static std::optional<int64_t> number(const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || text.size() > 18 || error != std::errc() || end != text.data() + text.size() || value < 0) {
      return std::nullopt;
    }
    return value;
  }

  const std::string& pattern_;
  size_t at_ = 0;
};

// ---- The data set ---------------------------------------------------------------------------------------------------

std::vector<std::string> usual_shards(const std::string& location, const std::string& prefix) {
  std::vector<std::string> files;
  const std::error_code error = for_folder_entries(location, [&](const fs::directory_entry& entry) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(".tar")) files.push_back(entry.path().string());
    return true;
  });
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory) {
    fail_user("[data] {}: the folder cannot be read: {}", location, error.message());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Empty when there is no pattern and no file of the usual name.
std::vector<std::string> shards_of(const std::string& location, Split split, const ImageFileOptions& options) {
  const bool training = split == Split::train;
  const std::string& pattern = training ? options.train_shards : options.val_shards;
  if (pattern.empty()) return usual_shards(location, training ? "train-" : "val-");
  std::vector<std::string> files;
  for (const std::string& path : expand_braces(pattern)) files.push_back((fs::path(location) / path).string());
  std::vector<std::string> missing;
  for (const std::string& file : files) {
    std::error_code error;
    if (!fs::exists(file, error)) missing.push_back(file);
  }
  if (!missing.empty()) {
    fail_user("[data] {}: {} of {} shards are not there, the first of them {}{}",
              training ? "data.train_shards" : "data.val_shards", missing.size(), files.size(), missing.front(),
              pattern.find_first_of("*?") != std::string::npos
                  ? "; * and ? stand for themselves: write s-{000..146}.tar"
                  : "");
  }
  return files;
}

// Where the user has named the shards, the others are none of this data set's.
void add_unused(const std::string& location, Split split, const ImageFileOptions& options, UnusedFiles& unused) {
  if (!(split == Split::train ? options.train_shards : options.val_shards).empty()) return;
  std::vector<std::string> used;
  bool there[2] = {};
  for (const Split each : {Split::train, Split::test}) {
    const bool training = each == Split::train;
    const std::string& pattern = training ? options.train_shards : options.val_shards;
    const std::vector<std::string> files =
        pattern.empty() ? usual_shards(location, training ? "train-" : "val-") : expand_braces(pattern);
    there[training ? 0 : 1] = !files.empty();
    for (const std::string& file : files) used.push_back(fs::path(file).filename().string());
  }
  add_unused_shards(location, split, split_by_name(there[0], there[1]), used, unused);
}

std::vector<ShardIndex> load_indexes(const std::vector<std::string>& shards) {
  std::vector<ShardIndex> indexes(shards.size());
  for_each_parallel(shards.size(), index_threads, [&](size_t i) { indexes[i] = load_shard_index(shards[i]); });
  return indexes;
}

int32_t largest_label(const std::vector<ShardIndex>& indexes) {
  int32_t largest = -1;
  for (const ShardIndex& index : indexes) {
    for (const ShardImage& image : index.images) largest = std::max(largest, image.label);
  }
  return largest;
}

std::vector<std::string> read_class_names(const std::string& location) {
  const std::string file = (fs::path(location) / "classes.txt").string();
  std::error_code error;
  if (!fs::exists(file, error) && !error) return {};
  std::vector<std::string> names = parse_class_names(read_text_file(file), file);
  if (names.size() > size_t{max_classes}) {
    fail_user("[data] {}: expected at most {} classes, got {}", file, max_classes, names.size());
  }
  return names;
}

// "" when every class has an image.
std::string empty_classes(const std::vector<ShardIndex>& indexes, const std::vector<std::string>& class_names) {
  std::vector<bool> has_image(class_names.size());
  for (const ShardIndex& index : indexes) {
    for (const ShardImage& image : index.images) {
      const auto label = static_cast<size_t>(image.label);
      if (label < has_image.size()) has_image[label] = true;
    }
  }
  const auto first = std::find(has_image.begin(), has_image.end(), false);
  if (first == has_image.end()) return "";
  return fmt::format("{} of the {} classes have no training image, the first of them label {} ({})",
                     std::count(has_image.begin(), has_image.end(), false), has_image.size(), first - has_image.begin(),
                     class_names[static_cast<size_t>(first - has_image.begin())]);
}

// The files asked for last, open. Called from many threads at once.
class OpenFiles {
 public:
  std::shared_ptr<const RandomAccessFile> get(const std::string& name) {
    const std::lock_guard lock(mutex_);
    auto found = std::ranges::find(files_, name, &Entry::first);
    if (found == files_.end()) {
      if (files_.size() == most) files_.pop_back();
      found = files_.insert(files_.end(), {name, std::make_shared<const RandomAccessFile>(name)});
    }
    std::rotate(files_.begin(), found, found + 1);
    return files_.front().second;
  }

 private:
  using Entry = std::pair<std::string, std::shared_ptr<const RandomAccessFile>>;
  static constexpr size_t most = 64;
  std::mutex mutex_;
  std::vector<Entry> files_;  // the last one first
};

class WebDataset : public Dataset {
 public:
  WebDataset(std::vector<std::string> shards, std::vector<ShardIndex> indexes, DatasetInfo info)
      : shards_(std::move(shards)), info_(std::move(info)) {
    for (ShardIndex& index : indexes) {
      info_.images += static_cast<int64_t>(index.images.size());
      ends_.push_back(info_.images);
      const std::string& shard = shards_[ends_.size() - 1];
      for (auto& [kind, of_kind] : index.unused.kinds) {
        for (std::string& name : of_kind.names) name = shard + ":" + name;
      }
      info_.unused.add(index.unused);
      if (!index.note.empty()) info_.notes.push_back(index.note);
      for (ShardImage& image : index.images) {
        if (image.label >= info_.num_classes) {
          fail_user("[data] {}: {}: expected a label in 0..{}, got {}", shard, image.name, info_.num_classes - 1,
                    image.label);
        }
        images_.push_back(std::move(image));
      }
      index.images.clear();
    }
  }

  const DatasetInfo& info() const override { return info_; }

  int32_t read_file(int64_t i, std::vector<uint8_t>& bytes) const override {
    const ShardImage& image = images_[static_cast<size_t>(i)];
    const std::shared_ptr<const RandomAccessFile> shard = open_.get(shard_of(i));
    bytes.resize(image.size);
    if (shard->read_at(image.offset, bytes) != image.size) {
      fail("[data] {}: the shard ends before the image does: it has been changed since it was opened", image_name(i));
    }
    return image.label;
  }

  std::string image_name(int64_t i) const override { return shard_of(i) + ":" + images_[static_cast<size_t>(i)].name; }

 private:
  const std::string& shard_of(int64_t i) const {
    return shards_[static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin())];
  }

  std::vector<std::string> shards_;
  std::vector<int64_t> ends_;  // of each shard, the number of images up to its last
  std::vector<ShardImage> images_;
  DatasetInfo info_;
  mutable OpenFiles open_;
};

}  // namespace

std::vector<std::string> expand_braces(const std::string& pattern) { return Braces(pattern).expand(); }

bool holds_shards(const std::string& location) {
  return !usual_shards(location, "train-").empty() || !usual_shards(location, "val-").empty();
}

bool holds_tar_files(const std::string& location) { return !usual_shards(location, "").empty(); }

std::unique_ptr<Dataset> open_webdataset(const std::string& location, Split split, const ImageFileOptions& options) {
  std::vector<std::string> shards = shards_of(location, split, options);
  const bool training = split == Split::train;
  if (shards.empty()) {
    fail_user("[data] webdataset: {}: expected shards {}-*.tar, or {} to name them", location,
              training ? "train" : "val", training ? "data.train_shards" : "data.val_shards");
  }
  DatasetInfo info;
  info.name = "webdataset";
  info.encoded = true;
  info.channels = 3;
  info.mean = {0.485, 0.456, 0.406};
  info.std = {0.229, 0.224, 0.225};
  std::vector<ShardIndex> indexes = load_indexes(shards);
  info.class_names = read_class_names(location);
  if (const std::string twice = first_twice(info.class_names); !twice.empty()) {
    info.notes.push_back(fmt::format("{}: {}", (fs::path(location) / "classes.txt").string(), twice));
  }
  info.num_classes = static_cast<int64_t>(info.class_names.size());
  if (options.num_classes > 0) {
    if (info.num_classes > 0 && info.num_classes != options.num_classes) {
      fail_user("[data] data.num_classes: expected the {} of {}/classes.txt, got {}", info.num_classes, location,
                options.num_classes);
    }
    info.num_classes = options.num_classes;
  }
  if (info.num_classes == 0) {  // of both splits, which must agree
    const Split other = training ? Split::test : Split::train;
    info.num_classes =
        1 + std::max(largest_label(indexes), largest_label(load_indexes(shards_of(location, other, options))));
  }
  for (int64_t i = static_cast<int64_t>(info.class_names.size()); i < info.num_classes; ++i) {
    info.class_names.push_back(fmt::format("class {}", i));
  }
  add_unused(location, split, options, info.unused);
  if (training) {
    const std::string empty = empty_classes(indexes, info.class_names);
    if (!empty.empty()) info.notes.push_back(empty);
  }
  return std::make_unique<WebDataset>(std::move(shards), std::move(indexes), std::move(info));
}

}  // namespace luq
