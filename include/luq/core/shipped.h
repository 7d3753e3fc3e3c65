// Files that come with the program.
#pragma once

#include <string>
#include <vector>

namespace luq {

// The folders of this name ("configs", "tools") that came with the program: of the tree it was built in and of its
// installation. Empty where there is none.
std::vector<std::string> shipped_folders(const std::string& name);

// What turns a file of PyTorch into one that can be read here, for a shell.
std::string pytorch_conversion_command(const std::string& file);

}  // namespace luq
