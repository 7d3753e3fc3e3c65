// Walking over what lies in a folder.
#pragma once

#include <filesystem>

#include "luq/core/error.h"

namespace luq {

// Calls visit(entry) for the entries of a folder, in no order, until it returns false. Returns why the folder could not
// be read to its end, or no error. Throws OutOfMemory where the system has no memory for that: it is nobody's mistake.
template <typename Visit>
std::error_code for_folder_entries(const std::filesystem::path& folder, Visit visit) {
  std::error_code error;
  std::filesystem::directory_iterator entries(folder, error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    if (!visit(*entries)) break;
  }
  if (error == std::errc::not_enough_memory) {
    throw OutOfMemory(fmt::format("{}: out of memory: the folder cannot be read", folder.string()));
  }
  return error;
}

}  // namespace luq
