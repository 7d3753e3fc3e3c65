#include "luq/models/registry.h"

#include <map>

#include <fmt/ranges.h>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/models/resnet.h"
#include "luq/models/vgg.h"

namespace luq {
namespace {

// ResNet of He et al. 2016, section 4.2: 6 n + 2 layers for images of about 32x32.
ModelFactory cifar_resnet(int64_t n) {
  return [n](const ModelOptions& options) {
    return std::make_unique<ResNet>(ResNetOptions{.blocks = {n, n, n},
                                                  .base_channels = 16,
                                                  .imagenet_stem = false,
                                                  .in_channels = options.in_channels,
                                                  .num_classes = options.num_classes});
  };
}

// ResNet of table 1 of He et al. 2016, for images of about 224x224.
ModelFactory imagenet_resnet(std::vector<int64_t> blocks, bool bottleneck) {
  return [blocks, bottleneck](const ModelOptions& options) {
    return std::make_unique<ResNet>(ResNetOptions{.blocks = blocks,
                                                  .bottleneck = bottleneck,
                                                  .in_channels = options.in_channels,
                                                  .num_classes = options.num_classes});
  };
}

std::unique_ptr<Module> vgg11_bn(const ModelOptions& options) {
  return std::make_unique<Vgg>(VggOptions{.features = {64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0},
                                          .in_channels = options.in_channels,
                                          .num_classes = options.num_classes});
}

// The zoo: one line a model.
std::map<std::string, ModelFactory>& registry() {
  static std::map<std::string, ModelFactory> models{
      {"resnet20", cifar_resnet(3)},
      {"resnet32", cifar_resnet(5)},
      {"resnet44", cifar_resnet(7)},
      {"resnet56", cifar_resnet(9)},
      {"resnet18", imagenet_resnet({2, 2, 2, 2}, false)},
      {"resnet50", imagenet_resnet({3, 4, 6, 3}, true)},
      {"vgg11_bn", vgg11_bn},
  };
  return models;
}

}  // namespace

void register_model(const std::string& name, ModelFactory factory) {
  if (!registry().emplace(name, std::move(factory)).second) fail("[register_model] '{}' is registered already", name);
}

std::unique_ptr<Module> make_model(const std::string& name, const ModelOptions& options, uint64_t seed) {
  const auto found = registry().find(name);
  if (found == registry().end()) {
    const std::string near = nearest(name, model_names());
    fail_user("[model.name] there is no model '{}'{}; the models are: {}", name,
              near.empty() ? "" : fmt::format(", did you mean {}?", near), fmt::join(model_names(), ", "));
  }
  std::unique_ptr<Module> model = found->second(options);
  model->set_name("");
  model->initialize(seed);
  return model;
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : registry()) names.push_back(name);
  return names;
}

}  // namespace luq
