#include "src/data/class_names.h"

#include <cstdint>
#include <map>

#include "luq/core/error.h"

namespace luq {
namespace {

struct CodePoint {
  uint32_t value = 0;
  bool valid = false;  // else value is a byte
};

std::vector<CodePoint> code_points(const std::string& text) {
  std::vector<CodePoint> points;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<uint8_t>(text[i]);
    const size_t length = byte < 0x80 ? 1 : byte >> 5 == 6 ? 2 : byte >> 4 == 14 ? 3 : byte >> 3 == 30 ? 4 : 0;
    uint32_t value = length == 1 ? byte : length == 0 ? 0 : byte & (0x7fu >> length);
    bool valid = length > 0 && i + length <= text.size();
    for (size_t j = 1; valid && j < length; ++j) {
      const auto next = static_cast<uint8_t>(text[i + j]);
      valid = next >> 6 == 2;
      value = value << 6 | (next & 0x3f);
    }
    points.push_back(valid ? CodePoint{value, true} : CodePoint{byte, false});
    i += valid ? length : 1;
  }
  return points;
}

// A letter and the marks on it.
struct Letter {
  uint32_t base = 0;
  std::vector<uint32_t> marks;
  friend bool operator==(const Letter&, const Letter&) = default;
};

bool is_mark(uint32_t c) {
  return (c >= 0x300 && c <= 0x36f) || (c >= 0x591 && c <= 0x5c7) || (c >= 0x64b && c <= 0x655) || c == 0x3099 ||
         c == 0x309a;
}

std::vector<Letter> letters(const std::string& text) {
  std::vector<Letter> all;
  for (const CodePoint& point : code_points(text)) {
    if (point.valid && is_mark(point.value) && !all.empty()) {
      all.back().marks.push_back(point.value);
    } else {
      all.push_back({point.valid ? point.value : 0x80000000u + point.value, {}});
    }
  }
  return all;
}

// One of them is a letter that has its marks in it.
bool same_but_composed(const Letter& a, const Letter& b) {
  const auto composed = [](const Letter& letter) { return letter.base >= 0xc0 && letter.base < 0x80000000u; };
  return (composed(a) && b.marks.size() > a.marks.size()) || (composed(b) && a.marks.size() > b.marks.size());
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin);
}

uint32_t lower(uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

// The same for names that look alike.
std::string key_of(const std::string& name) {
  std::string key;
  for (const Letter& letter : letters(trimmed(name))) {
    key += letter.base < 0x80 && letter.marks.empty() ? static_cast<char>(lower(letter.base)) : '\x01';
  }
  return key;
}

}  // namespace

std::string escaped(const std::string& name) {
  std::string text = "'";
  for (const CodePoint& point : code_points(name)) {
    if (!point.valid) {
      text += fmt::format("\\x{:02x}", point.value);
    } else if (point.value >= 0x20 && point.value < 0x7f) {
      text += static_cast<char>(point.value);
    } else {
      text += point.value > 0xffff ? fmt::format("\\U{:08x}", point.value) : fmt::format("\\u{:04x}", point.value);
    }
  }
  return text + "'";
}

std::string first_twice(const std::vector<std::string>& names) {
  std::map<std::string, size_t> seen;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto [found, is_new] = seen.emplace(names[i], i);
    if (is_new) continue;
    return fmt::format("the class {} stands twice, as {} and as {}; they are different classes here", escaped(names[i]),
                       found->second, i);
  }
  return "";
}

std::string why_alike(const std::string& a, const std::string& b) {
  if (a == b) return "";
  const std::vector<Letter> of_a = letters(trimmed(a)), of_b = letters(trimmed(b));
  if (of_a.size() != of_b.size()) return "";
  bool form = false, capitals = false;
  for (size_t i = 0; i < of_a.size(); ++i) {
    if (of_a[i] == of_b[i]) continue;
    if (same_but_composed(of_a[i], of_b[i])) {
      form = true;
    } else if (lower(of_a[i].base) == lower(of_b[i].base) && of_a[i].marks == of_b[i].marks) {
      capitals = true;
    } else {
      return "";
    }
  }
  std::vector<std::string> reasons;
  if (form) reasons.push_back("Unicode's form (composed or decomposed)");
  if (capitals) reasons.push_back("capitals");
  if (trimmed(a) != a || trimmed(b) != b) reasons.push_back("blanks at an end");
  return fmt::format("in {}", fmt::join(reasons, " and "));
}

std::string first_alike(const std::vector<std::string>& a, const std::vector<std::string>& b, bool capitals) {
  std::map<std::string, std::vector<const std::string*>> of_b;
  for (const std::string& name : b) of_b[key_of(name)].push_back(&name);
  for (const std::string& name : a) {
    const auto found = of_b.find(key_of(name));
    if (found == of_b.end()) continue;
    for (const std::string* other : found->second) {
      const std::string why = why_alike(name, *other);
      if (why.empty() || (!capitals && why.find("capitals") != std::string::npos)) continue;
      return fmt::format("{} and {} differ {} alone", escaped(name), escaped(*other), why);
    }
  }
  return "";
}

}  // namespace luq
