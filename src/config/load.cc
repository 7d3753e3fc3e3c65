#include "luq/config/load.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <sstream>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/core/shell.h"
#include "luq/core/shipped.h"
#include "luq/core/text.h"
#include "luq/core/text_file.h"
#include "src/config/schema.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

// The place where a value stands, for messages.
struct Source {
  std::string name;
  bool has_lines = true;
  std::string at(const YAML::Node& node) const {
    return has_lines && !node.Mark().is_null() ? fmt::format("{}:{}", name, node.Mark().line + 1) : name;
  }
};

std::string shown(const YAML::Node& node) {
  if (node.IsScalar()) return "'" + node.Scalar() + "'";
  if (node.IsSequence()) return "a list";
  if (node.IsMap()) return "a section";
  return "nothing";
}

// A value of the schema, for messages.
std::string readable(const YAML::Node& node) {
  const std::string yaml = emitted(node);
  return yaml.starts_with("!!binary") ? "'" + printable(text_of(node)) + "'" : yaml;
}

// A tag says of which type a value is; one that is not YAML's own would be passed over.
void check_tag(const YAML::Node& node, const std::string& path, const Source& source) {
  const std::string tag = node.Tag();
  if (tag.empty() || tag == "!" || tag == "?" || tag.starts_with("tag:yaml.org,2002:")) return;
  fail_user("[config] {}: {}: expected a value without the tag {}, of which nothing is known here", source.at(node),
            path.empty() ? "the file" : path, tag);
}

class Reader {
 public:
  explicit Reader(std::vector<Field> fields) : fields_(std::move(fields)) {}

  void read(const YAML::Node& node, const std::string& path, const Source& source) { read(node, path, source, node); }

  // A list of one type: its name ("list of strings"); "" for other keys.
  std::string list_type(const std::string& path) const {
    const std::string type = type_of(path);
    return type.starts_with("list") ? type : "";
  }

  // The key takes one value: no section, no list.
  bool is_scalar(const std::string& path) const {
    const std::string type = type_of(path);
    return !type.empty() && !type.starts_with("list");
  }
  bool is_integer(const std::string& path) const { return type_of(path) == "integer"; }
  // The key takes a text of any form.
  bool is_text(const std::string& path) const {
    const auto found = std::ranges::find(fields_, path, &Field::key);
    return found != fields_.end() && (found->type == "path" || (found->type == "string" && found->range.empty()));
  }

 private:
  // `place` is where messages say that the value stands: the parser puts one that is missing on the line after it.
  void read(const YAML::Node& node, const std::string& path, const Source& source, const YAML::Node& place) {
    check_tag(node, path, source);
    for (const Field& field : fields_) {
      if (field.key != path) continue;
      const std::string expected = field.read(node);
      if (!expected.empty()) {
        fail_user("[config] {}: {}: expected {}, got {}", source.at(place), path, expected, shown(node));
      }
      return;
    }
    if (!path.empty() && !is_section(path)) unknown(path, source.at(node));
    if (node.IsNull() && !path.empty()) return;  // a section without keys
    if (!node.IsMap()) {
      fail_user("[config] {}: {}: expected keys and values, got {}", source.at(node), path.empty() ? "the file" : path,
                shown(node));
    }
    std::set<std::string> seen;
    for (const auto& pair : node) {
      if (!pair.first.IsScalar())
        fail_user("[config] {}: expected a key, got {}", source.at(pair.first), shown(pair.first));
      const std::string key = path.empty() ? pair.first.Scalar() : path + "." + pair.first.Scalar();
      if (!seen.insert(key).second) fail_user("[config] {}: {}: duplicate key", source.at(pair.first), key);
      if (!is_known(key)) unknown(key, source.at(pair.first));
      if (pair.first.Scalar().find('.') != std::string::npos) {
        fail_user("[config] {}: {}: expected a section and a key in it, got a path, which only --set takes",
                  source.at(pair.first), key);
      }
      read(pair.second, key, source, pair.second.IsNull() ? pair.first : pair.second);
    }
  }

  std::string type_of(const std::string& path) const {
    const auto found = std::ranges::find(fields_, path, &Field::key);
    return found != fields_.end() ? found->type : "";
  }
  bool is_section(const std::string& path) const {
    return std::ranges::any_of(fields_, [&](const Field& field) { return field.key.starts_with(path + "."); });
  }
  bool is_known(const std::string& path) const {
    return is_section(path) || std::ranges::any_of(fields_, [&](const Field& field) { return field.key == path; });
  }
  [[noreturn]] void unknown(const std::string& path, const std::string& where) const {
    std::set<std::string> known;
    for (const Field& field : fields_) {
      for (size_t dot = field.key.find('.'); dot != std::string::npos; dot = field.key.find('.', dot + 1)) {
        known.insert(field.key.substr(0, dot));
      }
      known.insert(field.key);
    }
    std::string near = nearest(path, {known.begin(), known.end()});
    // A key in the wrong section: the one of the same last name.
    const std::string last = path.substr(path.rfind('.') + 1);
    for (const Field& field : fields_) {
      if (near.empty() && (field.key == last || field.key.ends_with("." + last))) near = field.key;
    }
    fail_user("[config] {}: {}: unknown key{}", where, path,
              near.empty() ? "; docs/configuration.md lists them all" : "; did you mean " + near + "?");
  }

  std::vector<Field> fields_;
};

// The parser takes the end of the text for the end of a string whose quote does not close: then what follows is in it.
bool ends_whole(const std::string& yaml, size_t documents) {
  if (yaml.find_first_of("\"'") == std::string::npos) return true;
  try {
    return YAML::LoadAll(yaml + "\n---\nx\n").size() == documents + 1;
  } catch (const YAML::Exception&) {
    return false;
  }
}

// The one document of a text; a null node where there is none.
YAML::Node parse_document(const std::string& yaml, const std::string& source) {
  const std::vector<YAML::Node> documents = YAML::LoadAll(yaml);
  if (documents.size() > 1) {
    const YAML::Mark mark = documents[1].Mark();
    fail_user("[config] {}{}: expected one YAML document, got {}: here begins another, which nothing would read",
              source, mark.is_null() ? "" : fmt::format(":{}", mark.line + 1), documents.size());
  }
  if (!ends_whole(yaml, documents.size())) {
    fail_user("[config] {}: not valid YAML: a quote is opened and not closed", source);
  }
  return documents.empty() ? YAML::Node(YAML::NodeType::Null) : documents.front();
}

YAML::Node parse(const std::string& yaml, const std::string& source) {
  try {
    return parse_document(yaml, source);
  } catch (const YAML::Exception& error) {
    fail_user("[config] {}:{}: not valid YAML: {}", source, error.mark.line + 1, error.msg);
  }
}

void check(const ExperimentConfig& c, const std::string& source) {
  const auto require = [&](bool fine, const char* key, const std::string& message) {
    if (!fine) fail_user("[config] {}: {}: {}", source, key, message);
  };
  require(!c.model.name.empty(), "model.name", "required, but missing");
  require(!c.data.name.empty(), "data.name", "required, but missing");
  require(c.data.augment.mean.empty() == c.data.augment.std.empty(), "data.augment.mean",
          "expected both mean and std or neither");
  require(c.data.augment.mean.size() == c.data.augment.std.size(), "data.augment.std",
          fmt::format("expected as many values as mean ({}), got {}", c.data.augment.mean.size(),
                      c.data.augment.std.size()));
  require(!c.optimizer.nesterov || c.optimizer.momentum > 0, "optimizer.nesterov", "expected optimizer.momentum > 0");
  require(std::ranges::is_sorted(c.lr_scheduler.milestones), "lr_scheduler.milestones", "expected rising epochs");
  require(c.lr_scheduler.name != "step" || !c.lr_scheduler.milestones.empty(), "lr_scheduler.milestones",
          "expected at least one for the step schedule");
  require(c.lr_scheduler.warmup_epochs < static_cast<double>(c.train.epochs), "lr_scheduler.warmup_epochs",
          "expected fewer than train.epochs");
  require(c.lr_scheduler.min_lr <= c.optimizer.lr, "lr_scheduler.min_lr", "expected at most optimizer.lr");
  const LayerQuant& quant = c.quantization.spec;
  for (const auto& [key, spec] : {std::pair{"quantization.weights.scale", quant.weights},
                                  {"quantization.activations.scale", quant.activations},
                                  {"quantization.gradients.scale", quant.gradient_for_data}}) {
    const std::string problem = problem_of(spec);
    require(problem.empty(), key, problem);
  }
}

// The inside of a value that stands in quotes of YAML's; nothing for other values.
std::optional<std::string> unquoted(const std::string& given) {
  if (given.size() < 2 || given.front() != given.back() || (given.front() != '"' && given.front() != '\'')) return {};
  try {
    const std::vector<YAML::Node> nodes = YAML::LoadAll(given);
    // 'a' 'b' is more than a quoted value.
    if (nodes.size() == 1 && nodes[0].IsScalar() && nodes[0].Tag() == "!") return nodes[0].Scalar();
  } catch (const YAML::Exception&) {
  }
  return {};
}

YAML::Node parsed(const std::string& given, const Source& source) {
  try {
    return parse_document(given, source.name);
  } catch (const YAML::Exception& error) {
    fail_user("[config] {}: not a valid value: {}", source.name, error.msg);
  }
}

// Says how a list is typed, where words or numbers were given that are none: a, a,b or [*.a].
void refuse_what_is_no_list(const std::string& type, const std::string& key, const std::string& given,
                            const Source& source) {
  std::string inside = given, list;
  if (inside.starts_with('[')) inside.erase(0, 1);
  if (inside.ends_with(']')) inside.pop_back();
  std::istringstream parts(inside);
  for (std::string part; std::getline(parts, part, ',');) {
    std::erase_if(part, [](char c) { return c == '"' || c == '\'' || c == ' ' || c == '\t'; });
    if (part.empty()) continue;
    const bool is_number = part.find_first_not_of("0123456789+-.eE") == std::string::npos;
    if (type == "list of numbers" && !is_number) return;
    list += (list.empty() ? "" : ", ") + (type == "list of strings" ? "\"" + part + "\"" : part);
  }
  if (list.empty() || list.find_first_of("\\{}\n") != std::string::npos) return;
  fail_user("[config] {}: expected a {}: --set {}", source.name, type, shell_quote(key + "=[" + list + "]"));
}

YAML::Node typed_list(const std::string& type, const std::string& key, const std::string& given, const Source& source) {
  YAML::Node node;
  try {
    node = parse_document(given, source.name);
  } catch (const YAML::Exception&) {
    refuse_what_is_no_list(type, key, given, source);
    return parsed(given, source);
  }
  if (node.IsScalar()) refuse_what_is_no_list(type, key, given, source);
  return node;
}

// A value as it was typed: what a comment, a type or an anchor would be in YAML belongs to it, and integers are
// decimal.
YAML::Node typed(const Reader& reader, const std::string& key, const std::string& given, const Source& source) {
  std::string text = unquoted(given).value_or(given);
  if (reader.is_integer(key)) {
    const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
    const size_t digits = std::min(text.find_first_not_of('0', sign), text.size());
    if (digits > sign && digits < text.size() && text[digits] >= '1' && text[digits] <= '9') {
      text.erase(sign, digits - sign);
    }
  }
  // A list or a section, which a number or a word cannot be.
  if (!reader.is_text(key) && (given.starts_with('[') || given.starts_with('{'))) return parsed(given, source);
  YAML::Node node(text);
  return node;
}

void apply_overrides(Reader& reader, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const Source source{"--set " + text, false};
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) fail_user("[config] {}: expected key.path=value", source.name);
    const std::string key = text.substr(0, equals), given = text.substr(equals + 1);
    const std::string list = reader.list_type(key);
    reader.read(reader.is_scalar(key) ? typed(reader, key, given, source)
                : !list.empty()       ? typed_list(list, key, given, source)
                                      : parsed(given, source),
                key, source);
  }
}

// Takes `base` out of the top level and gives it back; "" when there is none.
std::string take_base(YAML::Node& root, const std::string& source) {
  if (!root.IsMap()) return "";
  std::string base;
  bool found = false;
  for (const auto& pair : root) {
    if (!pair.first.IsScalar() || pair.first.Scalar() != "base") continue;
    const int line = pair.first.Mark().line + 1;
    if (found) fail_user("[config] {}:{}: base: duplicate key", source, line);
    if (!pair.second.IsScalar() || pair.second.Scalar().empty()) {
      fail_user("[config] {}:{}: base: expected the path of one file, got {}", source, line, shown(pair.second));
    }
    base = pair.second.Scalar();
    found = true;
  }
  if (found) root.remove("base");
  return base;
}

}  // namespace

ExperimentConfig parse_experiment(const std::string& yaml, const std::string& source,
                                  const std::vector<std::string>& overrides) {
  ExperimentConfig config;
  Reader reader(schema(config));
  YAML::Node root = parse(yaml, source);
  if (root.IsNull()) fail_user("[config] {}: the file is empty; model.name and data.name are required", source);
  reader.read(root, "", {source});
  apply_overrides(reader, overrides);
  check(config, source);
  return config;
}

ExperimentConfig load_experiment(const std::string& file, const std::vector<std::string>& overrides) {
  ExperimentConfig config;
  Reader reader(schema(config));
  YAML::Node root = parse(read_text_file("config", file), file);
  if (root.IsNull()) fail_user("[config] {}: the file is empty; model.name and data.name are required", file);
  const std::string base = take_base(root, file);
  if (!base.empty()) {
    const std::string base_file = (fs::path(file).parent_path() / expand_home(base)).string();
    YAML::Node base_root = parse(read_text_file("config", base_file), base_file);
    if (!take_base(base_root, base_file).empty()) {
      fail_user("[config] {}: base: a base may not have a base of its own (it is the base of {})", base_file, file);
    }
    if (!base_root.IsNull()) reader.read(base_root, "", {base_file});
  }
  reader.read(root, "", {file});
  apply_overrides(reader, overrides);
  if (config.run.directory.empty()) config.run.directory = (fs::path("runs") / fs::path(file).stem()).string();
  check(config, file);
  return config;
}

std::string to_yaml(const ExperimentConfig& config) {
  ExperimentConfig copy = config;
  YAML::Node root(YAML::NodeType::Map);
  for (const Field& field : schema(copy)) {
    YAML::Node section = root;
    size_t begin = 0;
    for (size_t dot = field.key.find('.'); dot != std::string::npos; dot = field.key.find('.', begin)) {
      YAML::Node next = section[field.key.substr(begin, dot - begin)];
      section.reset(next);
      begin = dot + 1;
    }
    section[field.key.substr(begin)] = field.write();
  }
  return emitted(root) + "\n";
}

std::string find_config(const std::string& name) {
  if (name.empty()) fail_user("[config] --config: expected the name of a file, got an empty one");
  std::error_code error;
  if (fs::exists(name, error)) return name;
  if (error) fail_user("[config] {}: cannot be read: {}", name, error.message());
  if (name.find('/') != std::string::npos) {
    const std::string folder = fs::path(name).parent_path().string();
    fail_user("[config] {}: no such file{}", name,
              fs::is_directory(folder, error) ? "" : fmt::format("; {} is no folder", folder));
  }
  std::vector<std::string> found, all;
  for (const std::string& folder : shipped_folders("configs")) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file() || entry.path().extension() != ".yaml") continue;
      all.push_back(entry.path().filename().string());
      if (entry.path().filename() == name) found.push_back(entry.path().string());
    }
  }
  std::ranges::sort(found);
  if (found.size() == 1) return found.front();
  if (found.size() > 1) {
    fail_user("[config] {}: several configurations have this name; give one of these paths: {}", name,
              fmt::join(found, ", "));
  }
  std::ranges::sort(all);
  fail_user("[config] {}: no such file here, and no such configuration is shipped{}; there are: {}", name,
            did_you_mean(name, all), fmt::join(all, ", "));
}

std::vector<KeyDescription> describe_keys() {
  ExperimentConfig defaults;
  std::vector<KeyDescription> keys;
  for (const Field& field : schema(defaults)) {
    YAML::Emitter value;
    value << field.write();
    keys.push_back({field.key, field.type, value.c_str(), field.range, field.meaning});
  }
  return keys;
}

std::vector<std::pair<std::string, std::string>> flat_values(const std::string& yaml, const std::string& source) {
  std::vector<std::pair<std::string, std::string>> values;
  const std::function<void(const YAML::Node&, const std::string&)> visit = [&](const YAML::Node& node,
                                                                               const std::string& path) {
    if (!node.IsMap()) {
      YAML::Emitter text;
      text << YAML::Flow << node;
      values.emplace_back(path, node.IsScalar() ? printable(text_of(node)) : text.c_str());
      return;
    }
    for (const auto& pair : node) {
      if (pair.first.IsScalar()) visit(pair.second, (path.empty() ? "" : path + ".") + pair.first.Scalar());
    }
  };
  if (const YAML::Node root = parse(yaml, source); root.IsMap()) visit(root, "");
  return values;
}

std::vector<std::string> differing_keys(const ExperimentConfig& a, const ExperimentConfig& b,
                                        const std::vector<std::string>& allowed) {
  ExperimentConfig first = a, second = b;
  const std::vector<Field> first_fields = schema(first), second_fields = schema(second);
  std::vector<std::string> differing;
  for (size_t i = 0; i < first_fields.size(); ++i) {
    const std::string& key = first_fields[i].key;
    if (std::ranges::find(allowed, key) != allowed.end()) continue;
    const YAML::Node old_node = first_fields[i].write(), new_node = second_fields[i].write();
    const std::string old_value = emitted(old_node), new_value = emitted(new_node);
    if (old_value != new_value) {
      differing.push_back(fmt::format("{}: {} -> {}", key, readable(old_node), readable(new_node)));
    }
  }
  return differing;
}

}  // namespace luq
