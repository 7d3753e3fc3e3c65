// Text files that users write, on whatever system.
#pragma once

#include <string>

namespace luq {

// Text as it was meant, whatever wrote it: without a UTF-8 byte order mark, and with \n at the end of lines in place of
// \r\n and \r. Throws UserError `[where] file: ...` for UTF-16 and UTF-32 and for what is no text (it holds NUL bytes).
std::string plain_text(std::string bytes, const std::string& where, const std::string& file);

// All of a file (links are followed, pipes are read to their end) as plain_text. Throws UserError `[where] file: cannot
// be read: <the system's reason>` for what cannot be opened, a folder, more than 1 GiB, and a pipe that nobody opens
// for writing in ten seconds; Error where reading fails; Stopped where is_stopping() while a pipe is awaited.
std::string read_text_file(const std::string& where, const std::string& file);

// What the first bytes of a file say that it is ("a PNG image", "a safetensors file, such as a checkpoint"); "" where
// that is not known.
std::string kind_of_file(const std::string& bytes);

}  // namespace luq
