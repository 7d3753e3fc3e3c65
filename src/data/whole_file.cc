#include "src/data/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "luq/core/error.h"

namespace luq {
namespace {

constexpr int64_t max_bytes = int64_t{1} << 30;

struct Descriptor {
  explicit Descriptor(const std::string& file) : number(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number;
};

}  // namespace

void read_whole_file(const std::string& file, std::vector<uint8_t>& bytes) {
  const auto refuse = [&](const char* reason) { fail("[data] {}: cannot be read: {}", file, reason); };
  const Descriptor descriptor(file);
  struct stat status {};
  if (descriptor.number < 0 || ::fstat(descriptor.number, &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse("it is not a file");
  if (status.st_size > max_bytes) refuse("it is larger than 1 GiB");
  bytes.resize(static_cast<size_t>(status.st_size));
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = ::read(descriptor.number, bytes.data() + have, bytes.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(std::strerror(errno));
    if (got == 0) break;  // the file became shorter
    have += static_cast<size_t>(got);
  }
  bytes.resize(have);
}

}  // namespace luq
