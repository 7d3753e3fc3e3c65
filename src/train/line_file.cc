#include "src/train/line_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <tuple>

#include "luq/core/error.h"

namespace luq {

LineFile::LineFile(const std::string& file, bool exclusive)
    : descriptor_(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666)) {
  struct stat status {};
  const bool is_there = descriptor_ >= 0 ? ::fstat(descriptor_, &status) == 0 : ::stat(file.c_str(), &status) == 0;
  if (is_there && S_ISFIFO(status.st_mode)) {
    if (descriptor_ >= 0) ::close(descriptor_);
    fail_user("[train] {}: expected a regular file, got a pipe", file);
  }
  if (descriptor_ < 0) fail_user("[train] {}: cannot be opened for writing: {}", file, std::strerror(errno));
  if (exclusive && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    fail_user("[train] {}: another process is training in this directory", file);
  }
}

LineFile::~LineFile() { ::close(descriptor_); }

bool LineFile::append_bytes(const std::string& bytes) noexcept {
  const off_t start = ::lseek(descriptor_, 0, SEEK_END);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      if (done > 0) std::ignore = ::ftruncate(descriptor_, start);
      return false;
    }
    done += static_cast<size_t>(put);
  }
  return true;
}

bool LineFile::sync() noexcept { return ::fsync(descriptor_) == 0 || errno == EINVAL || errno == EROFS; }

void LineFile::clear() {
  if (::ftruncate(descriptor_, 0) != 0) fail("[train] a log file cannot be emptied: {}", std::strerror(errno));
}

}  // namespace luq
