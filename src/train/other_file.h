// Programs that read one file and write another.
#pragma once

#include <string>

namespace luq {

// Throws UserError `[where] option: expected another file than the input ...` when both are one file, by any name.
void check_other_file(const std::string& where, const std::string& option, const std::string& input,
                      const std::string& output);

}  // namespace luq
