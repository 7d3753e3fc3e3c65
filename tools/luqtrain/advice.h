// What somebody who mistyped a command may have meant.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace luqtrain {

struct Advice {
  std::string word;  // the first that is not expected where it stands; "" when something is missing instead
  std::string text;  // what would have been right, as a command to paste where that is known; "" when it is not
};

// Of the words of a command line (without the program's name) that `app` refused.
Advice advice(const CLI::App& app, const std::vector<std::string>& words);

}  // namespace luqtrain
