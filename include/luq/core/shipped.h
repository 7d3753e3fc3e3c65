// Files that come with the program.
#pragma once

#include <string>
#include <vector>

namespace luq {

// The folders of this name ("configs", "tools") that came with the program: of the tree it was built in and of its
// installation. Empty where there is none.
std::vector<std::string> shipped_folders(const std::string& name);

}  // namespace luq
