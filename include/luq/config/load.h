// Reading and writing experiments; the only user of YAML.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "luq/config/experiment.h"

namespace luq {

// Reads `file` (and its one `base:` file), applies `overrides` ("key.path=value", later ones win) and fills
// run.directory where it is empty. Throws UserError `[config] file:line: key ...` for a syntax error, an unknown key
// (with the nearest valid one), a duplicate key, a wrong type, a value out of range, and a missing required key.
ExperimentConfig load_experiment(const std::string& file, const std::vector<std::string>& overrides);
// The same from YAML text (a checkpoint's effective configuration); `source` stands for the file in messages.
ExperimentConfig parse_experiment(const std::string& yaml, const std::string& source,
                                  const std::vector<std::string>& overrides);

// Every key with its value, as YAML that load_experiment reads back to the same experiment.
std::string to_yaml(const ExperimentConfig& config);

// A path as given when it exists; a bare name is looked up in the working directory, then below every shipped
// configuration folder. Throws UserError that lists the candidates when none or several match.
std::string find_config(const std::string& name);

// One key of the schema, for docs/configuration.md and its test.
struct KeyDescription {
  std::string key;  // "train.batch_size"
  std::string type, default_value, range, meaning;
};
std::vector<KeyDescription> describe_keys();

// The values of a YAML document as (key.path, text), lists in one piece, whether this version knows the keys or not.
// Throws UserError naming `source` when it is no YAML.
std::vector<std::pair<std::string, std::string>> flat_values(const std::string& yaml, const std::string& source);

// Keys whose values differ, as "key: old -> new"; keys in `allowed` are left out.
std::vector<std::string> differing_keys(const ExperimentConfig& a, const ExperimentConfig& b,
                                        const std::vector<std::string>& allowed);

// Keys that differ from their default and do nothing beside the other keys, each with the reason: "optimizer.beta1 has
// no effect with optimizer.name sgd".
std::vector<std::string> keys_without_effect(const ExperimentConfig& config);

}  // namespace luq
