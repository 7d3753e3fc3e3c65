#include "luq/models/registry.h"

#include <algorithm>
#include <array>
#include <map>

#include <fmt/ranges.h>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/models/alexnet.h"
#include "luq/models/mobilenet_v2.h"
#include "luq/models/resnet.h"
#include "luq/models/vgg.h"
#include "luq/models/vision_transformer.h"

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
ModelFactory imagenet_resnet(std::vector<int64_t> blocks, bool bottleneck, int64_t groups = 1,
                             int64_t group_width = 64) {
  return [=](const ModelOptions& options) {
    return std::make_unique<ResNet>(ResNetOptions{.blocks = blocks,
                                                  .bottleneck = bottleneck,
                                                  .groups = groups,
                                                  .group_width = group_width,
                                                  .in_channels = options.in_channels,
                                                  .num_classes = options.num_classes});
  };
}

void check_image_size(const std::string& name, const ModelOptions& options, int64_t smallest) {
  if (options.image_size >= smallest) return;
  fail_user("[model.name] {} needs images of at least {}x{}, got {}x{}", name, smallest, smallest, options.image_size,
            options.image_size);
}

// VGG of table 1 of Simonyan and Zisserman 2015: five stages of this many convolutions, each followed by a pool.
ModelFactory vgg(const std::string& name, const std::array<int, 5>& convolutions, bool batch_norm) {
  std::vector<int64_t> features;
  for (size_t stage = 0; stage < convolutions.size(); ++stage) {
    features.insert(features.end(), static_cast<size_t>(convolutions[stage]), std::min(64 << stage, 512));
    features.push_back(0);
  }
  return [=](const ModelOptions& options) {
    check_image_size(name, options, 32);
    return std::make_unique<Vgg>(VggOptions{.features = features,
                                            .batch_norm = batch_norm,
                                            .in_channels = options.in_channels,
                                            .num_classes = options.num_classes});
  };
}

std::unique_ptr<Module> alexnet(const ModelOptions& options) {
  check_image_size("alexnet", options, 63);
  return std::make_unique<AlexNet>(
      AlexNetOptions{.in_channels = options.in_channels, .num_classes = options.num_classes});
}

std::unique_ptr<Module> mobilenet_v2(const ModelOptions& options) {
  return std::make_unique<MobileNetV2>(
      MobileNetV2Options{.in_channels = options.in_channels, .num_classes = options.num_classes});
}

std::unique_ptr<Module> vit_b_16(const ModelOptions& options) {
  return std::make_unique<VisionTransformer>(ViTOptions{
      .image_size = options.image_size, .in_channels = options.in_channels, .num_classes = options.num_classes});
}

// The zoo: one line a model.
std::map<std::string, ModelFactory>& registry() {
  static std::map<std::string, ModelFactory> models{
      {"resnet20", cifar_resnet(3)},
      {"resnet32", cifar_resnet(5)},
      {"resnet44", cifar_resnet(7)},
      {"resnet56", cifar_resnet(9)},
      {"resnet18", imagenet_resnet({2, 2, 2, 2}, false)},
      {"resnet34", imagenet_resnet({3, 4, 6, 3}, false)},
      {"resnet50", imagenet_resnet({3, 4, 6, 3}, true)},
      {"resnet101", imagenet_resnet({3, 4, 23, 3}, true)},
      {"resnet152", imagenet_resnet({3, 8, 36, 3}, true)},
      {"resnext50_32x4d", imagenet_resnet({3, 4, 6, 3}, true, 32, 4)},
      {"wide_resnet50_2", imagenet_resnet({3, 4, 6, 3}, true, 1, 128)},
      {"vgg11", vgg("vgg11", {1, 1, 2, 2, 2}, false)},
      {"vgg13", vgg("vgg13", {2, 2, 2, 2, 2}, false)},
      {"vgg16", vgg("vgg16", {2, 2, 3, 3, 3}, false)},
      {"vgg19", vgg("vgg19", {2, 2, 4, 4, 4}, false)},
      {"vgg11_bn", vgg("vgg11_bn", {1, 1, 2, 2, 2}, true)},
      {"vgg13_bn", vgg("vgg13_bn", {2, 2, 2, 2, 2}, true)},
      {"vgg16_bn", vgg("vgg16_bn", {2, 2, 3, 3, 3}, true)},
      {"vgg19_bn", vgg("vgg19_bn", {2, 2, 4, 4, 4}, true)},
      {"alexnet", alexnet},
      {"mobilenet_v2", mobilenet_v2},
      {"vit_b_16", vit_b_16},
  };
  return models;
}

}  // namespace

void register_model(const std::string& name, ModelFactory factory) {
  if (!registry().emplace(name, std::move(factory)).second) fail("[register_model] '{}' is registered already", name);
}

std::unique_ptr<Module> build_model(const std::string& name, const ModelOptions& options) {
  const auto found = registry().find(name);
  if (found == registry().end()) {
    fail_user("[model.name] there is no model '{}'{}; the models are: {}", name, did_you_mean(name, model_names()),
              fmt::join(model_names(), ", "));
  }
  std::unique_ptr<Module> model = found->second(options);
  model->set_name("");
  return model;
}

std::unique_ptr<Module> make_model(const std::string& name, const ModelOptions& options, uint64_t seed) {
  std::unique_ptr<Module> model = build_model(name, options);
  model->initialize(seed);
  return model;
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : registry()) names.push_back(name);
  return names;
}

}  // namespace luq
