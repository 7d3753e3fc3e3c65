#include "src/data/augment.h"

#include <algorithm>
#include <cmath>

#include "luq/core/error.h"
#include "luq/core/rng.h"

namespace luq {
namespace {

// Normalises `count` pixels; out moves by one pixel forwards or backwards. kChannels 0: any number.
template <int64_t kChannels>
void normalise_run(const uint8_t* pixels, int64_t count, int64_t any_channels, const float* table, bool backwards,
                   float* out) {
  const int64_t channels = kChannels != 0 ? kChannels : any_channels;
  const int64_t step = backwards ? -channels : channels;
  for (int64_t i = 0; i < count; ++i, pixels += channels, out += step) {
    for (int64_t c = 0; c < channels; ++c) out[c] = table[c * 256 + pixels[c]];
  }
}

void pad_run(int64_t count, int64_t channels, const float* table, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < channels; ++c) *out++ = table[c * 256];
  }
}

}  // namespace

Augment::Augment(const DatasetInfo& info, const AugmentOptions& options)
    : height_(info.height),
      width_(info.width),
      channels_(info.channels),
      pad_(options.pad_crop),
      flip_(options.horizontal_flip) {
  const int64_t max_pad = std::min(height_, width_);
  if (pad_ < 0 || pad_ > max_pad) {
    fail_user("[loader] pad_crop: expected 0..{} for images of {} x {}, got {}", max_pad, height_, width_, pad_);
  }
  const std::vector<double>& mean = options.mean.empty() ? info.mean : options.mean;
  const std::vector<double>& std = options.std.empty() ? info.std : options.std;
  for (const auto& [key, values] : {std::pair{"mean", &mean}, std::pair{"std", &std}}) {
    if (static_cast<int64_t>(values->size()) != channels_) {
      fail_user("[loader] {}: expected one value for each of the {} channels of {}, got {}", key, channels_, info.name,
                values->size());
    }
  }
  for (size_t c = 0; c < mean.size(); ++c) {
    if (!std::isfinite(mean[c])) fail_user("[loader] mean: expected finite values, got {}", mean[c]);
    if (!std::isfinite(std[c]) || std[c] <= 0) fail_user("[loader] std: expected values above 0, got {}", std[c]);
    for (int value = 0; value < 256; ++value) {
      table_.push_back(static_cast<float>((value / 255.0 - mean[c]) / std[c]));
    }
  }
}

Placement Augment::random_placement(uint64_t seed, int64_t epoch, int64_t index) const {
  RngStream random(make_rng_key(seed, "data:augment", static_cast<uint64_t>(epoch), static_cast<uint32_t>(index >> 16),
                                static_cast<uint32_t>(index & 0xffff)));
  const uint32_t places = static_cast<uint32_t>(2 * pad_ + 1);
  Placement placement;
  placement.top = random.below(places);
  placement.left = random.below(places);
  placement.flip = random.below(2) == 1 && flip_;
  return placement;
}

void Augment::apply(const uint8_t* pixels, const Placement& placement, float* out) const {
  const int64_t row_size = width_ * channels_;
  // The crop's columns first..last-1 show the image's columns from first + shift on; the others are padding.
  const int64_t shift = placement.left - pad_;
  const int64_t first = std::max<int64_t>(0, -shift), last = std::min(width_, width_ - shift);
  const int64_t before = placement.flip ? width_ - last : first;  // padding at the left of the output
  const int64_t shown = last - first;
  for (int64_t y = 0; y < height_; ++y, out += row_size) {
    const int64_t source = y + placement.top - pad_;
    if (source < 0 || source >= height_) {
      pad_run(width_, channels_, table_.data(), out);
      continue;
    }
    pad_run(before, channels_, table_.data(), out);
    pad_run(width_ - before - shown, channels_, table_.data(), out + (before + shown) * channels_);
    if (shown == 0) continue;
    const uint8_t* from = pixels + (source * width_ + first + shift) * channels_;
    float* to = out + (placement.flip ? before + shown - 1 : before) * channels_;
    const auto normalise = channels_ == 1 ? normalise_run<1> : channels_ == 3 ? normalise_run<3> : normalise_run<0>;
    normalise(from, shown, channels_, table_.data(), placement.flip, to);
  }
}

}  // namespace luq
