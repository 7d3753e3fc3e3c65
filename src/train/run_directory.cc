#include "src/train/run_directory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "luq/core/error.h"
#include "luq/core/folders.h"
#include "src/core/folder_entries.h"
#include "src/train/tensorboard.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

// The nearest folder that exists must be one, and writable.
void check_writable(const fs::path& path) {
  fs::path nearest = fs::absolute(path).lexically_normal();
  std::error_code error;
  while (!fs::exists(nearest, error) && nearest.has_relative_path()) nearest = nearest.parent_path();
  if (!fs::is_directory(nearest, error)) {
    fail_user("[train] run.directory {}: cannot be made, {} is not a folder", path.string(), nearest.string());
  }
  if (::access(nearest.c_str(), W_OK | X_OK) != 0) {
    fail_user("[train] run.directory {}: {} cannot be written: {}", path.string(), nearest.string(),
              std::strerror(errno));
  }
}

// Throws Error when the system cannot tell.
bool is_there(const std::string& path) {
  std::error_code error;
  const bool there = fs::exists(fs::symlink_status(path, error));
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory) {
    fail("[train] {}: cannot be read: {}", path, error.message());
  }
  return there;
}

// Names in a folder; none when there is no folder.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  const std::error_code error = for_folder_entries(folder, [&](const fs::directory_entry& entry) {
    names.push_back(entry.path().filename().string());
    return true;
  });
  if (error && error != std::errc::no_such_file_or_directory) {
    fail("[train] {}: cannot be read: {}", folder, error.message());
  }
  return names;
}

// The file, or one that was to take its place.
bool is_or_becomes(const std::string& name, const std::string& file) {
  return name == file || name == file + ".tmp" || name == file + ".damaged" || name.starts_with(file + ".luqtmp");
}

void remove_file(const std::string& file) {
  std::error_code error;
  fs::remove(file, error);
  if (error) fail("[train] {}: cannot be removed: {}", file, error.message());
}

}  // namespace

bool RunDirectory::has_progress() const {
  if (!checkpoints().empty()) return true;
  std::error_code error;
  return is_there(metrics()) && (fs::file_size(metrics(), error) > 0 || error);
}

bool RunDirectory::holds_other_things() const {
  for (const std::string& name : names_in(path_)) {
    if (name == "checkpoints") {
      if (!std::ranges::all_of(names_in(path_ + "/checkpoints"), CheckpointFolder::is_ours)) return true;
    } else if (name == "tensorboard") {
      if (!std::ranges::all_of(names_in(tensorboard()), is_tensorboard_file)) return true;
    } else if (name != "log.txt" && !is_or_becomes(name, "metrics.jsonl") && !is_or_becomes(name, "config.yaml")) {
      return true;
    }
  }
  // A start writes its configuration last: alone it is somebody's.
  return is_there(config()) && !is_there(log());
}

bool RunDirectory::holds_run() const { return has_progress() || (holds_other_things() && is_there(log())); }

void RunDirectory::check(StartMode mode) const {
  if (path_.empty()) fail_user("[train] run.directory: expected a path, got none");
  check_writable(path_);
  const bool is_empty = names_in(path_).empty();
  if (mode == StartMode::resume) {
    if (is_empty || (!holds_run() && holds_other_things())) {
      fail_user("[train] run.directory {}: there is no run to resume", path_);
    }
    for (const std::string& file : {config(), log(), metrics()}) {
      std::error_code error;
      if (fs::is_fifo(file, error)) fail_user("[train] {}: expected a regular file, got a pipe", file);
    }
    return;
  }
  if (!is_empty && !holds_run() && holds_other_things()) {
    fail_user("[train] run.directory {}: is not empty and holds no run; choose another folder", path_);
  }
  if (mode == StartMode::fresh && holds_run()) {
    fail_user("[train] run.directory {}: holds a run already: --resume continues it, --overwrite starts it anew",
              path_);
  }
}

void RunDirectory::create() const {
  const int error = make_folders(path_ + "/checkpoints");
  if (error != 0) fail_user("[train] run.directory {}: cannot be made: {}", path_, std::strerror(error));
}

void RunDirectory::sync() const {
  const int error = sync_folder(path_);
  if (error != 0) fail("[train] {}: cannot be synced: {}", path_, std::strerror(error));
}

void RunDirectory::remove_run() const {
  checkpoints().remove_all();
  for (const std::string& name : names_in(path_)) {
    if (is_or_becomes(name, "metrics.jsonl") || is_or_becomes(name, "config.yaml")) remove_file(path_ + "/" + name);
  }
  remove_tensorboard(tensorboard());
  sync();
}

}  // namespace luq
