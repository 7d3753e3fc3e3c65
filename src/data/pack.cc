#include "luq/data/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/rng.h"
#include "luq/core/stop_signals.h"
#include "luq/data/dataset.h"
#include "luq/data/image.h"
#include "src/core/no_memory.h"
#include "src/data/image_folder.h"
#include "src/data/image_names.h"
#include "src/data/parallel.h"
#include "src/data/tar_shard.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

// A tar file whose bytes are a function of its entries: no times, no owners.
class TarWriter {
 public:
  explicit TarWriter(const std::string& name)
      : name_(name),
        file_("pack", name),
        archive_(archive_write_new(), archive_write_free),
        entry_(archive_entry_new(), archive_entry_free) {
    if (archive_ == nullptr || entry_ == nullptr) fail("[pack] {}: out of memory", name);
    check(archive_write_set_format_ustar(archive_.get()));
    check(archive_write_open(archive_.get(), this, nullptr, write, nullptr));
  }

  void add(const std::string& name, const void* bytes, size_t count) {
    archive_entry_clear(entry_.get());
    archive_entry_set_pathname(entry_.get(), name.c_str());
    archive_entry_set_filetype(entry_.get(), AE_IFREG);
    archive_entry_set_perm(entry_.get(), 0644);
    archive_entry_set_size(entry_.get(), static_cast<la_int64_t>(count));
    archive_entry_set_mtime(entry_.get(), 0, 0);
    check(archive_write_header(archive_.get(), entry_.get()));
    if (archive_write_data(archive_.get(), bytes, count) != static_cast<la_ssize_t>(count)) check(ARCHIVE_FATAL);
  }

  void finish() {
    check(archive_write_close(archive_.get()));
    file_.finish();
  }

 private:
  void check(int code) const {
    if (code == ARCHIVE_OK) return;
    if (error_) std::rethrow_exception(error_);
    if (archive_errno(archive_.get()) == ENOMEM) fail_out_of_memory(fmt::format("[pack] {} is written:", name_));
    const char* text = archive_error_string(archive_.get());
    fail("[pack] {}: cannot be written: {}", name_, text != nullptr ? text : "unknown error");
  }
  static la_ssize_t write(archive*, void* self, const void* bytes, size_t count) {
    auto& writer = *static_cast<TarWriter*>(self);
    try {
      writer.file_.write(bytes, count);
      return static_cast<la_ssize_t>(count);
    } catch (...) {  // nothing may be thrown through libarchive
      writer.error_ = std::current_exception();
      return ARCHIVE_FATAL;
    }
  }

  std::string name_;
  OutputFile file_;
  std::exception_ptr error_;
  std::unique_ptr<archive, decltype(&archive_write_free)> archive_;
  std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry_;
};

// Of what the file holds; where that is no image, of its name, for validate-data to find.
std::string extension_of(const std::vector<uint8_t>& bytes, const std::string& name) {
  const std::string held = image_extension(bytes);
  return held.empty() ? kind_of_file(name).substr(1) : held;
}

std::vector<uint32_t> order_of(int64_t images, const std::optional<uint64_t>& seed) {
  std::vector<uint32_t> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), 0u);
  if (!seed) return order;
  RngStream random(make_rng_key(*seed, "data:pack", 0));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
  return order;
}

class FolderGuard {
 public:
  explicit FolderGuard(std::string folder) : folder_(std::move(folder)) {}
  ~FolderGuard() {
    std::error_code error;
    if (!folder_.empty()) fs::remove_all(folder_, error);
  }
  FolderGuard(const FolderGuard&) = delete;
  FolderGuard& operator=(const FolderGuard&) = delete;
  void release() { folder_.clear(); }

 private:
  std::string folder_;
};

// Returns the bytes of the shards.
uint64_t pack_split(const Dataset& dataset, const std::string& folder, const std::string& prefix,
                    const std::vector<uint32_t>& order, const PackOptions& options, const StopSignals& signals) {
  const auto shard_size = static_cast<size_t>(options.shard_size);
  std::atomic<uint64_t> total = 0;
  for_each_parallel((order.size() + shard_size - 1) / shard_size, static_cast<size_t>(options.workers), [&](size_t s) {
    const std::string file = fmt::format("{}/{}-{:06}.tar", folder, prefix, s);
    TarWriter tar(file);
    std::vector<uint8_t> bytes;
    for (size_t place = s * shard_size; place < std::min((s + 1) * shard_size, order.size()); ++place) {
      if (signals.received() != 0) {
        throw Stopped(signals.received(), fmt::format("[pack] stopped by {}; {} is removed", signals.name(), folder));
      }
      const auto index = static_cast<int64_t>(order[place]);
      const std::string label = fmt::format("{}\n", dataset.read_file(index, bytes));
      tar.add(fmt::format("{:08}.{}", place, extension_of(bytes, dataset.image_name(index))), bytes.data(),
              bytes.size());
      tar.add(fmt::format("{:08}.cls", place), label.data(), label.size());
    }
    tar.finish();
    const ShardIndex index = scan_shard(file);
    write_output("pack", shard_index_file(file), to_json(index));
    total += index.shard_bytes;
  });
  return total;
}

}  // namespace

PackReport pack_shards(const PackOptions& options) {
  const auto check = [](const char* option, int64_t value, int64_t high) {
    if (value < 1 || value > high) fail_user("[pack] {}: expected 1..{}, got {}", option, high, value);
  };
  check("--shard-size", options.shard_size, 1000000);
  check("--workers", options.workers, 256);
  const std::string output = fs::path(options.output).lexically_normal().string();
  const std::string folder = (output.ends_with('/') ? output.substr(0, output.size() - 1) : output) + ".partial";
  for (const char* split : {"train", "val", "test"}) {
    const fs::path inside =
        fs::weakly_canonical(output).lexically_relative(fs::weakly_canonical(options.input) / split);
    if (!inside.empty() && *inside.begin() != "..") {
      fail_user("[pack] --output {}: expected a folder outside of {}/{}, whose folders are the classes", output,
                options.input, split);
    }
  }
  for (const std::string& taken : {output, folder}) {
    std::error_code error;
    if (fs::exists(fs::symlink_status(taken, error))) {
      fail_user("[pack] {}: exists already{}", taken,
                taken == folder ? ", from a pack that was broken off; delete it" : "");
    }
  }
  const std::string root = find_image_folder(options.input);
  const ImageFileOptions files{.val_labels = options.val_labels};
  const bool has_train = !root.empty() && fs::is_directory(fs::path(root) / "train");
  const bool has_test =
      !root.empty() && (fs::is_directory(fs::path(root) / "val") || fs::is_directory(fs::path(root) / "test"));
  std::unique_ptr<Dataset> train, test;
  if (has_train || !has_test) train = open_dataset("image_folder", options.input, Split::train, {}, files);
  if (has_test) test = open_dataset("image_folder", options.input, Split::test, {}, files);

  std::string classes;
  for (const std::string& name : (train ? train : test)->info().class_names) {
    if (name.find('\n') != std::string::npos || name.front() == ' ' || name.back() == ' ') {
      fail_user("[pack] the class '{}' has a line break, or a blank at an end, in its name; rename its folder", name);
    }
    classes += name + "\n";
  }
  PackReport report;
  const StopSignals signals;
  std::vector<const DatasetInfo*> splits;
  for (const Dataset* split : {train.get(), test.get()}) {
    if (split != nullptr) splits.push_back(&split->info());
  }
  report.warnings = warnings_of(splits);
  std::error_code error;
  if (!fs::create_directories(folder, error)) fail("[pack] {}: cannot be made: {}", folder, error.message());
  FolderGuard guard(folder);
  write_output("pack", folder + "/classes.txt", classes);
  const auto shards = [&](int64_t images) { return (images + options.shard_size - 1) / options.shard_size; };
  if (train) {
    report.train_images = train->info().images;
    report.train_shards = shards(report.train_images);
    report.bytes +=
        pack_split(*train, folder, "train", order_of(report.train_images, options.shuffle), options, signals);
  }
  if (test) {
    report.val_images = test->info().images;
    report.val_shards = shards(report.val_images);
    report.bytes += pack_split(*test, folder, "val", order_of(report.val_images, std::nullopt), options, signals);
  }
  fs::rename(folder, output, error);
  if (error) fail("[pack] {}: cannot be made: {}", output, error.message());
  guard.release();
  return report;
}

}  // namespace luq
