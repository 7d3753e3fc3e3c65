#include "luq/core/standard_streams.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <streambuf>

#include "luq/core/stop_signals.h"

namespace luq {
namespace {

class DescriptorBuffer : public std::streambuf {
 public:
  explicit DescriptorBuffer(int descriptor) : descriptor_(descriptor) {
    setp(buffer_.data(), buffer_.data() + buffer_.size());
  }

 protected:
  int_type overflow(int_type c) override {
    if (sync() != 0) return traits_type::eof();
    if (!traits_type::eq_int_type(c, traits_type::eof())) sputc(traits_type::to_char_type(c));
    return traits_type::not_eof(c);
  }
  int sync() override {
    const std::string_view text(pbase(), static_cast<size_t>(pptr() - pbase()));
    setp(buffer_.data(), buffer_.data() + buffer_.size());
    return write_standard(descriptor_, text) == 0 ? 0 : -1;
  }

 private:
  int descriptor_;
  std::array<char, 4096> buffer_{};
};

void open_if_closed(int descriptor, int mode) {
  if (::fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) return;
  // The lowest number that is free is this one, since those below are open.
  if (::open("/dev/null", mode) < 0) static_cast<void>(::open("/", O_RDONLY | O_DIRECTORY));
}

}  // namespace

void open_standard_streams() {
  open_if_closed(STDIN_FILENO, O_RDONLY);
  open_if_closed(STDOUT_FILENO, O_RDONLY);
  open_if_closed(STDERR_FILENO, O_WRONLY);
  // Never destroyed: they are flushed when everything else is gone.
  std::cout.rdbuf(new DescriptorBuffer(STDOUT_FILENO));
  std::cerr.rdbuf(new DescriptorBuffer(STDERR_FILENO));
}

int write_standard(int descriptor, std::string_view text) noexcept {
  constexpr int wait_ms = 100;
  while (!text.empty()) {
    pollfd room{.fd = descriptor, .events = POLLOUT, .revents = 0};
    const int ready = ::poll(&room, 1, wait_ms);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
      if (is_stopping()) return EINTR;
      continue;
    }
    // A pipe that has room takes so much without waiting.
    const ssize_t put = ::write(descriptor, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (put >= 0) {
      text.remove_prefix(static_cast<size_t>(put));
    } else if (errno != EINTR && errno != EAGAIN) {
      return errno;
    }
  }
  return 0;
}

bool can_redraw(int descriptor) {
  const char* terminal = std::getenv("TERM");
  if (::isatty(descriptor) == 0 || terminal == nullptr) return false;
  if (std::string_view(terminal).empty() || std::string_view(terminal) == "dumb") return false;
  const pid_t foreground = ::tcgetpgrp(descriptor);
  return foreground == -1 || foreground == ::getpgrp();
}

}  // namespace luq
