#include "luq/models/alexnet.h"

namespace luq {

AlexNet::AlexNet(const AlexNetOptions& options)
    : pooled_size_(options.pooled_size),
      features_(register_module<Sequential>("features")),
      classifier_(register_module<Sequential>("classifier")) {
  const auto conv = [this](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
    features_.append<Conv2d>(
        in, out,
        Conv2dLayerOptions{
            .kernel = kernel, .conv = {.stride = stride, .padding = padding}, .bias = true, .init = ConvInit::uniform});
    features_.append<ReLU>();
  };
  const auto pool = [this] { features_.append<MaxPool2d>(Pool2dOptions{.kernel = 3, .stride = 2}); };
  conv(options.in_channels, 64, 11, 4, 2);
  pool();
  conv(64, 192, 5, 1, 2);
  pool();
  conv(192, 384, 3, 1, 1);
  conv(384, 256, 3, 1, 1);
  conv(256, 256, 3, 1, 1);
  pool();
  classifier_.append<Dropout>();
  classifier_.append<Linear>(256 * pooled_size_ * pooled_size_, options.hidden).reads_flattened(256);
  classifier_.append<ReLU>();
  classifier_.append<Dropout>();
  classifier_.append<Linear>(options.hidden, options.hidden);
  classifier_.append<ReLU>();
  classifier_.append<Linear>(options.hidden, options.num_classes);
}

Var AlexNet::forward(Ctx& ctx, const Var& x) {
  const Var y = adaptive_avg_pool2d(ctx, features_.forward(ctx, x), pooled_size_);
  return classifier_.forward(ctx, flatten(ctx, y));
}

}  // namespace luq
