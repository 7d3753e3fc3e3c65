#include "luq/models/mobilenet_v2.h"

namespace luq {
namespace {

// Convolution, batch norm and ReLU6.
Sequential& append_conv(Sequential& to, int64_t in_channels, int64_t out_channels, int64_t kernel, int64_t stride,
                        int64_t groups = 1) {
  Sequential& layer = to.append<Sequential>();
  layer.append<Conv2d>(
      in_channels, out_channels,
      Conv2dLayerOptions{.kernel = kernel, .conv = {.stride = stride, .padding = kernel / 2, .groups = groups}});
  layer.append<BatchNorm2d>(out_channels);
  layer.append<ReLU6>();
  return layer;
}

// Table 2 of the paper.
struct Stage {
  int64_t expansion, channels, blocks, stride;
};
constexpr Stage kStages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                             {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};

}  // namespace

InvertedResidual::InvertedResidual(int64_t in_channels, int64_t out_channels, int64_t stride, int64_t expansion)
    : adds_input_(stride == 1 && in_channels == out_channels) {
  Sequential& layers = register_module<Sequential>("conv");
  const int64_t channels = in_channels * expansion;
  if (expansion != 1) expand_ = &append_conv(layers, in_channels, channels, 1, 1);
  depthwise_ = &append_conv(layers, channels, channels, 3, stride, channels);
  project_ = &layers.append<Conv2d>(channels, out_channels, Conv2dLayerOptions{.kernel = 1});
  norm_ = &layers.append<BatchNorm2d>(out_channels);
}

Var InvertedResidual::forward(Ctx& ctx, const Var& x) {
  Var y = expand_ != nullptr ? expand_->forward(ctx, x) : x;
  y = project_->forward(ctx, depthwise_->forward(ctx, y));
  return norm_->forward(ctx, y, {.residual = adds_input_ ? x : Var()});
}

MobileNetV2::MobileNetV2(const MobileNetV2Options& options)
    : features_(register_module<Sequential>("features")), classifier_(register_module<Sequential>("classifier")) {
  int64_t channels = 32;
  append_conv(features_, options.in_channels, channels, 3, 2);
  for (const Stage& stage : kStages) {
    for (int64_t block = 0; block < stage.blocks; ++block) {
      features_.append<InvertedResidual>(channels, stage.channels, block == 0 ? stage.stride : 1, stage.expansion);
      channels = stage.channels;
    }
  }
  append_conv(features_, channels, 1280, 1, 1);
  classifier_.append<Dropout>(0.2f);
  classifier_.append<Linear>(1280, options.num_classes, true, Init{Init::Kind::normal, 0.01f}, Init{});
}

Var MobileNetV2::forward(Ctx& ctx, const Var& x) {
  return classifier_.forward(ctx, global_avg_pool(ctx, features_.forward(ctx, x)));
}

}  // namespace luq
