// What this machine and this build can do, for `luqtrain doctor`.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace luq {

using InfoRows = std::vector<std::pair<std::string, std::string>>;

// Processor, vector instructions that kernels exist for, cores, memory, versions of the libraries that compute.
InfoRows system_info();

}  // namespace luq
