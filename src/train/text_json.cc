#include "src/train/text_json.h"

#include <cstdint>

#include "luq/core/text.h"

namespace luq {

nlohmann::json texts_json(const std::vector<std::string>& texts) {
  nlohmann::json json = nlohmann::json::array();
  for (const std::string& text : texts) {
    if (is_utf8(text)) {
      json.push_back(text);
    } else {
      json.push_back(std::vector<uint8_t>(text.begin(), text.end()));
    }
  }
  return json;
}

std::vector<std::string> parse_texts(const nlohmann::json& json) {
  std::vector<std::string> texts;
  for (const nlohmann::json& item : json.get<std::vector<nlohmann::json>>()) {
    if (!item.is_array()) {
      texts.push_back(item.get<std::string>());
      continue;
    }
    const auto bytes = item.get<std::vector<uint8_t>>();
    texts.emplace_back(bytes.begin(), bytes.end());
  }
  return texts;
}

}  // namespace luq
