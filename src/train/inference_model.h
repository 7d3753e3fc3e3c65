// A model out of a file, ready to evaluate images without its data set.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "luq/autograd/ctx.h"
#include "luq/config/experiment.h"
#include "luq/data/dataset.h"
#include "luq/nn/module.h"
#include "luq/train/model_file.h"

namespace luq {

struct InferenceModel {
  std::string file;
  bool is_ema = false;
  ExperimentConfig config;
  DatasetInfo data;  // what its images are
  int64_t num_classes = 0;
  std::unique_ptr<Module> model;
  QuantPlan plan;
  const Kernels* kernels = nullptr;
  Device device;
  DType dtype = DType::float32;  // of activations

  Ctx context() const;
  // (1, H, W, C): what the model takes.
  Shape input_shape() const;
};

// model: a name of the zoo, which a state_dict needs; it then runs in float32 on ImageNet's preprocessing. Where the
// file carries a configuration, that counts, and another name is refused. The number of classes is that of the file's
// head. device: cpu or cuda, instead of the configuration's; "": that. Throws UserError naming the file.
InferenceModel load_inference_model(const std::string& file, const std::string& model,
                                    CheckpointWeights weights = CheckpointWeights::ema_if_stored,
                                    const std::string& device = "");

}  // namespace luq
