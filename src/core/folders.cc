#include "luq/core/folders.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "luq/core/error.h"

namespace luq {

namespace fs = std::filesystem;

int sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return errno == EACCES ? 0 : errno;
  const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
  ::close(descriptor);
  return error;
}

int make_folders(const std::string& path) {
  std::error_code no_matter;
  if (fs::is_directory(path, no_matter)) return 0;
  const std::string above = fs::path(path).parent_path().string();
  if (!above.empty() && above != path) {
    const int error = make_folders(above);
    if (error != 0) return error;
  }
  if (::mkdir(path.c_str(), 0777) == 0) return sync_folder(above);
  const int error = errno;
  return error == EEXIST && fs::is_directory(path, no_matter) ? 0 : error;
}

std::optional<std::string> read_if_there(const std::string& where, const std::string& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && (errno == ENOENT || errno == ENOTDIR)) return std::nullopt;
  int error = descriptor < 0 ? errno : 0;
  struct stat status {};
  if (error == 0 && ::fstat(descriptor, &status) == 0 && S_ISFIFO(status.st_mode)) {
    ::close(descriptor);
    fail_user("[{}] {}: expected a regular file, got a pipe", where, file);
  }
  std::string content;
  std::array<char, 1 << 16> part{};
  while (error == 0) {
    const ssize_t got = ::read(descriptor, part.data(), part.size());
    if (got == 0) break;
    if (got > 0) content.append(part.data(), static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) error = errno;
  }
  if (descriptor >= 0) ::close(descriptor);
  if (error != 0) fail("[{}] {}: cannot be read: {}", where, file, std::strerror(error));
  return content;
}

}  // namespace luq
