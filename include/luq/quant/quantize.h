// Quantising float tensors to packed 4-bit codes (docs/numerics.md) and back.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "luq/core/rng.h"
#include "luq/core/statistics.h"
#include "luq/quant/qtensor.h"

namespace luq {

struct Kernels;

// How one operand is quantised. format float32: not at all.
struct QuantSpec {
  Format format = Format::float32;  // becomes format.of(true) where the tensor cannot be negative: int4 uint4
  ScaleMethod scale_method = ScaleMethod::sawb;
  Rounding rounding = Rounding::nearest;
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

// Says "expected ..., got ..." where the format has no such scale method, or is not registered; "" for a spec that can
// be used. Every part that takes a spec from outside asks this: the configuration, an op, a quantiser.
std::string problem_of(const QuantSpec& spec);

// The scale `quantize` would use: the clip of the method over the grid's highest value, so clip/7 or clip/15 for the
// integer formats, alpha = max|x|/64 for fp4 (0 for an all-zero tensor or one too small to invert). x float32 of any
// shape. `where` names the layer and operand in errors. Throws UserError `[quantize] <where>: ...` for a spec that
// cannot be used, Error when x holds NaN or infinity, or where the scale would be infinite.
// known: the statistics of x where they have been taken already.
float quantization_scale(const Kernels& kernels, const Tensor& x, const QuantSpec& spec, bool non_negative,
                         std::string_view where, const std::optional<Stats>& known = std::nullopt);

// The device takes the statistics of many tensors at once, and gains from it.
bool takes_statistics_together(const Kernels& kernels);
// These, of tensors of float32, by their memory. Throws Error where they are not taken together.
std::unordered_map<const void*, Stats> statistics_of(const Kernels& kernels, const std::vector<Tensor>& tensors);

// Codes of x, with a plane for each of the format's. scale: use this one (running activation scales) in place of the
// tensor's own, values beyond clip; finite, not negative, and 0 gives codes 0. key: random bits of stochastic rounding.
// Throws like quantization_scale.
QTensor quantize(const Kernels& kernels, const Tensor& x, const QuantSpec& spec, bool non_negative, const RngKey& key,
                 std::string_view where, std::optional<float> scale = std::nullopt,
                 const std::optional<Stats>& known = std::nullopt);

// The sum of the planes, float32 of q.shape.
Tensor dequantize(const Kernels& kernels, const QTensor& q);

}  // namespace luq
