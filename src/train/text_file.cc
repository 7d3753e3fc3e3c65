#include "src/train/text_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "luq/core/error.h"

namespace luq {

void write_text_file(const std::string& file, const std::string& text) {
  const std::string temporary = file + ".tmp";
  bool written = false;
  if (std::FILE* out = std::fopen(temporary.c_str(), "w"); out != nullptr) {
    written = std::fwrite(text.data(), 1, text.size(), out) == text.size();
    written = std::fclose(out) == 0 && written;
  }
  if (written && std::rename(temporary.c_str(), file.c_str()) == 0) return;
  const int reason = errno;
  std::remove(temporary.c_str());
  fail("[file] {}: cannot be written: {}", file, std::strerror(reason));
}

}  // namespace luq
