// What this machine and this build can do, for `luqtrain doctor`.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace luq {

using InfoRows = std::vector<std::pair<std::string, std::string>>;

// Processor, vector instructions that kernels exist for, cores, memory, versions of the libraries that compute.
InfoRows system_info();

// What runs each kernel here, a line each in the order of the contract: on the CPU, and with CUDA where it is built in.
std::string describe_kernels();

}  // namespace luq
