// Where the Python of tools/setup_torch.sh and the scripts for it are.
#include <cstdlib>
#include <filesystem>

#include "luq/core/error.h"
#include "tools/luqbench/bench.h"

namespace luq::bench {

namespace fs = std::filesystem;

std::string torch_python(const std::string& given) {
  if (given.find('/') != std::string::npos && !fs::exists(given))
    fail_user("[luqbench] --python {}: no such file", given);
  if (!given.empty()) return given;
  const char* data = std::getenv("XDG_DATA_HOME");
  const char* home = std::getenv("HOME");
  const fs::path base =
      data != nullptr && *data != '\0' ? fs::path(data) : fs::path(home != nullptr ? home : ".") / ".local/share";
  const fs::path python = base / "luqtrain/torch/bin/python";
  if (!fs::exists(python)) {
    fail_user("[luqbench] there is no PyTorch in {}; tools/setup_torch.sh installs it, --python names another",
              python.string());
  }
  return python.string();
}

std::string torch_program(const std::string& script) {
  const fs::path here = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& place : {here / "../tools", here / "../share/luqtrain/tools"}) {
    if (fs::exists(place / script)) return fs::canonical(place / script).string();
  }
  fail("[luqbench] {} is not where this program expects it, {} or {}", script, (here / "../tools").string(),
       (here / "../share/luqtrain/tools").string());
}

}  // namespace luq::bench
