// The zoo: models by name.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "luq/nn/module.h"

namespace luq {

struct ModelOptions {
  int64_t in_channels = 3;
  int64_t num_classes = 10;
  int64_t image_size = 32;  // height = width, for models whose head depends on it
};

using ModelFactory = std::function<std::unique_ptr<Module>(const ModelOptions&)>;

// Throws Error when the name is taken.
void register_model(const std::string& name, ModelFactory factory);
// A model named, its parameters 0, for weights that come from elsewhere. Throws UserError with the nearest name when
// there is none of this name, and when options.image_size is too small for it.
std::unique_ptr<Module> build_model(const std::string& name, const ModelOptions& options);
// The same, initialised as torchvision does it, with random numbers keyed by (seed, parameter name).
std::unique_ptr<Module> make_model(const std::string& name, const ModelOptions& options, uint64_t seed);
std::vector<std::string> model_names();  // sorted

}  // namespace luq
