// Runs the threads of a grid.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <random>
#include <stdexcept>
#include <string>

namespace luq::emulation {

// What a kernel did wrong.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Every block of the grid, in random order. Throws KernelError.
void run_grid(const std::string& kernel, const dim3& grid, const dim3& block, size_t shared_bytes,
              const std::function<void()>& body, std::mt19937_64& random);

}  // namespace luq::emulation
