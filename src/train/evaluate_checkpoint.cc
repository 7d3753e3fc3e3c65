#include "luq/core/error.h"
#include "luq/train/model_file.h"
#include "luq/train/trainer.h"
#include "src/train/dataset_json.h"
#include "src/train/experiment_parts.h"

namespace luq {
namespace {

// Of what the evaluation is; options.model asks for a float32 model on class folders under ImageNet's preprocessing.
ExperimentConfig evaluated_experiment(const EvaluationOptions& options, const ModelFile& model_file) {
  ExperimentConfig config;
  if (options.config) {
    config = *options.config;
  } else if (!model_file.config.empty()) {
    config = model_file.stored_config();
  } else if (!options.model.empty() && !options.data.empty()) {
    config.model.name = options.model;
    config.data.name = "image_folder";
    config.eval.batch_size = 32;
  } else {
    fail_user(
        "[eval] {}: is a state_dict without a configuration; say with --config what model and data it is for, or with "
        "--model NAME --data FOLDER (float32, ImageNet's preprocessing)",
        options.checkpoint);
  }
  if (!options.model.empty() && options.model != config.model.name) {
    fail_user("[eval] --model {}: {} says that the model is {}", options.model,
              options.config ? "the configuration" : options.checkpoint, config.model.name);
  }
  if (!options.data.empty()) config.data.path = options.data;
  if (!options.device.empty()) config.device = options.device;
  return config;
}

}  // namespace

CheckpointEval evaluate_checkpoint(const EvaluationOptions& options) {
  const ModelFile model_file = read_model_file(options.checkpoint, options.weights);
  const ExperimentConfig config = evaluated_experiment(options, model_file);
  ExperimentParts parts = make_parts(config, false);
  if (!model_file.data.empty()) {
    const std::string difference = differing_classes(model_file.stored_data(), parts.test_set->info());
    if (!difference.empty()) {
      fail_user("[eval] {}: the model was trained on other classes than these images have: {}", options.checkpoint,
                difference);
    }
  }
  load_model_file(model_file, *parts.model);
  use_packed_codes(model_file, *parts.model, parts.plan, *parts.kernels);
  const std::vector<std::string> without_scale = layers_without_activation_scale(*parts.model, parts.plan);
  std::string warning;
  if (!without_scale.empty()) {
    warning = fmt::format(
        "{} has no activation scales for {} quantised layers ({}, ...): each batch's own were used, so the result "
        "depends on eval.batch_size",
        options.checkpoint, without_scale.size(), without_scale.front());
  }
  const EvalResult result = evaluate(config, parts, [] { return true; });
  for (const std::string& text : warnings_of({&parts.test_set->info()}))
    warning += (warning.empty() ? "" : "\n") + text;
  const std::string broken = describe_broken(result);
  if (!broken.empty()) warning += (warning.empty() ? "" : "\n") + broken;
  return {result, model_file.is_ema, warning};
}

}  // namespace luq
