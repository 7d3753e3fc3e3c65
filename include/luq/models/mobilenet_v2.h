// MobileNetV2 (Sandler et al. 2018, "Inverted residuals and linear bottlenecks"), torchvision's shape and names.
#pragma once

#include "luq/nn/layers.h"

namespace luq {

// 1x1 to `expansion` times the channels (left out at 1) - 3x3 depthwise - 1x1 to out_channels, batch norm behind each,
// ReLU6 behind the first two; plus the input where the shape stays.
class InvertedResidual : public Module {
 public:
  InvertedResidual(int64_t in_channels, int64_t out_channels, int64_t stride, int64_t expansion);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  bool adds_input_;
  Sequential* expand_ = nullptr;
  Sequential* depthwise_ = nullptr;
  Conv2d* project_ = nullptr;
  BatchNorm2d* norm_ = nullptr;
};

struct MobileNetV2Options {
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// x (N, H, W, in_channels) -> logits (N, num_classes), for any H and W.
class MobileNetV2 : public Module {
 public:
  explicit MobileNetV2(const MobileNetV2Options& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  Sequential& features_;
  Sequential& classifier_;
};

}  // namespace luq
