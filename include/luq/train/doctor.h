// `luqtrain doctor`: is this machine ready, and what to install if not.
#pragma once

#include <string>

namespace luq {

// Processor, kernels, libraries, what was built in, and the data sets found, as text.
std::string doctor_report();

}  // namespace luq
