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
  std::string type;   // "integer", "number", "boolean", "string", "list of numbers", ...
  std::string range;  // "1..", "sgd", "" where anything goes
  std::string meaning;
  // Sets the member; returns what was expected when the node does not fit.
  std::function<std::string(const YAML::Node&)> read;
  std::function<YAML::Node()> write;
};

// The fields of `config`, which must outlive them.
std::vector<Field> schema(ExperimentConfig& config);

}  // namespace luq
