// Append-only files: lines of log.txt and metrics.jsonl, records of an event file.
#pragma once

#include <string>

namespace luq {

// Each line or record is written at once, so that a killed run leaves whole ones but for the last.
class LineFile {
 public:
  // Opens or creates the file. exclusive: throws UserError when another process holds it so. Throws UserError naming
  // the file when it cannot be opened.
  LineFile(const std::string& file, bool exclusive);
  ~LineFile();
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  // False when the system refuses (a full disk); then nothing of it stays in the file.
  bool append(const std::string& line) noexcept { return append_bytes(line + "\n"); }
  bool append_bytes(const std::string& bytes) noexcept;
  void clear();
  // Makes durable what was appended; false when the system refuses.
  bool sync() noexcept;

 private:
  int descriptor_;
};

}  // namespace luq
