// Bytes of a file, in one go.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace luq {

// All bytes of a regular file (links are followed). Throws Error `[data] <file>: cannot be read: <reason>`; a folder, a
// pipe or a device is refused without waiting for it, as is a file of more than 1 GiB.
void read_whole_file(const std::string& file, std::vector<uint8_t>& bytes);

}  // namespace luq
