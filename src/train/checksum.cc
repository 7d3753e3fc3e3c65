#include "src/train/checksum.h"

#include <zlib.h>

#include <algorithm>
#include <map>

#include "luq/core/error.h"

namespace luq {
namespace {

constexpr const char* key = "crc32";

std::string checksum(const SafeTensors& content) {
  std::map<std::string, const Tensor*> sorted;
  for (const auto& [name, tensor] : content.tensors) sorted[name] = &tensor;
  uLong crc = crc32_z(0, nullptr, 0);
  const auto add = [&crc](const void* bytes, size_t count) {
    if (count > 0) crc = crc32_z(crc, static_cast<const Bytef*>(bytes), count);
  };
  const auto add_text = [&add](const std::string& text) { add(text.c_str(), text.size() + 1); };
  for (const auto& [name, text] : content.metadata) {
    if (name == key) continue;
    add_text(name);
    add_text(text);
  }
  for (const auto& [name, tensor] : sorted) {
    add_text(name);
    add_text(to_string(tensor->dtype()) + to_string(tensor->shape()));
    add(tensor->raw(), static_cast<size_t>(tensor->bytes()));
  }
  return fmt::format("{:08x}", crc);
}

// By more than one key, so that it is known for ours with one of them damaged.
bool is_ours(const SafeTensors& content) {
  const auto has = [&content](const char* name) { return content.metadata.contains(name); };
  return has("format") || has("config") || has("data");
}

}  // namespace

void add_checksum(SafeTensors& content) { content.metadata[key] = checksum(content); }

SafeTensors load_checked(const std::string& file) {
  SafeTensors content = load_safetensors(file);
  const auto stored = content.metadata.find(key);
  if (stored == content.metadata.end() || !is_ours(content)) return content;
  const std::string found = checksum(content);
  if (stored->second != found) {
    fail_user("[safetensors] {}: damaged: its checksum is {}, its contents give {}", file, stored->second, found);
  }
  return content;
}

}  // namespace luq
