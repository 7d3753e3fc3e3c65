#include "src/train/run_start.h"

#include <unistd.h>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/threads.h"
#include "luq/data/image.h"

namespace luq {

void say_parts(RunLog& log, const ExperimentConfig& config, const ExperimentParts& parts, const std::string& weights) {
  log.debug(fmt::format("process  {}; without the key threads it has {}", ::getpid(), describe_default_threads()));
  for (const std::string& warning : keys_without_effect(config)) log.warning(warning);
  const DatasetInfo& info = parts.train_set->info();
  int64_t parameters = 0, quantized = 0;
  for (const Parameter* parameter : parts.model->parameters()) parameters += parameter->var.value().numel();
  const std::vector<MatmulLayer> layers = parts.model->matmul_layers();
  for (const MatmulLayer& layer : layers) quantized += parts.plan[layer.name].quantized() ? 1 : 0;
  const auto spec = [](const QuantSpec& operand) {
    if (!operand.format.quantized()) return std::string("float32");
    return fmt::format("{} {} {}", to_string(operand.format), to_string(operand.scale_method),
                       to_string(operand.rounding));
  };
  const LayerQuant& quant = config.quantization.spec;
  std::string kernels;
  for (const auto& [entry, implementation] : describe(*parts.kernels)) {
    if (entry == "qconv_forward" || entry == "encode" || entry == "conv_forward") {
      kernels += fmt::format("{}{} {}", kernels.empty() ? "" : ", ", entry, implementation);
    }
  }
  log.info(fmt::format("run      {}", config.run.directory));
  log.info(fmt::format("model    {}, {} parameters, {} of {} convolutions and linear layers in 4 bits",
                       config.model.name, format_count(parameters), quantized, layers.size()));
  if (!weights.empty()) log.info("weights  " + weights);
  log.info(fmt::format("data     {}, {} training and {} test images of {}x{}x{}, {} classes", info.name,
                       format_count(info.images), format_count(parts.test_set->info().images), parts.image[0],
                       parts.image[1], parts.image[2], info.num_classes));
  for (const std::string& text : warnings_of({&info, &parts.test_set->info()})) log.warning(text);
  if (info.encoded) log.info(fmt::format("images   decoded by {}", image_library_versions()));
  if (quantized > 0) {
    log.info(fmt::format("formats  weights {}, activations {}, gradients {}; elsewhere {}", spec(quant.weights),
                         spec(quant.activations), spec(quant.gradient_for_data), config.precision));
  } else {
    log.info(fmt::format("formats  {}", config.precision));
  }
  log.info(fmt::format("kernels  {}; {} thread{}", kernels, parts.threads, parts.threads == 1 ? "" : "s"));
  if (parts.device.type == DeviceType::cuda) log.info("device   " + describe_cuda());
}

}  // namespace luq
