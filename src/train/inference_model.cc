#include "src/train/inference_model.h"

#include <fmt/ranges.h>

#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "src/train/experiment_parts.h"

namespace luq {
namespace {

constexpr int64_t imagenet_classes = 1000;

// The file's extent `dimension` of a layer's weight, or `otherwise` where it has none.
int64_t stored_extent(const SafeTensors& state, const std::string& layer, int64_t dimension, int64_t otherwise) {
  const Tensor* weight = state.find(layer + ".weight");
  return weight != nullptr && weight->shape().rank() > dimension ? weight->size(dimension) : otherwise;
}

}  // namespace

Ctx InferenceModel::context() const { return context_of(config, plan); }

Shape InferenceModel::input_shape() const {
  const Transform transform(data, transform_options(config));
  return {1, transform.height(), transform.width(), transform.channels()};
}

InferenceModel load_inference_model(const std::string& file, const std::string& model, CheckpointWeights weights,
                                    const std::string& device) {
  const ModelFile model_file = read_model_file(file, weights);
  InferenceModel result;
  result.file = file;
  result.is_ema = model_file.is_ema;
  if (!model_file.config.empty()) {
    result.config = model_file.stored_config();
    result.data = model_file.stored_data();
    if (!model.empty() && model != result.config.model.name) {
      fail_user("[model] {}: is of the model {}, not {}", file, result.config.model.name, model);
    }
  } else {
    if (model.empty()) {
      fail_user("[model] {}: is a state_dict, which does not say of what model: give --model, one of {}", file,
                fmt::join(model_names(), ", "));
    }
    result.config.model.name = model;
    result.config.data.name = "imagenet";
    result.data = {.name = "imagenet",
                   .images = 0,
                   .encoded = true,
                   .height = 0,
                   .width = 0,
                   .channels = 3,
                   .num_classes = imagenet_classes,
                   .mean = {},
                   .std = {},
                   .class_names = {},
                   .unused = {},
                   .notes = {}};
  }
  if (!device.empty()) result.config.device = device;
  const Ctx ctx = context_of(result.config, result.plan);
  result.kernels = ctx.kernels;
  result.device = ctx.device;
  result.dtype = activation_type(result.config);
  ModelOptions options{.in_channels = result.data.channels,
                       .num_classes = result.data.num_classes,
                       .image_size = result.input_shape()[1]};
  result.model = build_model(result.config.model.name, options);
  const std::vector<MatmulLayer> layers = result.model->matmul_layers();
  const ModelOptions stored{.in_channels = stored_extent(model_file.state, first_conv(layers), 1, options.in_channels),
                            .num_classes = stored_extent(model_file.state, last_linear(layers), 0, options.num_classes),
                            .image_size = options.image_size};
  if (stored.in_channels != options.in_channels || stored.num_classes != options.num_classes) {
    result.model = build_model(result.config.model.name, stored);
  }
  if (stored.in_channels != result.data.channels) {
    fail_user("[model] {}: its first layer takes {} channels, the images have {}", file, stored.in_channels,
              result.data.channels);
  }
  result.num_classes = stored.num_classes;
  load_model_file(model_file, *result.model);
  result.model->to(result.device);
  result.plan = QuantPlan(result.config.quantization, result.model->matmul_layers());
  use_packed_codes(model_file, *result.model, result.plan, *result.kernels);
  return result;
}

}  // namespace luq
