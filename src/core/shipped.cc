#include "luq/core/shipped.h"

#include <unistd.h>

#include <filesystem>

#include "luq/core/shell.h"

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

std::string pytorch_conversion_command(const std::string& file) {
  std::string script = "tools/convert_checkpoint.py";  // of the source tree
  for (const std::string& folder : shipped_folders("tools")) {
    const std::string found = folder + "/convert_checkpoint.py";
    if (::access(found.c_str(), R_OK) == 0) script = found;
  }
  return "python3 " + shell_path(script) + " " + shell_path(file) + " OUTPUT.safetensors";
}

}  // namespace luq
