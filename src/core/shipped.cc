#include "luq/core/shipped.h"

#include <filesystem>

namespace luq {

namespace fs = std::filesystem;

std::vector<std::string> shipped_folders(const std::string& name) {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<std::string> folders;
  if (error) return folders;
  for (const fs::path& folder : {program / ".." / name, program / "../share/luqtrain" / name}) {
    if (!fs::is_directory(folder, error)) continue;
    const fs::path whole = fs::canonical(folder, error);
    if (!error) folders.push_back(whole.string());
  }
  return folders;
}

}  // namespace luq
