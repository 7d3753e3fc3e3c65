#include "luq/core/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace luq {
namespace {

// Bytes of the character at the beginning of `text`; 0 when there is none.
size_t character_bytes(std::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (text.empty()) return 0;
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t count = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 ? 4 : 0;
  if (count == 0 || first > 0xf4 || text.size() < count) return 0;
  const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < count; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
  }
  return count;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t count = character_bytes(text);
    if (count == 0) return false;
    text.remove_prefix(count);
  }
  return true;
}

std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t count = character_bytes(text);
    const auto first = static_cast<uint8_t>(text[0]);
    if (count == 0 || first < 0x20 || first == 0x7f) {
      shown += fmt::format("\\x{:02x}", first);
    } else {
      shown += text.substr(0, count);
    }
    text.remove_prefix(std::max<size_t>(count, 1));
  }
  return shown;
}

}  // namespace luq
