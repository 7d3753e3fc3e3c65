// Files that a program writes. An output goes where its name leads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "luq/core/stop_signals.h"

namespace luq {

// One output, written from front to back.
//
// - A regular file, or a name that is free: the bytes go to a temporary file beside it, `<name>.luqtmp`, which takes
//   its place when it is finished: synced, renamed, the folder synced. Whoever looks sees the old file or the new one.
//   Permissions stay, and the owner as far as the system lets this user set it. Other hard links keep the old bytes.
//   Two processes that write one output use two temporary files; one that a killed process left is removed. Where
//   nothing can be put beside the file (a folder that is read-only, a mounted file), it is written in place.
// - A link: what it leads to is replaced, or made; the link stays.
// - A device or a pipe is written into. For somebody who reads the pipe it waits ten seconds.
// - `-`, /dev/stdout, /dev/stderr, /dev/fd/N, /proc/self/fd/N: the descriptor is written into where it stands,
//   whatever it is.
// - A folder is refused.
//
// A signal that asks to stop (luq/core/stop_signals.h) leaves the old file, or the new one when it is whole, and no
// temporary one.
//
// Everything throws `[where] <name>: cannot be written: <the system's reason>`: UserError for a folder and an
// empty name, Error otherwise. A pipe that was closed is such an error, not a signal.
class OutputFile {
 public:
  OutputFile(std::string where, std::string name);
  // What was not finished is removed, and the old file is as it was.
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* bytes, size_t count);
  // Afterwards the bytes are where they belong, and survive a power cut where that means anything.
  void finish();

 private:
  // A temporary file that takes the target's place; the target itself, from its beginning; something that has neither
  // beginning nor end.
  enum class Way { replace, in_place, stream };

  [[noreturn]] void refuse(int error) const;
  void open_target();
  void open_stream();
  // False when the system lets nothing be made beside the target; errno says why.
  bool open_temporary();
  void open_in_place();
  void copy_to_target();
  void sync();

  std::string where_, name_;
  std::string target_, temporary_;  // links followed
  Way way_ = Way::replace;
  std::optional<DelayedStopSignals> delay_;  // while there is what a signal must not leave
  int descriptor_ = -1;
  uint64_t written_ = 0;
  bool existed_ = false;
};

// The file's bytes, all at once, by OutputFile.
void write_output(const std::string& where, const std::string& file, const std::string& bytes);
// The same with "file" as the place that messages name.
void write_text_file(const std::string& file, const std::string& text);

// Throws what OutputFile would, as far as can be told without writing, waiting or changing anything: for a look before
// long work.
void check_output(const std::string& where, const std::string& file);

// What is written to this name comes out at standard output, so that nothing else may be said there.
bool is_standard_output(const std::string& file);
// The name leads to a descriptor, a device or a pipe, which have no name of their own that says what is in them.
bool is_stream(const std::string& file);

// Throws UserError `[where] option: expected another file than the input ...` when both are one file, by any name.
void check_other_file(const std::string& where, const std::string& option, const std::string& input,
                      const std::string& output);

}  // namespace luq
