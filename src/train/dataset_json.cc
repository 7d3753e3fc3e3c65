#include "src/train/dataset_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "luq/core/error.h"
#include "luq/core/text.h"
#include "src/data/class_names.h"
#include "src/train/text_json.h"

namespace luq {
namespace {

// As the first versions stored names, with another character for what is no UTF-8.
std::string with_replacements(const std::string& name) {
  using Json = nlohmann::json;
  return Json::parse(Json(name).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace

std::string to_json(const DatasetInfo& info) {
  nlohmann::ordered_json json;
  json["name"] = info.name;
  json["images"] = info.images;
  json["encoded"] = info.encoded;
  json["height"] = info.height;
  json["width"] = info.width;
  json["channels"] = info.channels;
  json["num_classes"] = info.num_classes;
  json["mean"] = info.mean;
  json["std"] = info.std;
  json["class_names"] = texts_json(info.class_names);
  return json.dump();
}

DatasetInfo parse_dataset_info(const std::string& json, const std::string& source) {
  try {
    const nlohmann::json parsed = nlohmann::json::parse(json);
    DatasetInfo info;
    parsed.at("name").get_to(info.name);
    parsed.at("images").get_to(info.images);
    parsed.at("encoded").get_to(info.encoded);
    parsed.at("height").get_to(info.height);
    parsed.at("width").get_to(info.width);
    parsed.at("channels").get_to(info.channels);
    parsed.at("num_classes").get_to(info.num_classes);
    parsed.at("mean").get_to(info.mean);
    parsed.at("std").get_to(info.std);
    info.class_names = parse_texts(parsed.at("class_names"));
    return info;
  } catch (const nlohmann::json::exception& error) {
    fail_user("[model] {}: metadata 'data' does not describe images ({})", source, error.what());
  }
}

std::string differing_classes(const DatasetInfo& before, const DatasetInfo& now) {
  const std::vector<std::string>&a = before.class_names, &b = now.class_names;
  if (a.empty() || b.empty()) return "";
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (i < a.size() && i < b.size() && (a[i] == b[i] || a[i] == with_replacements(b[i]))) continue;
    const std::string first = i < a.size() ? fmt::format("'{}'", printable(a[i])) : "none";
    const std::string second = i < b.size() ? fmt::format("'{}'", printable(b[i])) : "none";
    const std::string alike = first_alike(a, b);
    return fmt::format("class {} was {} and is {}{}", i, first, second, alike.empty() ? "" : "; " + alike);
  }
  return "";
}

}  // namespace luq
