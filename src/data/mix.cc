#include "src/data/mix.h"

#include <algorithm>
#include <cmath>

namespace luq {
namespace {

// The logarithm of a number of Gamma(shape, 1); a shape below 1 through shape + 1.
double draw_log_gamma(RngStream& random, double shape) {
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
  double value = 0;
  while (true) {
    const double x = normal(random), v = std::pow(1.0 + c * x, 3);
    const double u = 1.0 - static_cast<double>(random.uniform());
    if (v > 0 && std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) {
      value = std::log(d * v);
      break;
    }
  }
  if (shape < 1) value += std::log(1.0 - static_cast<double>(random.uniform())) / shape;
  return value;
}

}  // namespace

double draw_beta(RngStream& random, double alpha) {
  const double first = draw_log_gamma(random, alpha), second = draw_log_gamma(random, alpha);
  return 1.0 / (1.0 + std::exp(second - first));
}

void mix(const TransformOptions& options, const ImageKey& key, Batch& batch) {
  const bool mixup = options.mixup_alpha > 0, cutmix = options.cutmix_alpha > 0;
  if (!mixup && !cutmix) return;
  RngStream random = image_stream(key, "data:mix");
  const bool second = random.below(2) == 1;
  const bool cuts = cutmix && (second || !mixup);
  double weight = draw_beta(random, cuts ? options.cutmix_alpha : options.mixup_alpha);
  const int64_t height = batch.images.pixels.size(1), width = batch.images.pixels.size(2);
  ImageMix& images = batch.images.mix;
  if (cuts) {
    const int64_t x = random.below(static_cast<uint32_t>(width)), y = random.below(static_cast<uint32_t>(height));
    const double half = 0.5 * std::sqrt(1.0 - weight);
    const auto half_width = static_cast<int64_t>(half * static_cast<double>(width));
    const auto half_height = static_cast<int64_t>(half * static_cast<double>(height));
    const int64_t left = std::max<int64_t>(x - half_width, 0), right = std::min(x + half_width, width);
    const int64_t top = std::max<int64_t>(y - half_height, 0), bottom = std::min(y + half_height, height);
    images = {.kind = ImageMix::Kind::cutmix,
              .top = static_cast<int32_t>(top),
              .left = static_cast<int32_t>(left),
              .height = static_cast<int32_t>(bottom - top),
              .width = static_cast<int32_t>(right - left)};
    weight = 1.0 - static_cast<double>((right - left) * (bottom - top)) / static_cast<double>(width * height);
  } else {
    images = {
        .kind = ImageMix::Kind::mixup, .own = static_cast<float>(weight), .others = static_cast<float>(1.0 - weight)};
  }
  const int64_t count = batch.size();
  batch.other_labels = Tensor::empty({count}, DType::int32);
  batch.label_weight = Tensor::full({count}, static_cast<float>(weight));
  const int32_t* labels = batch.labels.data<int32_t>();
  for (int64_t i = 0; i < count; ++i) {
    batch.other_labels.data<int32_t>()[i] = labels[i > 0 ? i - 1 : count - 1];
  }
}

}  // namespace luq
