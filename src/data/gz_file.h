// A file read from front to back, gzip-compressed or not.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>
#include <vector>

#include "src/data/memory_dataset.h"

namespace luq {

class GzFile {
 public:
  // Throws UserError when the file cannot be opened. `advice` must outlive the file.
  GzFile(std::string name, const FileAdvice& advice);
  ~GzFile();
  GzFile(const GzFile&) = delete;
  GzFile& operator=(const GzFile&) = delete;

  // Up to `bytes` decompressed bytes; fewer only at the end of the data. Memory grows with what is really there, so a
  // wrong size in a header asks for no more than the file holds. Throws UserError for a damaged or truncated stream.
  std::vector<uint8_t> read(uint64_t bytes);
  // [data] <data set>: <file>: <problem>; <advice>
  [[noreturn]] void fail(const std::string& problem) const;

 private:
  std::string name_;
  const FileAdvice& advice_;
  gzFile file_ = nullptr;
};

}  // namespace luq
