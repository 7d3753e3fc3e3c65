// The libraries that are loaded at run time must be as this file says, or a user is told what is wrong with them.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>

namespace luq::kernels::cuda {

// Versions as the libraries write them: 91900 is 9.19.0.
struct LibraryFacts {
  std::string name;        // as people call it
  std::string file;        // what the dynamic linker is asked for
  size_t least = 0;        // the oldest version that will do
  size_t version = 0;      // that was found; 0: none
  std::string error = {};  // the dynamic linker's, about the file or a function that it lacks
};

// Why the library cannot be used, and what to do; empty when it can.
inline std::string why_unusable(const LibraryFacts& f) {
  if (f.error.empty() && f.version >= f.least) return "";
  const std::string found =
      f.error.empty() ? fmt::format("{}.{}.{}", f.version / 10000, f.version / 100 % 100, f.version % 100) : f.error;
  return fmt::format(
      "[cuda] expected {} {}.{} or newer ({}), got {}; install it or put its folder first in LD_LIBRARY_PATH, set "
      "LUQ_CUDA_KERNELS=cuda-plain to do without, or train with device=cpu",
      f.name, f.least / 10000, f.least / 100 % 100, f.file, found);
}

// "cuDNN 9.19.0"; "no cuDNN (libcudnn.so.9: cannot open shared object file: No such file or directory)".
inline std::string found_text(const LibraryFacts& f) {
  if (!f.error.empty()) return fmt::format("no {} ({})", f.name, f.error);
  return fmt::format("{} {}.{}.{}{}", f.name, f.version / 10000, f.version / 100 % 100, f.version % 100,
                     f.version < f.least ? " (too old)" : "");
}

}  // namespace luq::kernels::cuda
