#include "src/train/line_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <tuple>

#include "luq/core/error.h"

namespace luq {

LineFile::LineFile(const std::string& file, bool exclusive)
    : descriptor_(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail_user("[train] {}: cannot be opened for writing: {}", file, std::strerror(errno));
  if (exclusive && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    fail_user("[train] {}: another process is training in this directory", file);
  }
}

LineFile::~LineFile() { ::close(descriptor_); }

bool LineFile::append_bytes(const std::string& bytes) noexcept {
  const off_t start = ::lseek(descriptor_, 0, SEEK_END);
  const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
  if (put == static_cast<ssize_t>(bytes.size())) return true;
  if (put > 0) std::ignore = ::ftruncate(descriptor_, start);
  return false;
}

void LineFile::clear() {
  if (::ftruncate(descriptor_, 0) != 0) fail("[train] a log file cannot be emptied: {}", std::strerror(errno));
}

}  // namespace luq
