#include "src/data/augment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

#include "src/data/random.h"

namespace luq {
namespace {

using Table = std::array<uint8_t, 256>;

// ---- PIL's arithmetic
// ------------------------------------------------------------------------------------------------

// Image.blend: first + factor * (second - first), cut off below the point.
uint8_t blend(int first, int second, float factor) {
  const float value = static_cast<float>(first) + factor * static_cast<float>(second - first);
  return static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f));
}

// convert("L").
uint8_t luminance(const uint8_t* pixel) {
  return static_cast<uint8_t>((pixel[0] * 19595u + pixel[1] * 38470u + pixel[2] * 7471u + 0x8000u) >> 16);
}

void look_up(const Pixels& image, const std::array<Table, 3>& tables) {
  for (int64_t i = 0; i < image.size(); i += 3) {
    for (size_t c = 0; c < 3; ++c)
      image.data[i + static_cast<int64_t>(c)] = tables[c][image.data[i + static_cast<int64_t>(c)]];
  }
}

template <typename Value>
void map_values(const Pixels& image, Value value) {
  Table table;
  for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = value(i);
  look_up(image, {table, table, table});
}

std::array<std::array<int64_t, 256>, 3> histograms(const Pixels& image) {
  std::array<std::array<int64_t, 256>, 3> counts{};
  for (int64_t i = 0; i < image.size(); ++i) ++counts[static_cast<size_t>(i % 3)][image.data[i]];
  return counts;
}

// ImageOps.autocontrast without cutoff.
Table autocontrast_table(const std::array<int64_t, 256>& histogram) {
  int low = 0, high = 255;
  while (low < 255 && histogram[static_cast<size_t>(low)] == 0) ++low;
  while (high > 0 && histogram[static_cast<size_t>(high)] == 0) --high;
  Table table;
  for (int i = 0; i < 256; ++i) {
    if (high <= low) {
      table[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
      continue;
    }
    const double scale = 255.0 / (high - low), offset = -low * scale;
    table[static_cast<size_t>(i)] = static_cast<uint8_t>(std::clamp(static_cast<int>(i * scale + offset), 0, 255));
  }
  return table;
}

// ImageOps.equalize.
Table equalize_table(const std::array<int64_t, 256>& histogram) {
  int64_t sum = 0, last = 0, used = 0;
  for (const int64_t count : histogram) {
    sum += count;
    if (count > 0) {
      last = count;
      ++used;
    }
  }
  const int64_t step = (sum - last) / 255;
  int64_t n = step / 2;
  Table table;
  for (size_t i = 0; i < 256; ++i) {
    table[i] =
        static_cast<uint8_t>(used <= 1 || step == 0 ? static_cast<int64_t>(i) : std::min<int64_t>(n / step, 255));
    n += histogram[i];
  }
  return table;
}

// convert("HSV") and back, with the hue moved by `turn` of 256 steps in between.
void turn_hue(uint8_t* pixel, uint8_t turn) {
  const int r = pixel[0], g = pixel[1], b = pixel[2];
  const int high = std::max({r, g, b}), low = std::min({r, g, b});
  if (high == low) return;  // grey
  const float range = static_cast<float>(high - low);
  const float rc = static_cast<float>(high - r) / range, gc = static_cast<float>(high - g) / range;
  const float bc = static_cast<float>(high - b) / range;
  float h = 0;
  if (r == high) {
    h = bc - gc;
  } else if (g == high) {
    h = static_cast<float>(2.0 + static_cast<double>(rc) - static_cast<double>(bc));
  } else {
    h = static_cast<float>(4.0 + static_cast<double>(gc) - static_cast<double>(rc));
  }
  h = static_cast<float>(std::fmod(static_cast<double>(h) / 6.0 + 1.0, 1.0));
  const auto hue = static_cast<uint8_t>(static_cast<uint8_t>(static_cast<int>(static_cast<double>(h) * 255.0)) + turn);
  const int saturation = static_cast<int>(static_cast<double>(range / static_cast<float>(high)) * 255.0);
  if (saturation == 0) {
    pixel[0] = pixel[1] = pixel[2] = static_cast<uint8_t>(high);
    return;
  }
  const double position = hue * 6.0 / 255.0;
  const int sector = static_cast<int>(std::floor(position));
  const auto f = static_cast<double>(static_cast<float>(position - sector));
  const auto s = static_cast<double>(static_cast<float>(saturation / 255.0));
  const auto level = [high](double part) {
    return static_cast<uint8_t>(std::clamp(static_cast<int>(std::round(high * part)), 0, 255));
  };
  const uint8_t v = static_cast<uint8_t>(high), p = level(1.0 - s), q = level(1.0 - s * f),
                t = level(1.0 - s * (1.0 - f));
  const uint8_t colors[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
  std::memcpy(pixel, colors[sector % 6], 3);
}

// ---- Geometry
// --------------------------------------------------------------------------------------------------------

// Image.transform(AFFINE, NEAREST): output (x, y) shows input (a x + b y + c, d x + e y + f) of pixels' centres, in
// fixed point of 16 bits.
void affine(const Pixels& image, const std::array<double, 6>& m, std::vector<uint8_t>& scratch) {
  scratch.assign(image.data, image.data + image.size());
  const auto fixed = [](double value) { return static_cast<int64_t>(std::floor(value * 65536.0 + 0.5)); };
  const int64_t step_x = fixed(m[0]), step_y = fixed(m[3]), row_x = fixed(m[1]), row_y = fixed(m[4]);
  int64_t first_x = fixed(m[2] + m[0] * 0.5 + m[1] * 0.5), first_y = fixed(m[5] + m[3] * 0.5 + m[4] * 0.5);
  uint8_t* out = image.data;
  for (int64_t y = 0; y < image.height; ++y, first_x += row_x, first_y += row_y) {
    int64_t at_x = first_x, at_y = first_y;
    for (int64_t x = 0; x < image.width; ++x, out += 3, at_x += step_x, at_y += step_y) {
      const int64_t column = at_x >> 16, row = at_y >> 16;
      if (column >= 0 && column < image.width && row >= 0 && row < image.height) {
        std::memcpy(out, scratch.data() + (row * image.width + column) * 3, 3);
      } else {
        std::memset(out, 0, 3);
      }
    }
  }
}

// Image.rotate about the centre, counter-clockwise.
void rotate(const Pixels& image, double degrees, std::vector<uint8_t>& scratch) {
  const double angle = -degrees * (std::numbers::pi / 180.0);
  const auto rounded = [](double value) { return std::round(value * 1e15) / 1e15; };
  const double cosine = rounded(std::cos(angle)), sine = rounded(std::sin(angle));
  const double cx = static_cast<double>(image.width) / 2.0, cy = static_cast<double>(image.height) / 2.0;
  affine(image, {cosine, sine, cosine * -cx + sine * -cy + cx, -sine, cosine, -sine * -cx + cosine * -cy + cy},
         scratch);
}

// ImageEnhance.Sharpness: away from the image smoothed by a 3 x 3 kernel with weight 5 in the middle and 1 around.
void adjust_sharpness(const Pixels& image, double factor, std::vector<uint8_t>& scratch) {
  scratch.assign(image.data, image.data + image.size());
  const int64_t row_bytes = image.width * 3;
  for (int64_t y = 1; y + 1 < image.height; ++y) {
    const uint8_t* in = scratch.data() + y * row_bytes;
    uint8_t* out = image.data + y * row_bytes;
    for (int64_t i = 3; i + 3 < row_bytes; ++i) {
      int sum = 4 * in[i];
      for (const int64_t row : {-row_bytes, int64_t{0}, row_bytes}) {
        sum += in[i + row - 3] + in[i + row] + in[i + row + 3];
      }
      out[i] = blend((2 * sum + 13) / 26, in[i], static_cast<float>(factor));
    }
  }
}

// torch.linspace(0, end, 31)[bin], in float32 as there.
double linspace(double end, int64_t bin) {
  const auto last = static_cast<float>(end);
  const float step = last / static_cast<float>(kMagnitudeBins - 1);
  return static_cast<double>(bin < kMagnitudeBins / 2 ? step * static_cast<float>(bin)
                                                      : last - step * static_cast<float>(kMagnitudeBins - 1 - bin));
}

double posterize_bits(int64_t bin, double levels) {
  return 8.0 - std::nearbyint(static_cast<double>(bin) / (static_cast<double>(kMagnitudeBins - 1) / levels));
}

AugmentOp draw_op(RngStream& random) { return static_cast<AugmentOp>(random.below(kAugmentOps)); }

// ImageNet's principal colours (Krizhevsky et al. 2012), for values in 0..1.
constexpr double kEigenvalues[3] = {0.2175, 0.0188, 0.0045};
constexpr double kEigenvectors[3][3] = {
    {-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}};

}  // namespace

void adjust_brightness(const Pixels& image, double factor) {
  map_values(image, [f = static_cast<float>(factor)](int value) { return blend(0, value, f); });
}

void adjust_contrast(const Pixels& image, double factor) {
  int64_t sum = 0;
  for (int64_t i = 0; i < image.size(); i += 3) sum += luminance(image.data + i);
  const double pixels = static_cast<double>(image.height * image.width);
  const int mean = static_cast<int>(static_cast<double>(sum) / pixels + 0.5);
  map_values(image, [mean, f = static_cast<float>(factor)](int value) { return blend(mean, value, f); });
}

void adjust_saturation(const Pixels& image, double factor) {
  for (int64_t i = 0; i < image.size(); i += 3) {
    uint8_t* pixel = image.data + i;
    const int grey = luminance(pixel);
    for (int c = 0; c < 3; ++c) pixel[c] = blend(grey, pixel[c], static_cast<float>(factor));
  }
}

void adjust_hue(const Pixels& image, double factor) {
  const auto turn = static_cast<uint8_t>(static_cast<int>(factor * 255));
  for (int64_t i = 0; i < image.size(); i += 3) turn_hue(image.data + i, turn);
}

void mirror(const Pixels& image) {
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t *left = image.data + y * image.width * 3, *right = left + (image.width - 1) * 3;
    for (; left < right; left += 3, right -= 3) std::swap_ranges(left, left + 3, right);
  }
}

void apply(AugmentOp op, double magnitude, const Pixels& image, std::vector<uint8_t>& scratch) {
  switch (op) {
    case AugmentOp::identity:
      return;
    case AugmentOp::shear_x:
      return affine(image, {1, magnitude, 0, 0, 1, 0}, scratch);
    case AugmentOp::shear_y:
      return affine(image, {1, 0, 0, magnitude, 1, 0}, scratch);
    case AugmentOp::translate_x:
      return affine(image, {1, 0, -std::trunc(magnitude), 0, 1, 0}, scratch);
    case AugmentOp::translate_y:
      return affine(image, {1, 0, 0, 0, 1, -std::trunc(magnitude)}, scratch);
    case AugmentOp::rotate:
      return rotate(image, magnitude, scratch);
    case AugmentOp::brightness:
      return adjust_brightness(image, 1 + magnitude);
    case AugmentOp::color:
      return adjust_saturation(image, 1 + magnitude);
    case AugmentOp::contrast:
      return adjust_contrast(image, 1 + magnitude);
    case AugmentOp::sharpness:
      return adjust_sharpness(image, 1 + magnitude, scratch);
    case AugmentOp::posterize: {
      const int mask = ~((1 << (8 - static_cast<int>(magnitude))) - 1);
      return map_values(image, [mask](int value) { return static_cast<uint8_t>(value & mask); });
    }
    case AugmentOp::solarize:
      return map_values(
          image, [magnitude](int value) { return static_cast<uint8_t>(value < magnitude ? value : 255 - value); });
    case AugmentOp::autocontrast:
    case AugmentOp::equalize: {
      const auto counts = histograms(image);
      const auto table = op == AugmentOp::equalize ? equalize_table : autocontrast_table;
      return look_up(image, {table(counts[0]), table(counts[1]), table(counts[2])});
    }
  }
}

bool is_signed(AugmentOp op) { return op >= AugmentOp::shear_x && op <= AugmentOp::sharpness; }

double rand_augment_magnitude(AugmentOp op, int64_t bin, int64_t height, int64_t width) {
  switch (op) {
    case AugmentOp::shear_x:
    case AugmentOp::shear_y:
      return linspace(0.3, bin);
    case AugmentOp::translate_x:
      return linspace(150.0 / 331.0 * static_cast<double>(width), bin);
    case AugmentOp::translate_y:
      return linspace(150.0 / 331.0 * static_cast<double>(height), bin);
    case AugmentOp::rotate:
      return linspace(30, bin);
    case AugmentOp::posterize:
      return posterize_bits(bin, 4);
    case AugmentOp::solarize:
      return linspace(255, kMagnitudeBins - 1 - bin);
    default:
      return is_signed(op) ? linspace(0.9, bin) : 0;
  }
}

double trivial_augment_magnitude(AugmentOp op, int64_t bin) {
  switch (op) {
    case AugmentOp::translate_x:
    case AugmentOp::translate_y:
      return linspace(32, bin);
    case AugmentOp::rotate:
      return linspace(135, bin);
    case AugmentOp::posterize:
      return posterize_bits(bin, 6);
    case AugmentOp::solarize:
      return linspace(255, kMagnitudeBins - 1 - bin);
    default:
      return is_signed(op) ? linspace(0.99, bin) : 0;
  }
}

void rand_augment(const RandAugmentOptions& options, const ImageKey& key, const Pixels& image,
                  std::vector<uint8_t>& scratch) {
  RngStream random = image_stream(key, "data:rand_augment");
  for (int64_t i = 0; i < options.num_ops; ++i) {
    const AugmentOp op = draw_op(random);
    const bool negative = random.below(2) == 1 && is_signed(op);
    const double magnitude = rand_augment_magnitude(op, options.magnitude, image.height, image.width);
    apply(op, negative ? -magnitude : magnitude, image, scratch);
  }
}

void trivial_augment(const ImageKey& key, const Pixels& image, std::vector<uint8_t>& scratch) {
  RngStream random = image_stream(key, "data:trivial_augment");
  const AugmentOp op = draw_op(random);
  const double magnitude = trivial_augment_magnitude(op, random.below(kMagnitudeBins));
  apply(op, random.below(2) == 1 && is_signed(op) ? -magnitude : magnitude, image, scratch);
}

void color_jitter(const ColorJitterOptions& options, const ImageKey& key, const Pixels& image) {
  RngStream random = image_stream(key, "data:color_jitter");
  std::array<int, 4> order = {0, 1, 2, 3};
  for (uint32_t i = 4; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  const auto draw_factor = [&](double extent) { return uniform(random, std::max(0.0, 1 - extent), 1 + extent); };
  const double brightness = draw_factor(options.brightness), contrast = draw_factor(options.contrast);
  const double saturation = draw_factor(options.saturation), hue = uniform(random, -options.hue, options.hue);
  for (const int step : order) {
    if (step == 0 && options.brightness > 0) adjust_brightness(image, brightness);
    if (step == 1 && options.contrast > 0) adjust_contrast(image, contrast);
    if (step == 2 && options.saturation > 0) adjust_saturation(image, saturation);
    if (step == 3 && options.hue > 0) adjust_hue(image, hue);
  }
}

std::array<double, 3> draw_lighting(double deviation, const ImageKey& key) {
  RngStream random = image_stream(key, "data:lighting");
  std::array<double, 3> sum{};
  for (int i = 0; i < 3; ++i) {
    const double weight = deviation * normal(random) * kEigenvalues[i];
    for (size_t c = 0; c < 3; ++c) sum[c] += weight * kEigenvectors[c][i];
  }
  return sum;
}

Region draw_erasing(double probability, int64_t height, int64_t width, const ImageKey& key) {
  RngStream random = image_stream(key, "data:random_erasing");
  if (static_cast<double>(random.uniform()) >= probability) return {};
  const double area = static_cast<double>(height * width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * uniform(random, 0.02, 0.33);
    const double ratio = std::exp(uniform(random, std::log(0.3), std::log(3.3)));
    const int64_t h = round_to_even(std::sqrt(target * ratio)), w = round_to_even(std::sqrt(target / ratio));
    if (h >= height || w >= width) continue;
    const int64_t top = random.below(static_cast<uint32_t>(height - h + 1));
    const int64_t left = random.below(static_cast<uint32_t>(width - w + 1));
    return {top, left, h, w};
  }
  return {};
}

}  // namespace luq
