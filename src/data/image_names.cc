#include "src/data/image_names.h"

#include <algorithm>
#include <array>

#include "luq/core/error.h"

namespace luq {
namespace {

std::string_view last_component(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string extension_of(std::string_view name) {
  const size_t dot = name.rfind('.');
  std::string extension(dot == std::string_view::npos ? "" : name.substr(dot));
  for (char& c : extension) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return extension;
}

}  // namespace

const char* const image_extensions = "(.jpg, .png, .bmp, .gif, .tif, .webp, .ppm ...)";

bool has_image_extension(std::string_view name) {
  constexpr std::array<std::string_view, 15> known = {".jpg", ".jpeg", ".jpe",  ".jfif", ".png", ".bmp", ".dib", ".gif",
                                                      ".tif", ".tiff", ".webp", ".pbm",  ".pgm", ".ppm", ".pnm"};
  return std::find(known.begin(), known.end(), extension_of(last_component(name))) != known.end();
}

bool is_apple_double(std::string_view path) { return last_component(path).starts_with("._"); }

bool is_system_folder(std::string_view name) {
  constexpr std::array<std::string_view, 12> known = {
      "__MACOSX",    ".AppleDouble",    ".ipynb_checkpoints", ".git",     "@eaDir",      "$RECYCLE.BIN",
      ".thumbnails", ".Spotlight-V100", ".fseventsd",         ".Trashes", "__pycache__", "System Volume Information"};
  return std::find(known.begin(), known.end(), name) != known.end();
}

std::string kind_of_file(std::string_view path) {
  const std::string_view name = last_component(path);
  if (is_apple_double(name)) return "._*";
  if (name.starts_with('.') && name.rfind('.') == 0) return std::string(name);
  const std::string extension = extension_of(name);
  return extension.size() < 2 ? "without extension" : extension;
}

void UnusedFiles::add(const std::string& kind, const std::string& name) {
  Kind& of_kind = kinds[kind];
  ++of_kind.count;
  if (of_kind.names.size() < most_names) of_kind.names.push_back(name);
}

void UnusedFiles::add(const UnusedFiles& others) {
  for (const auto& [kind, of_kind] : others.kinds) {
    Kind& here = kinds[kind];
    here.count += of_kind.count;
    const size_t room = std::min(most_names - std::min(most_names, here.names.size()), of_kind.names.size());
    here.names.insert(here.names.end(), of_kind.names.begin(), of_kind.names.begin() + static_cast<int64_t>(room));
  }
}

int64_t UnusedFiles::count() const {
  int64_t sum = 0;
  for (const auto& [kind, of_kind] : kinds) sum += of_kind.count;
  return sum;
}

std::string UnusedFiles::to_text() const {
  std::string text;
  for (const auto& [kind, of_kind] : kinds)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", of_kind.count, kind);
  const int64_t all = count();
  return all == 0 ? "" : fmt::format("{} {} not used: {}", all, all == 1 ? "file is" : "files are", text);
}

}  // namespace luq
