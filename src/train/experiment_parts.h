// What an experiment is made of, put together from its configuration and checked; shared by training and evaluation.
#pragma once

#include <functional>
#include <memory>

#include "luq/autograd/ctx.h"
#include "luq/config/experiment.h"
#include "luq/data/loader.h"
#include "luq/models/registry.h"
#include "luq/train/trainer.h"

namespace luq {

// The configuration's device and kernels, plan and seed. Throws UserError for an unknown device.
Ctx context_of(const ExperimentConfig& config, const QuantPlan& plan);
// Of the configuration's precision. Throws UserError for an unknown one.
DType activation_type(const ExperimentConfig& config);

struct ExperimentParts {
  const Kernels* kernels = nullptr;
  std::shared_ptr<const Dataset> train_set;  // null when only evaluation was asked for
  std::shared_ptr<const Dataset> test_set;
  std::unique_ptr<Module> model;
  QuantPlan plan;
  Device device;
  int threads = 1;
  DType dtype = DType::float32;  // of activations
  Shape image;                   // (height, width, channels) of what the model takes

  Ctx context(const ExperimentConfig& config) const { return context_of(config, plan); }
  Var input(const Ctx& ctx, const ImageBatch& images) const;  // what the model takes of them
};

std::shared_ptr<const Dataset> open_split(const ExperimentConfig& config, Split split);

// Opens the data, builds the model and its quantisation plan, sets the number of threads. Throws UserError for what the
// configuration gets wrong.
ExperimentParts make_parts(const ExperimentConfig& config, bool with_training);
// The same for data sets that are open already.
ExperimentParts make_parts(const ExperimentConfig& config, std::shared_ptr<const Dataset> train_set,
                           std::shared_ptr<const Dataset> test_set);

// Over the test images, an incomplete last batch included, with running statistics and running activation scales.
// between_batches: called before each batch; returning false gives up, and the result holds what was seen so far.
EvalResult evaluate(const ExperimentConfig& config, ExperimentParts& parts,
                    const std::function<bool()>& between_batches, double* wait_seconds = nullptr);

// "3 of 600 test images are broken and left out: <path> (<reason>), ..."; "" when none is.
std::string describe_broken(const EvalResult& result);

// Loads model.weights, when there is one, and says what it did; "" otherwise. Throws UserError naming the file.
std::string load_initial_weights(const ExperimentConfig& config, Module& model);

// Layers whose input the plan quantises and whose running scale is not known.
std::vector<std::string> layers_without_activation_scale(Module& model, const QuantPlan& plan);

TransformOptions transform_options(const ExperimentConfig& config);

}  // namespace luq
