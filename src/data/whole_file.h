// Bytes of a file: all of them, or some.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace luq {

// A file that is open for reading, or something else of that name: nothing waits for a pipe or a device.
class RandomAccessFile {
 public:
  // Throws Error `[data] <file>: cannot be read: <reason>`.
  explicit RandomAccessFile(const std::string& file);
  ~RandomAccessFile();
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;

  bool regular() const { return regular_; }
  uint64_t size() const { return size_; }
  // Bytes put into out; fewer than asked for at the end of the file only. Throws Error as the constructor.
  size_t read_at(uint64_t offset, std::span<uint8_t> out) const;
  [[noreturn]] void refuse(const std::string& reason) const;

 private:
  std::string name_;
  int descriptor_;
  bool regular_ = false;
  uint64_t size_ = 0;
};

// All bytes of a file (links are followed). Throws Error as RandomAccessFile, for what is no file, and for more than 1
// GiB.
void read_whole_file(const std::string& file, std::vector<uint8_t>& bytes);

// The same as plain_text, for files that a user names: throws UserError.
std::string read_text_file(const std::string& file);

}  // namespace luq
