// Names in JSON: a string, or where the name is no UTF-8, which JSON must be, the list of its bytes.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace luq {

nlohmann::json texts_json(const std::vector<std::string>& texts);
// Throws nlohmann::json::exception for what is neither.
std::vector<std::string> parse_texts(const nlohmann::json& json);

}  // namespace luq
