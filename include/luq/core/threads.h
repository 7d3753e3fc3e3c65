// How many threads work. It decides how long something takes, and no bit of a result.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace luq {

// Of kernels, and of other work that nothing else gives a number: what OMP_NUM_THREADS said when the program started
// (the first of a list), else as many as there are processors that the process may use (its affinity mask, as taskset
// and batch systems set it), and no more than its control group's CPU quota, rounded up, as containers set it. 1..4096.
int default_threads();
// "2 (OMP_NUM_THREADS)", and so on.
std::string describe_default_threads();

// Kernels that the calling thread starts from now on use so many, 0: default_threads(). Returns the number.
int use_threads(int64_t threads);

// Processors' worth of time that control groups (version 1 and 2) leave this process; nothing where there is no limit.
// root: in front of /proc and /sys.
std::optional<double> cpu_quota(const std::string& root = "");

// For the beginning of main(), before anything else: what is wrong with OMP_NUM_THREADS, which is then unset; "" when
// nothing is.
std::string check_thread_environment();

}  // namespace luq
