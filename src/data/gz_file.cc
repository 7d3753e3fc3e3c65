#include "src/data/gz_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "luq/core/error.h"
#include "src/core/no_memory.h"

namespace luq {

GzFile::GzFile(std::string name, const FileAdvice& advice) : name_(std::move(name)), advice_(advice) {
  struct stat status {};
  if (::stat(name_.c_str(), &status) == 0 && S_ISFIFO(status.st_mode)) fail("expected a regular file, got a pipe");
  errno = 0;
  file_ = gzopen(name_.c_str(), "rb");
  if (file_ == nullptr && (errno == 0 || errno == ENOMEM)) fail_out_of_memory(fmt::format("[data] {}:", name_));
  if (file_ == nullptr) fail(fmt::format("cannot be opened: {}", std::strerror(errno)));
  gzbuffer(file_, 1 << 17);
}

GzFile::~GzFile() {
  if (file_ != nullptr) gzclose_r(file_);
}

std::vector<uint8_t> GzFile::read(uint64_t bytes) {
  constexpr uint64_t step = 1 << 20;
  std::vector<uint8_t> out;
  while (out.size() < bytes) {
    const uint64_t have = out.size();
    const uint64_t wanted = std::min(step, bytes - have);
    out.resize(have + wanted);
    const int got = gzread(file_, out.data() + have, static_cast<unsigned>(wanted));
    int error = Z_OK;
    const char* text = gzerror(file_, &error);
    if (error == Z_MEM_ERROR) fail_out_of_memory(fmt::format("[data] {} is read:", name_));
    if (error == Z_ERRNO) fail(fmt::format("cannot be read: {}", std::strerror(errno)));
    if (error == Z_BUF_ERROR) fail("the compressed data is truncated");
    if (got < 0 || error != Z_OK) fail(fmt::format("the compressed data is damaged: {}", text));
    if (static_cast<uint64_t>(got) < wanted) {
      out.resize(have + static_cast<uint64_t>(got));
      break;
    }
  }
  return out;
}

void GzFile::fail(const std::string& problem) const {
  fail_user("[data] {}: {}: {}; {}", advice_.dataset, name_, problem, advice_.text);
}

}  // namespace luq
