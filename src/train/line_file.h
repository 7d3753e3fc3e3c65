// Append-only files of lines: log.txt and metrics.jsonl.
#pragma once

#include <string>

namespace luq {

// Each line is written at once, so that a killed run leaves whole lines but for the last.
class LineFile {
 public:
  // Opens or creates the file. exclusive: throws UserError when another process holds it so. Throws UserError naming
  // the file when it cannot be opened.
  LineFile(const std::string& file, bool exclusive);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  // False when the system refuses (a full disk); then nothing of the line stays in the file.
  bool append(const std::string& line) noexcept;
  void clear();

 private:
  int descriptor_;
};

}  // namespace luq
