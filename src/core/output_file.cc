#include "luq/core/output_file.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <utility>

#include "luq/core/error.h"
#include "luq/core/folders.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr const char* temporary_suffix = ".luqtmp";
// For somebody who reads a pipe.
constexpr int patience_milliseconds = 10000, pause_milliseconds = 20;
constexpr int most_links = 40;              // as the kernel
constexpr size_t most_at_a_time = 1 << 24;  // bytes written between looks for a signal

// While one lives, a write to a closed pipe of this thread is EPIPE alone.
class NoPipeSignal {
 public:
  NoPipeSignal() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &old_);
  }
  ~NoPipeSignal() {
    const int error = errno;
    const timespec at_once{};
    if (!was_pending_) sigtimedwait(&pipe_, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &old_, nullptr);
    errno = error;
  }
  NoPipeSignal(const NoPipeSignal&) = delete;
  NoPipeSignal& operator=(const NoPipeSignal&) = delete;

 private:
  sigset_t pipe_{}, old_{};
  bool was_pending_ = false;
};

[[noreturn]] void refuse(const std::string& where, const std::string& name, int error) {
  if (error == EISDIR) fail_user("[{}] {}: expected the name of a file to write, got a folder", where, name);
  const std::string text = fmt::format("[{}] {}: cannot be written: {}", where, name, std::strerror(error));
  if (name.empty()) fail_user("[{}] expected the name of a file to write, got an empty one", where);
  const std::string folder = fs::path(name).parent_path().string();
  const bool no_folder = (error == ENOENT || error == ENOTDIR) && !folder.empty();
  throw Error(no_folder ? fmt::format("{} ({} is no folder)", text, folder) : text);
}

std::string read_link(const std::string& path) {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t length = ::readlink(path.c_str(), buffer.data(), buffer.size());
  return length > 0 ? std::string(buffer.data(), static_cast<size_t>(length)) : "";
}

std::string canonical_folder(const std::string& file) {
  const std::string folder = fs::path(file).parent_path().string();
  char* resolved = ::realpath(folder.empty() ? "." : folder.c_str(), nullptr);
  if (resolved == nullptr) return "";
  std::string text = resolved;
  std::free(resolved);
  return text;
}

struct Target {
  std::optional<int> descriptor;  // of this process
  std::string path;               // of what is no link, or of a descriptor of another process
  int error = 0;
};

// Follows links to the end, which may not exist, and stops at the names of descriptors.
Target resolve(const std::string& name) {
  if (name == "-") return {.descriptor = STDOUT_FILENO, .path = {}};
  const std::string self = fmt::format("/proc/{}/", ::getpid());
  std::string path = name;
  for (int links = 0; links <= most_links; ++links) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return {.descriptor = {}, .path = path};
    const std::string folder = canonical_folder(path), last = fs::path(path).filename().string();
    if (folder.starts_with("/proc/") && folder.ends_with("/fd")) {
      int number = -1;
      std::from_chars(last.data(), last.data() + last.size(), number);
      if (folder.starts_with(self)) return {.descriptor = number, .path = {}};
      return {.descriptor = {}, .path = path};
    }
    const std::string next = read_link(path);
    path = next.starts_with('/') ? next : (fs::path(path).parent_path() / next).string();
  }
  return {.descriptor = {}, .path = {}, .error = ELOOP};
}

bool is_descriptor_of_a_process(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

// What a system says where a folder lets nothing be put beside a file, or the file's place not be taken.
bool must_be_written_in_place(int error) {
  return error == EACCES || error == EPERM || error == EROFS || error == EBUSY || error == EXDEV;
}

bool is_at(int descriptor, const std::string& path) {
  struct stat open {};
  struct stat named {};
  return ::fstat(descriptor, &open) == 0 && ::lstat(path.c_str(), &named) == 0 && open.st_dev == named.st_dev &&
         open.st_ino == named.st_ino;
}

// Removes a temporary file that nobody writes any more; false when somebody does, or it is none of ours.
bool remove_abandoned(const std::string& temporary) {
  const int descriptor = ::open(temporary.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return errno == ENOENT;
  struct stat status {};
  const bool abandoned = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
                         ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 && is_at(descriptor, temporary) &&
                         ::unlink(temporary.c_str()) == 0;
  ::close(descriptor);
  return abandoned;
}

}  // namespace

OutputFile::OutputFile(std::string where, std::string name) : where_(std::move(where)), name_(std::move(name)) {
  try {
    open_target();
  } catch (...) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw;
  }
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  if (way_ == Way::replace) ::unlink(temporary_.c_str());
  ::close(descriptor_);
}

void OutputFile::refuse(int error) const {
  if (way_ == Way::in_place && written_ > 0) {
    fail("[{}] {}: cannot be written: {}; the file is not whole now", where_, name_, std::strerror(error));
  }
  luq::refuse(where_, name_, error);
}

void OutputFile::open_target() {
  const Target target = resolve(name_);
  if (target.error != 0) refuse(target.error);
  if (target.descriptor) {
    way_ = Way::stream;
    descriptor_ = ::fcntl(*target.descriptor, F_DUPFD_CLOEXEC, 3);
    if (descriptor_ < 0) refuse(errno);
    if ((::fcntl(descriptor_, F_GETFL) & O_ACCMODE) == O_RDONLY) refuse(EBADF);
    return;
  }
  target_ = target.path;
  struct stat status {};
  existed_ = ::stat(target_.c_str(), &status) == 0;
  if (!existed_ && (errno != ENOENT || target_.empty() || target_.ends_with('/'))) {
    refuse(target_.ends_with('/') ? EISDIR : errno);
  }
  if (existed_ && S_ISDIR(status.st_mode)) refuse(EISDIR);
  if (existed_ && (!S_ISREG(status.st_mode) || is_descriptor_of_a_process(target_))) {
    way_ = Way::stream;
    open_stream();
    return;
  }
  delay_.emplace();
  // A file that is protected against writing is not replaced either.
  if (existed_ && ::faccessat(AT_FDCWD, target_.c_str(), W_OK, AT_EACCESS) != 0) refuse(errno);
  if (open_temporary()) return;
  if (!existed_ || !must_be_written_in_place(errno)) refuse(errno);
  open_in_place();
}

void OutputFile::open_stream() {
  // A pipe opens so only while somebody reads it (ENXIO otherwise), and nothing waits for ever.
  for (int waited = 0;; ++waited) {
    descriptor_ = ::open(target_.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor_ >= 0 || errno != ENXIO || waited * pause_milliseconds >= patience_milliseconds) break;
    ::poll(nullptr, 0, pause_milliseconds);
  }
  struct stat status {};
  if (descriptor_ < 0 && errno == ENXIO && ::stat(target_.c_str(), &status) == 0 && S_ISFIFO(status.st_mode)) {
    fail("[{}] {}: cannot be written: nobody has opened this pipe for reading in {} seconds", where_, name_,
         patience_milliseconds / 1000);
  }
  if (descriptor_ < 0) refuse(errno);
  ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
}

bool OutputFile::open_temporary() {
  const fs::path target(target_);
  // Names have 255 bytes at most.
  const std::string stem = (target.parent_path() / target.filename().string().substr(0, 240)).string();
  struct stat old {};
  const bool keep = existed_ && ::stat(target_.c_str(), &old) == 0;
  for (int number = 0; number < 1000; ++number) {
    temporary_ = stem + temporary_suffix + (number == 0 ? "" : std::to_string(number));
    for (int attempt = 0; attempt < 10; ++attempt) {
      descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, keep ? 0600 : 0666);
      if (descriptor_ < 0 && errno == EEXIST) {
        if (!remove_abandoned(temporary_)) break;
        continue;
      }
      if (descriptor_ < 0) return false;
      // Another process may have taken it for one that was left, before the lock.
      const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
      if (locked && is_at(descriptor_, temporary_)) {
        if (keep && ::fchown(descriptor_, old.st_uid, old.st_gid) != 0) {
          static_cast<void>(::fchown(descriptor_, static_cast<uid_t>(-1), old.st_gid) == 0);
        }
        if (keep) ::fchmod(descriptor_, old.st_mode & 07777);
        return true;
      }
      ::close(std::exchange(descriptor_, -1));
    }
  }
  errno = EEXIST;
  return false;
}

void OutputFile::open_in_place() {
  way_ = Way::in_place;
  descriptor_ = ::open(target_.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor_ < 0) refuse(errno);
}

void OutputFile::write(const void* bytes, size_t count) {
  const NoPipeSignal guard;
  const auto* in = static_cast<const char*>(bytes);
  while (count > 0) {
    if (delay_ && way_ == Way::replace) delay_->throw_if_due();
    const ssize_t put = ::write(descriptor_, in, std::min(count, most_at_a_time));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) {
      pollfd ready{.fd = descriptor_, .events = POLLOUT, .revents = 0};
      ::poll(&ready, 1, -1);
      continue;
    }
    if (put < 0) refuse(errno);
    in += put;
    count -= static_cast<size_t>(put);
    written_ += static_cast<uint64_t>(put);
  }
}

void OutputFile::sync() {
  if (::fsync(descriptor_) == 0) return;
  // Devices, pipes and terminals have nothing to sync.
  if (way_ == Way::stream && (errno == EINVAL || errno == ENOTSUP || errno == EROFS)) return;
  refuse(errno);
}

void OutputFile::copy_to_target() {
  const int temporary = std::exchange(descriptor_, -1);
  const uint64_t count = std::exchange(written_, 0);
  int error = 0;
  try {
    open_in_place();
    std::array<char, 1 << 16> part{};
    while (written_ < count) {
      const ssize_t got = ::pread(temporary, part.data(), part.size(), static_cast<off_t>(written_));
      if (got <= 0) refuse(got < 0 ? errno : EIO);
      write(part.data(), static_cast<size_t>(got));
    }
    if (::ftruncate(descriptor_, static_cast<off_t>(written_)) != 0) error = errno;
  } catch (...) {
    ::unlink(temporary_.c_str());
    ::close(temporary);
    throw;
  }
  ::unlink(temporary_.c_str());
  ::close(temporary);
  if (error != 0) refuse(error);
  sync();
}

void OutputFile::finish() {
  if (way_ == Way::in_place && ::ftruncate(descriptor_, static_cast<off_t>(written_)) != 0) refuse(errno);
  sync();
  if (way_ == Way::replace) {
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
      if (!existed_ || !must_be_written_in_place(errno)) refuse(errno);
      copy_to_target();
    } else {
      way_ = Way::stream;  // nothing is left to remove
      const int error = sync_folder(fs::path(target_).parent_path().string());
      if (error != 0) fail("[{}] {}: its folder cannot be synced: {}", where_, name_, std::strerror(error));
    }
  }
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) refuse(errno);
  delay_.reset();
}

void write_output(const std::string& where, const std::string& file, const std::string& bytes) {
  OutputFile out(where, file);
  out.write(bytes.data(), bytes.size());
  out.finish();
}

void write_text_file(const std::string& file, const std::string& text) { write_output("file", file, text); }

void check_output(const std::string& where, const std::string& file) {
  const Target target = resolve(file);
  if (target.error != 0) refuse(where, file, target.error);
  if (target.descriptor) {
    const int flags = ::fcntl(*target.descriptor, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) refuse(where, file, EBADF);
    return;
  }
  if (target.path.empty()) refuse(where, file, ENOENT);
  struct stat status {};
  if (::stat(target.path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) refuse(where, file, EISDIR);
    if (::faccessat(AT_FDCWD, target.path.c_str(), W_OK, AT_EACCESS) != 0) refuse(where, file, errno);
    return;
  }
  if (target.path.ends_with('/')) refuse(where, file, EISDIR);
  const fs::path folder = fs::path(target.path).parent_path();
  const char* name = folder.empty() ? "." : folder.c_str();
  if (::stat(name, &status) != 0) refuse(where, file, errno);
  if (!S_ISDIR(status.st_mode)) refuse(where, file, ENOTDIR);
  if (::faccessat(AT_FDCWD, name, W_OK | X_OK, AT_EACCESS) != 0) refuse(where, file, errno);
}

bool is_standard_output(const std::string& file) { return resolve(file).descriptor == STDOUT_FILENO; }

bool is_stream(const std::string& file) {
  const Target target = resolve(file);
  struct stat status {};
  return target.descriptor || (::stat(target.path.c_str(), &status) == 0 && !S_ISREG(status.st_mode));
}

void check_other_file(const std::string& where, const std::string& option, const std::string& input,
                      const std::string& output) {
  struct stat in {};
  struct stat out {};
  if (::stat(input.c_str(), &in) != 0 || !S_ISREG(in.st_mode)) return;
  const Target target = resolve(output);
  const bool found =
      target.descriptor ? ::fstat(*target.descriptor, &out) == 0 : ::stat(target.path.c_str(), &out) == 0;
  if (!found || in.st_dev != out.st_dev || in.st_ino != out.st_ino) return;
  fail_user("[{}] {}: expected another file than the input {}", where, option, input);
}

}  // namespace luq
