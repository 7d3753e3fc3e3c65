// Work that waits for disks, by more threads than there are cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "luq/core/stop_signals.h"

namespace luq {

// work(i) for every i below count, by up to `threads` threads, or by fewer where the system starts no more; an
// exception ends the rest, and the one of the lowest i that was reached is thrown again. Throws Stopped where
// StopSignals lives and received one.
template <typename Work>
void for_each_parallel(size_t count, size_t threads, const Work& work) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr problem;
  size_t problem_at = count;
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) {
      try {
        throw_if_stopped();
        work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < problem_at) {
          problem_at = i;
          problem = std::current_exception();
        }
        next = count;
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    try {
      for (size_t i = 0; i < std::min(threads, count); ++i) pool.emplace_back(run);
    } catch (const std::system_error&) {
      run();
    }
  }
  if (problem) std::rethrow_exception(problem);
}

}  // namespace luq
