#include "src/train/run_directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "luq/core/error.h"
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

}  // namespace

bool RunDirectory::holds_run() const {
  return fs::exists(config()) || fs::exists(log()) || fs::exists(checkpoints().last());
}

void RunDirectory::check(StartMode mode) const {
  if (path_.empty()) fail_user("[train] run.directory: expected a path, got none");
  check_writable(path_);
  const bool is_empty = !fs::exists(path_) || fs::is_empty(path_);
  if (mode == StartMode::resume) {
    if (!holds_run()) fail_user("[train] run.directory {}: there is no run to resume", path_);
    return;
  }
  if (!is_empty && !holds_run()) {
    fail_user("[train] run.directory {}: is not empty and holds no run; choose another folder", path_);
  }
  if (mode == StartMode::fresh && holds_run()) {
    fail_user("[train] run.directory {}: holds a run already: --resume continues it, --overwrite starts it anew",
              path_);
  }
}

void RunDirectory::create() const {
  std::error_code error;
  fs::create_directories(path_ + "/checkpoints", error);
  if (error) fail_user("[train] run.directory {}: cannot be made: {}", path_, error.message());
}

void RunDirectory::remove_run() const {
  checkpoints().remove_all();
  fs::remove(config());
  fs::remove(metrics());
  remove_tensorboard(tensorboard());
}

}  // namespace luq
