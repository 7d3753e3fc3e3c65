#include "luq/models/vgg.h"

namespace luq {
namespace {

constexpr Init kLinearWeight{Init::Kind::normal, 0.01f};
constexpr Init kZero{Init::Kind::constant, 0.0f};

}  // namespace

Vgg::Vgg(const VggOptions& options)
    : pooled_size_(options.pooled_size),
      features_(register_module<Sequential>("features")),
      classifier_(register_module<Sequential>("classifier")) {
  int64_t channels = options.in_channels;
  for (const int64_t out_channels : options.features) {
    if (out_channels == 0) {
      features_.append<MaxPool2d>(Pool2dOptions{.kernel = 2, .stride = 2});
      continue;
    }
    features_.append<Conv2d>(channels, out_channels,
                             Conv2dLayerOptions{.kernel = 3, .conv = {.padding = 1}, .bias = true});
    if (options.batch_norm) features_.append<BatchNorm2d>(out_channels);
    features_.append<ReLU>();
    channels = out_channels;
  }
  const auto linear = [this](int64_t in, int64_t out) -> Linear& {
    return classifier_.append<Linear>(in, out, true, kLinearWeight, kZero);
  };
  linear(channels * pooled_size_ * pooled_size_, options.hidden).reads_flattened(channels);
  classifier_.append<ReLU>();
  classifier_.append<Dropout>();
  linear(options.hidden, options.hidden);
  classifier_.append<ReLU>();
  classifier_.append<Dropout>();
  linear(options.hidden, options.num_classes);
}

Var Vgg::forward(Ctx& ctx, const Var& x) {
  const Var y = adaptive_avg_pool2d(ctx, features_.forward(ctx, x), pooled_size_);
  return classifier_.forward(ctx, flatten(ctx, y));
}

}  // namespace luq
