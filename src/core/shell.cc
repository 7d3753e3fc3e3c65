#include "luq/core/shell.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

#include "luq/core/text.h"

namespace luq {
namespace {

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_./:@%+,=-").find(c) != std::string_view::npos;
}

bool is_control(char c) { return static_cast<uint8_t>(c) < 0x20 || c == '\x7f'; }

// user "" is the one who runs the program.
std::optional<std::string> home_of(const std::string& user) {
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> buffer(1 << 14);
  const int error = user.empty() ? ::getpwuid_r(::getuid(), &entry, buffer.data(), buffer.size(), &found)
                                 : ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (error != 0 || found == nullptr || found->pw_dir == nullptr) return std::nullopt;
  return found->pw_dir;
}

}  // namespace

std::string shell_quote(const std::string& word) {
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return word;
  if (is_utf8(word) && std::ranges::none_of(word, is_control)) {
    std::string quoted = "'";
    for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return quoted + "'";
  }
  const bool keep_others = is_utf8(word);
  std::string quoted = "$'";
  for (const char c : word) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '\n') {
      quoted += "\\n";
    } else if (is_control(c) || (byte >= 0x80 && !keep_others)) {
      quoted += fmt::format("\\{:03o}", byte);
    } else {
      if (c == '\'' || c == '\\') quoted += '\\';
      quoted += c;
    }
  }
  return quoted + "'";
}

std::string shell_path(const std::string& path) { return shell_quote(path.starts_with('-') ? "./" + path : path); }

std::string expand_home(const std::string& path) {
  if (!path.starts_with('~')) return path;
  const size_t slash = std::min(path.find('/'), path.size());
  const std::string user = path.substr(1, slash - 1);
  const char* variable = std::getenv("HOME");
  const std::optional<std::string> home =
      user.empty() && variable != nullptr && *variable != '\0' ? variable : home_of(user);
  if (!home) return path;
  // "/" with "/x" is "/x".
  return home->ends_with('/') && slash < path.size() ? *home + path.substr(slash + 1) : *home + path.substr(slash);
}

}  // namespace luq
