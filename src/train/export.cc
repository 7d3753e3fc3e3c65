#include "luq/train/export.h"

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "src/train/experiment_parts.h"
#include "src/train/inference_model.h"
#include "src/train/onnx_export.h"
#include "src/train/packed_file.h"
#include "src/train/run_log.h"

namespace luq {
namespace {

std::string written(const std::string& file, const std::string& what, uint64_t bytes) {
  return fmt::format("{}: {}, {} bytes\n", file, what, format_count(static_cast<int64_t>(bytes)));
}

std::string export_safetensors(const InferenceModel& model, const std::string& output) {
  const SafeTensors state = to_state_dict(*model.model);
  const uint64_t bytes = save_safetensors(output, state);
  return written(output,
                 fmt::format("state_dict of {}, {} tensors in float32", model.config.model.name, state.tensors.size()),
                 bytes);
}

std::string export_packed(const InferenceModel& model, const std::string& output) {
  const PackedModel packed = pack(model);
  int64_t float_bytes = 0;
  for (const Parameter* parameter : model.model->parameters()) float_bytes += parameter->var.value().bytes();
  const uint64_t bytes = save_safetensors(output, packed.content);
  const auto share = [](int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  return written(output, "packed " + model.config.model.name, bytes) +
         fmt::format(
             "quantised layers' weights: {} of {} bytes ({:.4f} of float32)\n"
             "whole file: {:.4f} of the parameters in float32 ({} bytes)\n",
             format_count(packed.quantized_bytes), format_count(packed.float_bytes),
             share(packed.quantized_bytes, packed.float_bytes), share(static_cast<int64_t>(bytes), float_bytes),
             format_count(float_bytes));
}

std::string export_onnx(const InferenceModel& model, const std::string& output) {
  const std::vector<std::string> without_scale = layers_without_activation_scale(*model.model, model.plan);
  if (!without_scale.empty()) {
    fail_user(
        "[export] {}: {} quantised layers have no activation scale ({}, ...), which a graph needs; train the model "
        "for a step or more",
        model.file, without_scale.size(), without_scale.front());
  }
  std::vector<TraceNode> trace;
  Ctx ctx = model.context();
  ctx.trace = &trace;
  const Var input(Tensor::zeros(model.input_shape()));
  const Var logits = model.model->forward(ctx, input);
  const std::string onnx = to_onnx(trace, *model.model, input, logits, model.config.model.name);
  write_output("export", output, onnx);
  int64_t quantized = 0;
  for (const TraceNode& node : trace) {
    const TraceNode::Operand* weight = node.find("weight");
    quantized += weight != nullptr && weight->codes.defined() ? 1 : 0;
  }
  return written(output,
                 fmt::format("ONNX model of {}, opset 21, {} layers in 4 bits", model.config.model.name, quantized),
                 onnx.size());
}

}  // namespace

std::string export_model(const ExportOptions& options) {
  const auto write = options.format == "safetensors" ? export_safetensors
                     : options.format == "packed"    ? export_packed
                     : options.format == "onnx"      ? export_onnx
                                                     : nullptr;
  if (write == nullptr) {
    fail_user("[export] --format: expected safetensors, onnx or packed, got '{}'", options.format);
  }
  check_other_file("export", "--output", options.checkpoint, options.output);
  check_output("export", options.output);
  // On the CPU: there is nothing to gain on a device, and the file says nothing of one.
  return write(load_inference_model(options.checkpoint, options.model, options.weights, "cpu"), options.output);
}

}  // namespace luq
