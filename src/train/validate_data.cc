#include "luq/train/validate_data.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>

#include "luq/core/error.h"
#include "luq/core/threads.h"
#include "luq/data/image.h"
#include "src/core/no_memory.h"
#include "src/data/parallel.h"
#include "src/data/webdataset.h"
#include "src/train/experiment_parts.h"

namespace luq {
namespace {

constexpr size_t listed = 10;  // names in a warning

struct Content {  // of a file, for finding it again
  uint64_t hash = 0, bytes = 0;
  friend bool operator==(const Content&, const Content&) = default;
};
struct ContentHash {
  size_t operator()(const Content& content) const { return content.hash ^ content.bytes; }
};

struct Checked {
  std::vector<Content> contents;     // of each image; zero where it cannot be read
  std::vector<std::string> reasons;  // "" where the image is sound
};

Checked check_images(const Dataset& dataset, size_t workers, const std::function<void(int64_t)>& done) {
  constexpr size_t chunk = 16;
  const auto images = static_cast<size_t>(dataset.info().images);
  Checked checked{std::vector<Content>(images), std::vector<std::string>(images)};
  for_each_parallel((images + chunk - 1) / chunk, workers, [&](size_t c) {
    ImageDecoder decoder;
    Image image;
    std::vector<uint8_t> bytes;
    for (size_t i = c * chunk; i < std::min((c + 1) * chunk, images); ++i) {
      const auto index = static_cast<int64_t>(i);
      try {
        dataset.read_file(index, bytes);
        checked.contents[i] = {
            std::hash<std::string_view>()({reinterpret_cast<const char*>(bytes.data()), bytes.size()}), bytes.size()};
        if (bytes.empty()) fail("an empty file");
        or_out_of_memory("[image] it is decoded:", [&] {
          decoder.open(bytes);
          decoder.decode(image);
        });
      } catch (const OutOfMemory& error) {
        throw OutOfMemory(fmt::format("{}: {}", dataset.image_name(index), error.what()));
      } catch (const UserError&) {  // a library that cannot be loaded: no image is at fault
        throw;
      } catch (const Error& error) {
        checked.reasons[i] = path_and_reason(dataset.image_name(index), error.what());
      }
    }
    done(static_cast<int64_t>(std::min(chunk, images - c * chunk)));
  });
  return checked;
}

void warn_of(std::vector<std::string>& warnings, const std::string& what, const std::vector<std::string>& names) {
  if (names.empty()) return;
  std::string text = fmt::format("{} {}:", names.size(), what);
  for (size_t i = 0; i < std::min(listed, names.size()); ++i) text += "\n  " + names[i];
  if (names.size() > listed) text += fmt::format("\n  and {} more", names.size() - listed);
  warnings.push_back(text);
}

// Every kind with its first files.
std::string list_of(const UnusedFiles& unused) {
  std::string text = unused.to_text();
  for (const auto& [kind, of_kind] : unused.kinds) {
    for (const std::string& name : of_kind.names) text += "\n  " + name;
    const auto shown = static_cast<int64_t>(of_kind.names.size());
    if (of_kind.count > shown) text += fmt::format("\n  and {} more {}", of_kind.count - shown, kind);
  }
  return text;
}

}  // namespace

ValidationReport validate_data(const ExperimentConfig& config, int64_t workers,
                               const std::function<void(int64_t, int64_t)>& progress) {
  if (workers < 0 || workers > 4096) fail_user("[validate-data] --workers: expected 0..4096, got {}", workers);
  const size_t threads = workers > 0 ? static_cast<size_t>(workers) : static_cast<size_t>(default_threads());
  const std::shared_ptr<const Dataset> splits[] = {open_split(config, Split::train), open_split(config, Split::test)};
  ValidationReport report;
  report.train_images = splits[0]->info().images;
  report.test_images = splits[1]->info().images;
  if (!splits[0]->info().encoded) return report;

  std::mutex mutex;
  int64_t done = 0;
  const auto count = [&](int64_t images) {
    const std::lock_guard lock(mutex);
    done += images;
    if (progress) progress(done, report.train_images + report.test_images);
  };
  std::unordered_map<Content, int64_t, ContentHash> training;
  std::vector<std::string> twice;
  for (size_t s = 0; s < 2; ++s) {
    const Dataset& dataset = *splits[s];
    Checked checked = check_images(dataset, threads, count);
    for (int64_t i = 0; i < dataset.info().images; ++i) {
      const Content& content = checked.contents[static_cast<size_t>(i)];
      std::string& reason = checked.reasons[static_cast<size_t>(i)];
      if (!reason.empty()) {
        report.broken.push_back(std::move(reason));
      } else if (s == 0) {
        training.emplace(content, i);
      } else if (const auto found = training.find(content); found != training.end()) {
        twice.push_back(fmt::format("{} = {}", dataset.image_name(i), splits[0]->image_name(found->second)));
      }
    }
  }
  warn_of(report.warnings, "test images are training images too, byte for byte", twice);
  UnusedFiles unused;
  for (const auto& split : splits) {
    unused.add(split->info().unused);
    for (const std::string& note : split->info().notes) {
      if (std::find(report.warnings.begin(), report.warnings.end(), note) == report.warnings.end()) {
        report.warnings.push_back(note);
      }
    }
  }
  if (unused.count() > 0) report.warnings.push_back(list_of(unused));
  return report;
}

ExperimentConfig config_of_folder(const std::string& path) {
  ExperimentConfig config;
  config.data.name = holds_tar_files(path) ? "webdataset" : "image_folder";
  config.data.path = path;
  return config;
}

}  // namespace luq
