#include "luq/models/resnet.h"

namespace luq {
namespace {

Conv2dLayerOptions conv_options(int64_t kernel, int64_t stride, int64_t groups = 1) {
  return {.kernel = kernel, .conv = {.stride = stride, .padding = kernel / 2, .groups = groups}};
}

}  // namespace

BasicBlock::BasicBlock(int64_t in_channels, int64_t out_channels, int64_t stride)
    : conv1_(register_module<Conv2d>("conv1", in_channels, out_channels, conv_options(3, stride))),
      bn1_(register_module<BatchNorm2d>("bn1", out_channels)),
      conv2_(register_module<Conv2d>("conv2", out_channels, out_channels, conv_options(3, 1))),
      bn2_(register_module<BatchNorm2d>("bn2", out_channels)) {
  if (stride == 1 && in_channels == out_channels) return;
  downsample_ = &register_module<Sequential>("downsample");
  downsample_->append<Conv2d>(in_channels, out_channels, conv_options(1, stride));
  downsample_->append<BatchNorm2d>(out_channels);
}

Var BasicBlock::forward(Ctx& ctx, const Var& x) {
  Var y = bn1_.forward(ctx, conv1_.forward(ctx, x), {.relu = true});
  y = conv2_.forward(ctx, y);
  return bn2_.forward(ctx, y, {.relu = true, .residual = downsample_ != nullptr ? downsample_->forward(ctx, x) : x});
}

Bottleneck::Bottleneck(int64_t in_channels, int64_t channels, int64_t width, int64_t groups, int64_t stride)
    : conv1_(register_module<Conv2d>("conv1", in_channels, width, conv_options(1, 1))),
      bn1_(register_module<BatchNorm2d>("bn1", width)),
      conv2_(register_module<Conv2d>("conv2", width, width, conv_options(3, stride, groups))),
      bn2_(register_module<BatchNorm2d>("bn2", width)),
      conv3_(register_module<Conv2d>("conv3", width, channels * kExpansion, conv_options(1, 1))),
      bn3_(register_module<BatchNorm2d>("bn3", channels * kExpansion)) {
  if (stride == 1 && in_channels == channels * kExpansion) return;
  downsample_ = &register_module<Sequential>("downsample");
  downsample_->append<Conv2d>(in_channels, channels * kExpansion, conv_options(1, stride));
  downsample_->append<BatchNorm2d>(channels * kExpansion);
}

Var Bottleneck::forward(Ctx& ctx, const Var& x) {
  Var y = bn1_.forward(ctx, conv1_.forward(ctx, x), {.relu = true});
  y = bn2_.forward(ctx, conv2_.forward(ctx, y), {.relu = true});
  y = conv3_.forward(ctx, y);
  return bn3_.forward(ctx, y, {.relu = true, .residual = downsample_ != nullptr ? downsample_->forward(ctx, x) : x});
}

ResNet::ResNet(const ResNetOptions& options)
    : imagenet_stem_(options.imagenet_stem),
      conv1_(register_module<Conv2d>("conv1", options.in_channels, options.base_channels,
                                     options.imagenet_stem ? conv_options(7, 2) : conv_options(3, 1))),
      bn1_(register_module<BatchNorm2d>("bn1", options.base_channels)) {
  int64_t channels = options.base_channels;
  for (size_t stage = 0; stage < options.blocks.size(); ++stage) {
    const int64_t out_channels = options.base_channels << stage;
    Sequential& blocks = register_module<Sequential>("layer" + std::to_string(stage + 1));
    for (int64_t block = 0; block < options.blocks[stage]; ++block) {
      const int64_t stride = stage > 0 && block == 0 ? 2 : 1;
      if (options.bottleneck) {
        const int64_t width = out_channels * options.group_width / 64 * options.groups;
        blocks.append<Bottleneck>(channels, out_channels, width, options.groups, stride);
        channels = out_channels * Bottleneck::kExpansion;
      } else {
        blocks.append<BasicBlock>(channels, out_channels, stride);
        channels = out_channels;
      }
    }
    stages_.push_back(&blocks);
  }
  fc_ = &register_module<Linear>("fc", channels, options.num_classes);
}

Var ResNet::forward(Ctx& ctx, const Var& x) {
  Var y = bn1_.forward(ctx, conv1_.forward(ctx, x), {.relu = true});
  if (imagenet_stem_) y = max_pool2d(ctx, y, {.kernel = 3, .stride = 2, .padding = 1});
  for (Sequential* stage : stages_) y = stage->forward(ctx, y);
  return fc_->forward(ctx, global_avg_pool(ctx, y));
}

}  // namespace luq
