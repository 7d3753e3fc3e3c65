// Residual networks (He et al. 2016, "Deep residual learning for image recognition") of basic or bottleneck blocks, the
// latter also with groups (ResNeXt, Xie et al. 2017) and wider inside (Wide ResNet, Zagoruyko and Komodakis 2016).
#pragma once

#include "luq/nn/layers.h"

namespace luq {

// conv3x3 - BN - ReLU - conv3x3 - BN, plus the input or its 1x1 projection where the shape changes, then ReLU.
class BasicBlock : public Module {
 public:
  BasicBlock(int64_t in_channels, int64_t out_channels, int64_t stride);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  Conv2d& conv1_;
  BatchNorm2d& bn1_;
  Conv2d& conv2_;
  BatchNorm2d& bn2_;
  Sequential* downsample_ = nullptr;
};

// conv1x1 - BN - ReLU - conv3x3 - BN - ReLU - conv1x1 - BN, plus the shortcut, then ReLU. The 3x3 carries the stride,
// as in torchvision, in `groups` groups; its channels are `width`, the block's output has kExpansion * `channels`.
class Bottleneck : public Module {
 public:
  static constexpr int64_t kExpansion = 4;
  Bottleneck(int64_t in_channels, int64_t channels, int64_t width, int64_t groups, int64_t stride);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  Conv2d& conv1_;
  BatchNorm2d& bn1_;
  Conv2d& conv2_;
  BatchNorm2d& bn2_;
  Conv2d& conv3_;
  BatchNorm2d& bn3_;
  Sequential* downsample_ = nullptr;
};

struct ResNetOptions {
  std::vector<int64_t> blocks;  // per stage
  bool bottleneck = false;      // Bottleneck blocks instead of BasicBlock
  int64_t groups = 1;           // of a bottleneck's 3x3, whose channels are groups * group_width at 64 channels
  int64_t group_width = 64;
  int64_t base_channels = 64;  // doubled at each later stage, which begins with stride 2
  bool imagenet_stem = true;   // 7x7 stride 2 and max pool 3x3 stride 2; otherwise 3x3 stride 1
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// x (N, H, W, in_channels) -> logits (N, num_classes), for any H and W that the strides leave at least one pixel of.
// Parameter names are torchvision's.
class ResNet : public Module {
 public:
  explicit ResNet(const ResNetOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  bool imagenet_stem_;
  Conv2d& conv1_;
  BatchNorm2d& bn1_;
  std::vector<Sequential*> stages_;
  Linear* fc_ = nullptr;
};

}  // namespace luq
