#include "luq/train/quantize_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/core/output_file.h"
#include "luq/core/safetensors.h"
#include "luq/quant/quantize.h"
#include "src/train/checksum.h"

namespace luq {
namespace {

struct NamedFormat {
  const char* name;
  QuantSpec spec;
  bool non_negative;
};

constexpr NamedFormat kFormats[] = {
    {"int4_sawb", {Format::int4, ScaleMethod::sawb, Rounding::nearest}, false},
    {"uint4_sawb", {Format::int4, ScaleMethod::sawb, Rounding::nearest}, true},
    {"fp4_luq", {Format::fp4, ScaleMethod::max, Rounding::stochastic}, false},
};

const NamedFormat& parse_format(const std::string& name) {
  std::vector<std::string> names;
  for (const NamedFormat& format : kFormats) {
    if (name == format.name) return format;
    names.emplace_back(format.name);
  }
  fail_user("[quantize] --format: expected one of {}, got '{}'{}", fmt::join(names, ", "), name,
            did_you_mean(name, names));
}

void check_values(const std::string& file, const std::string& name, const Tensor& x, bool non_negative) {
  const float* values = x.data<float>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    if (!std::isfinite(values[i])) {
      fail_user("[quantize] {}: tensor {}: expected finite values, got {} at element {}", file, name, values[i], i);
    }
    if (non_negative && values[i] < 0) {
      fail_user("[quantize] {}: tensor {}: uint4_sawb expects no negative values, got {} at element {}; use int4_sawb",
                file, name, values[i], i);
    }
  }
}

std::string report(const std::string& name, const Tensor& x, const QTensor& q, const Tensor& dequantized) {
  std::array<int64_t, 16> histogram{};
  const uint8_t* codes = q.planes[0].codes.data<uint8_t>();
  const float* in = x.data<float>();
  const float* out = dequantized.data<float>();
  int64_t lost = 0, nonzero = 0;
  double signal = 0, noise = 0;
  // Integers clip what lies beyond them; the other grids reach to the largest magnitude, and what lies below their
  // first one may become 0.
  const Grid& grid = q.format.grid();
  const bool clips = grid.kind == GridKind::uniform;
  const float low = q.scale * static_cast<float>(grid.low), high = q.scale * static_cast<float>(grid.high);
  for (int64_t i = 0; i < x.numel(); ++i) {
    ++histogram[(codes[i / 2] >> (i % 2 * 4)) & 15];
    nonzero += in[i] != 0;
    lost += clips ? in[i] < low || in[i] > high : in[i] != 0 && out[i] == 0;
    const double error = static_cast<double>(out[i]) - static_cast<double>(in[i]);
    signal += static_cast<double>(in[i]) * static_cast<double>(in[i]);
    noise += error * error;
  }
  const double rate = nonzero == 0 ? 0.0 : 100.0 * static_cast<double>(lost) / static_cast<double>(nonzero);
  const std::string sqnr = signal == 0  ? "- (all zero)"
                           : noise == 0 ? "infinite"
                                        : fmt::format("{:.2f} dB", 10 * std::log10(signal / noise));
  return fmt::format("{} {} {}\n  scale {}  {} {:.3f} % of the non-zero values  SQNR {}\n  codes 0..15: {}\n", name,
                     to_string(x.shape()), to_string(q.format), q.scale, clips ? "clipped" : "underflow", rate, sqnr,
                     fmt::join(histogram, " "));
}

}  // namespace

std::string quantize_file(const QuantizeFileOptions& options) {
  const NamedFormat& format = parse_format(options.format);
  if (options.sample > 0xffff) fail_user("[quantize] --sample: expected 0..65535, got {}", options.sample);
  const Device device = parse_device(options.device);
  const Kernels& kernels = kernels_for(device);
  const SafeTensors input = load_checked(options.input);
  check_other_file("quantize", "--output", options.input, options.output);
  check_output("quantize", options.output);
  SafeTensors output;
  std::string text;
  for (const auto& [name, x] : input.tensors) {
    if (x.dtype() != DType::float32) {
      text += fmt::format("{}: left out, {} is no float type\n", name, to_string(x.dtype()));
      continue;
    }
    check_values(options.input, name, x, format.non_negative);
    // One row, so that codes are flat and random bits are counted along the flat tensor.
    const Tensor flat = x.reshape({x.numel()}).to(device);
    QTensor q = quantize(kernels, flat, format.spec, format.non_negative,
                         make_rng_key(options.seed, name, options.step, 0, options.sample), "tensor " + name);
    const Tensor dequantized = dequantize(kernels, q).to({});
    q.planes[0].codes = q.planes[0].codes.to({});
    text += report(name, x, q, dequantized);
    output.tensors.emplace_back(name + ".codes", q.planes[0].codes);
    output.tensors.emplace_back(name + ".scale", Tensor::full({1}, q.scale));
    output.tensors.emplace_back(name + ".dequantized", dequantized.reshape(x.shape()));
    output.metadata[name + ".codes"] =
        nlohmann::json{{"shape", std::vector<int64_t>(x.shape().begin(), x.shape().end())},
                       {"format", to_string(q.format)},
                       {"packing", "flat row-major, two codes a byte, low nibble first"}}
            .dump();
  }
  if (output.tensors.empty()) fail_user("[quantize] {}: there is no float tensor in it", options.input);
  output.metadata["format"] = options.format;
  output.metadata["seed"] = std::to_string(options.seed);
  output.metadata["step"] = std::to_string(options.step);
  output.metadata["sample"] = std::to_string(options.sample);
  save_safetensors(options.output, output);
  return text;
}

}  // namespace luq
