#include "src/data/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "luq/core/error.h"
#include "luq/core/text_file.h"
#include "src/core/no_memory.h"

namespace luq {
namespace {

constexpr uint64_t max_bytes = uint64_t{1} << 30;

}  // namespace

RandomAccessFile::RandomAccessFile(const std::string& file)
    : name_(file), descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  struct stat status {};
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) {
    const int error = errno;
    if (descriptor_ >= 0) ::close(descriptor_);
    refuse(std::strerror(error));
  }
  regular_ = S_ISREG(status.st_mode);
  size_ = static_cast<uint64_t>(status.st_size);
}

RandomAccessFile::~RandomAccessFile() { ::close(descriptor_); }

void RandomAccessFile::refuse(const std::string& reason) const { fail("[data] {}: cannot be read: {}", name_, reason); }

size_t RandomAccessFile::read_at(uint64_t offset, std::span<uint8_t> out) const {
  size_t have = 0;
  while (have < out.size()) {
    const ssize_t got = ::pread(descriptor_, out.data() + have, out.size() - have, static_cast<off_t>(offset + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) refuse(std::strerror(errno));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  return have;
}

void read_whole_file(const std::string& file, std::vector<uint8_t>& bytes) {
  const RandomAccessFile source(file);
  if (!source.regular()) source.refuse("it is not a file");
  if (source.size() > max_bytes) source.refuse("it is larger than 1 GiB");
  try {
    bytes.resize(source.size());
  } catch (const std::bad_alloc&) {
    fail_out_of_memory(fmt::format("[data] {} is read:", file), static_cast<int64_t>(source.size()));
  }
  bytes.resize(source.read_at(0, bytes));
}

std::string read_text_file(const std::string& file) {
  std::vector<uint8_t> bytes;
  try {
    read_whole_file(file, bytes);
  } catch (const OutOfMemory&) {
    throw;
  } catch (const Error& error) {
    throw UserError(error.what());
  }
  return plain_text({bytes.begin(), bytes.end()}, "data", file);
}

}  // namespace luq
