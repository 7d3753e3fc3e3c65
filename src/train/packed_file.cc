#include "src/train/packed_file.h"

#include <nlohmann/json.hpp>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/nn/stored_layout.h"
#include "src/train/checksum.h"
#include "src/train/dataset_json.h"
#include "src/train/packing.h"
#include "src/train/state_slots.h"

namespace luq {
namespace {

constexpr const char* format_name = "luqtrain packed 2";
constexpr const char* format_without_checksum = "luqtrain packed 1";

// The codes that the layer multiplies in evaluation.
QTensor codes_of(const InferenceModel& model, const Parameter& parameter, const std::string& layer,
                 const QuantSpec& spec) {
  for (const QuantCache::Entry& entry : parameter.var.quant_cache().entries) {
    if (entry.spec == spec) return entry.codes;
  }
  return quantize(*model.kernels, parameter.var.value(), spec, false, model.context().rng(layer, "weights"),
                  "weight of layer " + layer);
}

}  // namespace

bool is_packed(const SafeTensors& content) {
  const auto has = [&content](const char* key) { return content.metadata.contains(key); };
  if (!has("format") || !has("config") || !has("data")) return false;
  const std::string& format = content.metadata.at("format");
  return format == format_without_checksum || (format == format_name && has("crc32"));
}

PackedModel pack(const InferenceModel& model) {
  PackedModel packed;
  for (const Slot& slot : model_slots(*model.model)) {
    const std::string layer = slot.name.substr(0, slot.name.rfind('.'));
    const QuantSpec& spec = model.plan[layer].weights;
    if (slot.parameter == nullptr || slot.parameter->role != ParameterRole::weight || !spec.format.quantized()) {
      packed.content.tensors.emplace_back(slot.name, stored_value(slot));
      continue;
    }
    const QTensor codes = codes_of(model, *slot.parameter, layer, spec);
    const Tensor numbers = to_stored_layout(*slot.parameter, code_numbers(codes));
    const std::string name = slot.name + ".codes";
    packed.content.tensors.emplace_back(name, pack_flat(numbers));
    packed.quantized_bytes += packed.content.tensors.back().second.bytes();
    packed.content.tensors.emplace_back(slot.name + ".scale", Tensor::full({1}, codes.scale));
    packed.quantized_bytes += packed.content.tensors.back().second.bytes();
    packed.float_bytes += slot.value.bytes();
    packed.content.metadata[name] =
        nlohmann::json{{"shape", std::vector<int64_t>(numbers.shape().begin(), numbers.shape().end())},
                       {"format", to_string(codes.format)},
                       {"packing", "flat row-major, two codes a byte, low nibble first"}}
            .dump();
  }
  if (packed.float_bytes == 0) {
    fail_user(
        "[export] {}: no layer of it has 4-bit weights, so there is nothing to pack; --format safetensors writes "
        "the float32 weights",
        model.file);
  }
  packed.content.metadata["format"] = format_name;
  packed.content.metadata["config"] = to_yaml(model.config);
  packed.content.metadata["data"] = to_json(model.data);
  add_checksum(packed.content);
  return packed;
}

}  // namespace luq
