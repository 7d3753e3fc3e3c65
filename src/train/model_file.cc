#include "luq/train/model_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/train/checkpoint.h"
#include "src/train/checksum.h"
#include "src/train/dataset_json.h"
#include "src/train/packed_file.h"
#include "src/train/packing.h"
#include "src/train/state_slots.h"

namespace luq {

ExperimentConfig ModelFile::stored_config() const {
  if (config.empty()) fail_user("[model] {}: carries no configuration (it is a plain state_dict)", file);
  return parse_experiment(config, file, {});
}

DatasetInfo ModelFile::stored_data() const {
  if (data.empty()) fail_user("[model] {}: does not say what its images were (it is a plain state_dict)", file);
  return parse_dataset_info(data, file);
}

namespace {

constexpr const char* codes_suffix = ".codes";
constexpr const char* scale_suffix = ".scale";

struct StoredCodes {
  Shape shape;
  Format format;
};

StoredCodes describe_codes(const SafeTensors& content, const std::string& name, const std::string& file) {
  const auto found = content.metadata.find(name);
  if (found == content.metadata.end()) fail_user("[model] {}: metadata '{}' is missing", file, name);
  try {
    const nlohmann::json json = nlohmann::json::parse(found->second);
    const std::string format = json.at("format");
    std::vector<std::string> names;
    for (const Format known : all_formats()) {
      if (!known.quantized()) continue;
      if (format == to_string(known)) return {Shape(json.at("shape").get<std::vector<int64_t>>()), known};
      names.emplace_back(to_string(known));
    }
    fail_user("[model] {}: {}: expected one of {}, got '{}'{}", file, name, fmt::join(names, ", "), format,
              did_you_mean(format, names));
  } catch (const nlohmann::json::exception& error) {
    fail_user("[model] {}: metadata '{}' does not describe codes ({})", file, name, error.what());
  }
}

ModelFile unpack(const std::string& file, const SafeTensors& content) {
  ModelFile result{.file = file,
                   .kind = ModelFile::Kind::packed,
                   .state = {},
                   .is_ema = false,
                   .packed_scales = {},
                   .config = content.metadata.at("config"),
                   .data = content.metadata.at("data")};
  for (const auto& [name, tensor] : content.tensors) {
    if (!name.ends_with(codes_suffix)) {
      const std::string of = name.substr(0, name.rfind('.'));
      if (!name.ends_with(scale_suffix) || content.find(of + codes_suffix) == nullptr) {
        result.state.tensors.emplace_back(name, tensor);
      }
      continue;
    }
    const std::string weight = name.substr(0, name.rfind('.'));
    const Tensor* scale = content.find(weight + scale_suffix);
    if (scale == nullptr || scale->dtype() != DType::float32 || scale->numel() != 1) {
      fail_user("[model] {}: {}{}: expected one float32", file, weight, scale_suffix);
    }
    const auto [shape, format] = describe_codes(content, name, file);
    if (tensor.dtype() != DType::uint8 || tensor.numel() != packed_row_bytes(shape.numel())) {
      fail_user("[model] {}: {}: expected {} bytes of codes for shape {}, got {}", file, name,
                packed_row_bytes(shape.numel()), to_string(shape), tensor.numel());
    }
    const float factor = scale->data<float>()[0];
    result.state.tensors.emplace_back(weight, unpack_flat(tensor, shape, format, factor));
    result.packed_scales[weight] = factor;
  }
  return result;
}

}  // namespace

const char* to_string(ModelFile::Kind kind) {
  switch (kind) {
    case ModelFile::Kind::checkpoint:
      return "a checkpoint";
    case ModelFile::Kind::packed:
      return "a packed file";
    case ModelFile::Kind::state_dict:
      break;
  }
  return "a state_dict";
}

ModelFile read_model_file(const std::string& file, CheckpointWeights weights) {
  SafeTensors content = load_checked(file);
  if (is_packed(content)) return unpack(file, content);
  if (!is_checkpoint(content)) {
    ModelFile plain;
    plain.file = file;
    plain.state = std::move(content);
    return plain;
  }
  const Checkpoint checkpoint = read_checkpoint(file, std::move(content));
  StoredModel stored = model_of(checkpoint, weights);
  return {.file = file,
          .kind = ModelFile::Kind::checkpoint,
          .state = std::move(stored.state),
          .is_ema = stored.is_ema,
          .packed_scales = {},
          .config = checkpoint.state.config,
          .data = checkpoint.state.data};
}

void use_packed_codes(const ModelFile& model_file, Module& model, const QuantPlan& plan, const Kernels& kernels) {
  for (Parameter* parameter : model.parameters()) {
    const auto found = model_file.packed_scales.find(parameter->name);
    if (found == model_file.packed_scales.end()) continue;
    const QuantSpec& spec = plan[parameter->name.substr(0, parameter->name.rfind('.'))].weights;
    if (!spec.format.quantized()) continue;
    // Multiples of the scale have one nearest code.
    QTensor codes = quantize(kernels, parameter->var.value(), {spec.format, spec.scale_method, Rounding::nearest},
                             false, {}, parameter->name, found->second);
    parameter->var.quant_cache().entries = {{spec, std::nullopt, std::move(codes)}};
  }
}

namespace {

// A value that no training gives, by which every result would be NaN or infinite: the first, and how many.
void check_values(const std::string& file, const std::string& name, const Tensor& tensor) {
  if (tensor.dtype() != DType::float32) return;
  const bool from_zero = name.ends_with(".running_var") || is_activation_scale(name);
  const auto is_fine = [from_zero](float value) { return std::isfinite(value) && !(from_zero && value < 0); };
  const float* values = tensor.data<float>();
  const float* end = values + tensor.numel();
  const float* first = std::find_if_not(values, end, is_fine);
  if (first == end) return;
  fail_user(
      "[model] {}: {}: expected finite values{}, got {} at element {} ({} of {} are such); the file is of no use: take "
      "another one",
      file, name, from_zero ? " of 0 or more" : "", *first, first - values,
      tensor.numel() - std::count_if(first, end, is_fine) - (first - values), tensor.numel());
}

}  // namespace

LoadedState load_model_file(const ModelFile& model_file, Module& model, bool replace_head) {
  if (model_file.kind == ModelFile::Kind::checkpoint) check_column_order(model_file.state, model_file.file, model);
  LoadedState loaded =
      load_state_dict(model, model_file.state, {.source = model_file.file, .replace_head = replace_head});
  for (const auto& [name, tensor] : model_file.state.tensors) {
    if (loaded.replaced_head.empty() || !name.starts_with(loaded.replaced_head + ".")) {
      check_values(model_file.file, name, tensor);
    }
  }
  return loaded;
}

}  // namespace luq
