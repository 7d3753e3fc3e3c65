// Small text files, replaced whole.
#pragma once

#include <string>

namespace luq {

// Writes beside `file` and renames. Throws Error naming the file and the system's reason; the old file then stays.
void write_text_file(const std::string& file, const std::string& text);

}  // namespace luq
