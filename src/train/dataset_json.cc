#include "src/train/dataset_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "luq/core/error.h"

namespace luq {

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
  json["class_names"] = info.class_names;
  // Names of folders are bytes; what is no UTF-8 is replaced.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
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
    parsed.at("class_names").get_to(info.class_names);
    return info;
  } catch (const nlohmann::json::exception& error) {
    fail_user("[model] {}: metadata 'data' does not describe images ({})", source, error.what());
  }
}

std::string differing_classes(const DatasetInfo& before, const DatasetInfo& now) {
  // Through the same replacement of what is no UTF-8.
  const std::vector<std::string> a = before.class_names, b = parse_dataset_info(to_json(now), now.name).class_names;
  if (a.empty() || b.empty()) return "";
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const std::string first = i < a.size() ? fmt::format("'{}'", a[i]) : "none";
    const std::string second = i < b.size() ? fmt::format("'{}'", b[i]) : "none";
    if (first != second) return fmt::format("class {} was {} and is {}", i, first, second);
  }
  return "";
}

}  // namespace luq
