// Every key of an experiment, once: the reader, the writer, the documentation and the comparison walk this list.
#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>
#include <vector>

#include "luq/config/experiment.h"

namespace luq {

struct Field {
  std::string key;    // "train.batch_size"
  std::string type;   // "integer", "number", "boolean", "string", "path", "list of numbers", ...
  std::string range;  // "1..", "sgd", "" where anything goes
  std::string meaning;
  // Sets the member; returns what was expected when the node does not fit.
  std::function<std::string(const YAML::Node&)> read;
  std::function<YAML::Node()> write;
};

// The fields of `config`, which must outlive them.
std::vector<Field> schema(ExperimentConfig& config);

// Strings are bytes: a path need not be UTF-8, which YAML is. What YAML would not give back is written as !!binary, in
// base64.
YAML::Node text_node(const std::string& text);
// The string that a scalar stands for, !!binary decoded.
std::string text_of(const YAML::Node& scalar);
// The document that a node makes, in block style but for nodes of another one.
std::string emitted(const YAML::Node& node);

}  // namespace luq
