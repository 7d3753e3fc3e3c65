// What the commands do and say.
#pragma once

#include "tools/luqtrain/arguments.h"

namespace luqtrain {

constexpr int kFailure = 1, kUserMistake = 2;

// Runs the command that was asked for; the exit code. Throws what the library throws.
int run_command(const Arguments& arguments);

}  // namespace luqtrain
