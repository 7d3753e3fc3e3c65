// The kernel tests share these: buffers that end at an unmapped page, random codes, and a loop over every table.
#pragma once

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"
#include "tests/catch.h"
#include "tests/kernels/device_table.h"

namespace luq::test {

// `count` values of T between two unmapped pages, the last right before the second: an access behind the end, or far
// before the beginning, kills the program. What lies between the first page and the values is checked by intact().
template <typename T>
class Guarded {
 public:
  explicit Guarded(int64_t count, T fill = T{}) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), bytes = static_cast<size_t>(count) * sizeof(T);
    inner_ = (bytes + page - 1) / page * page + page;
    mapped_ = inner_ + 2 * page;
    void* memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("mmap failed");
    base_ = static_cast<uint8_t*>(memory);
    begin_ = base_ + page;
    if (mprotect(begin_, inner_, PROT_READ | PROT_WRITE) != 0) throw std::runtime_error("mprotect failed");
    data_ = reinterpret_cast<T*>(begin_ + inner_ - bytes);
    std::memset(begin_, kCanary, inner_ - bytes);
    for (int64_t i = 0; i < count; ++i) data_[i] = fill;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

  // Nothing was written before the beginning.
  bool intact() const {
    for (const uint8_t* p = begin_; p < reinterpret_cast<const uint8_t*>(data_); ++p) {
      if (*p != kCanary) return false;
    }
    return true;
  }
  // Index of the first value that differs from `other` in its bytes, or -1.
  int64_t first_difference(const Guarded& other) const {
    for (int64_t i = 0; i < count_; ++i) {
      if (std::memcmp(data_ + i, other.data_ + i, sizeof(T)) != 0) return i;
    }
    return -1;
  }

 private:
  static constexpr uint8_t kCanary = 0xa5;
  int64_t count_;
  size_t inner_ = 0, mapped_ = 0;
  uint8_t *base_ = nullptr, *begin_ = nullptr;
  T* data_ = nullptr;
};

// The seed of a test's random shapes: LUQ_TEST_SEED, else a new one each run; printed, so that a failure can be
// repeated.
inline uint32_t test_seed(const std::string& test) {
  const char* given = std::getenv("LUQ_TEST_SEED");
  const uint32_t seed =
      given != nullptr ? static_cast<uint32_t>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  std::cout << test << ": LUQ_TEST_SEED=" << seed << std::endl;
  return seed;
}

// Calls body(table) for every table of the CPU, with its name in the failure message.
inline void for_each_cpu_table(const std::function<void(const Kernels&)>& body) {
  for (const NamedKernels& named : cpu_kernel_tables()) {
    INFO("table " << named.name);
    body(named.table);
  }
}

// Calls it for the device's tables too.
inline void for_each_table(const Work& work, const std::function<void(const Kernels&)>& body) {
  if (!only_device_tables()) for_each_cpu_table(body);
  for (const NamedKernels& named : device_tables(work)) {
    INFO("table " << named.name);
    body(named.table);
  }
}

// The number of OpenMP threads while in scope, and an order of their own for those of an emulated device.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) {
    omp_set_num_threads(count);
    order_device_threads(static_cast<uint64_t>(count));
  }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

}  // namespace luq::test
