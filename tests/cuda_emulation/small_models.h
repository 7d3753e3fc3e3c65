// Small models of each family of the zoo, and experiments on them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "luq/models/alexnet.h"
#include "luq/models/mobilenet_v2.h"
#include "luq/models/registry.h"
#include "luq/models/resnet.h"
#include "luq/models/vgg.h"
#include "luq/models/vision_transformer.h"

namespace luq::test {

// MobileNetV2's blocks, strides and expansions in a tenth of its depth and width.
class SmallMobileNet : public Module {
 public:
  explicit SmallMobileNet(const ModelOptions& options)
      : stem_(register_module<Conv2d>("stem", options.in_channels, 8,
                                      Conv2dLayerOptions{.kernel = 3, .conv = {.stride = 2, .padding = 1}})),
        norm_(register_module<BatchNorm2d>("norm", 8)),
        first_(register_module<InvertedResidual>("first", 8, 8, 1, 1)),
        second_(register_module<InvertedResidual>("second", 8, 12, 2, 6)),
        third_(register_module<InvertedResidual>("third", 12, 12, 1, 6)),
        fc_(register_module<Linear>("fc", 12, options.num_classes)) {}
  Var forward(Ctx& ctx, const Var& x) override {
    const Var y = norm_.forward(ctx, stem_.forward(ctx, x), {.relu = true, .ceiling = 6});
    return fc_.forward(ctx, global_avg_pool(ctx, third_.forward(ctx, second_.forward(ctx, first_.forward(ctx, y)))));
  }

 private:
  Conv2d& stem_;
  BatchNorm2d& norm_;
  InvertedResidual &first_, &second_, &third_;
  Linear& fc_;
};

// Names for model.name, registered at the first call.
inline const std::vector<std::string>& small_models() {
  static const std::vector<std::string> names = [] {
    const auto resnet = [](std::vector<int64_t> blocks, bool bottleneck, bool imagenet_stem, int64_t groups) {
      return [=](const ModelOptions& o) {
        return std::make_unique<ResNet>(ResNetOptions{.blocks = blocks,
                                                      .bottleneck = bottleneck,
                                                      .groups = groups,
                                                      .group_width = 64 / groups,
                                                      .base_channels = 8,
                                                      .imagenet_stem = imagenet_stem,
                                                      .in_channels = o.in_channels,
                                                      .num_classes = o.num_classes});
      };
    };
    const auto vgg = [](bool batch_norm) {
      return [batch_norm](const ModelOptions& o) {
        return std::make_unique<Vgg>(VggOptions{.features = {8, 0, 16, 16, 0},
                                                .batch_norm = batch_norm,
                                                .pooled_size = 3,
                                                .hidden = 32,
                                                .in_channels = o.in_channels,
                                                .num_classes = o.num_classes});
      };
    };
    register_model("small_resnet20", resnet({1, 1, 1}, false, false, 1));
    register_model("small_resnet18", resnet({1, 1}, false, true, 1));
    register_model("small_resnext", resnet({1, 1}, true, false, 8));
    register_model("small_vgg", vgg(false));
    register_model("small_vgg_bn", vgg(true));
    register_model("small_mobilenet",
                   [](const ModelOptions& options) { return std::make_unique<SmallMobileNet>(options); });
    register_model("small_vit", [](const ModelOptions& o) {
      return std::make_unique<VisionTransformer>(ViTOptions{.image_size = o.image_size,
                                                            .patch_size = 4,
                                                            .layers = 2,
                                                            .heads = 2,
                                                            .hidden = 24,
                                                            .mlp = 48,
                                                            .in_channels = o.in_channels,
                                                            .num_classes = o.num_classes});
    });
    return std::vector<std::string>{"small_resnet20", "small_resnet18",  "small_resnext", "small_vgg",
                                    "small_vgg_bn",   "small_mobilenet", "small_vit"};
  }();
  return names;
}

}  // namespace luq::test
