#include <algorithm>

#include "luq/config/load.h"

namespace luq {
namespace {

struct Condition {
  std::vector<std::string> keys;  // or sections: "data.synthetic."
  bool have_effect;
  std::string otherwise;  // what keeps them from it
};

std::vector<Condition> conditions(const ExperimentConfig& c) {
  const std::string& data = c.data.name;
  const bool folders = data == "image_folder" || data == "imagenet", shards = data == "webdataset";
  const bool image_files = folders || shards;
  const std::string with_data = "data.name " + data, with_optimizer = "optimizer.name " + c.optimizer.name,
                    with_schedule = "lr_scheduler.name " + c.lr_scheduler.name;
  const auto schedule = [&](const char* name) { return c.lr_scheduler.name == name; };
  return {
      {{"data.path"}, data != "synthetic", with_data},
      {{"data.synthetic."}, data == "synthetic", with_data},
      {{"data.val_labels", "data.devkit_classes"}, folders, with_data},
      {{"data.train_shards", "data.val_shards", "data.num_classes"}, shards, with_data},
      {{"data.image_size", "data.eval_resize", "data.exif_rotate", "data.scaled_decode", "data.broken_images"},
       image_files,
       with_data},
      {{"data.augment.crop_scale", "data.augment.crop_ratio"},
       c.data.augment.random_resized_crop,
       "data.augment.random_resized_crop false"},
      {{"data.augment.rand_augment.magnitude"},
       c.data.augment.rand_augment.num_ops > 0,
       "data.augment.rand_augment.num_ops 0"},
      {{"optimizer.momentum", "optimizer.nesterov"}, c.optimizer.name == "sgd", with_optimizer},
      {{"optimizer.beta1", "optimizer.beta2", "optimizer.eps"}, c.optimizer.name == "adamw", with_optimizer},
      {{"lr_scheduler.milestones", "lr_scheduler.gamma"}, schedule("step"), with_schedule},
      {{"lr_scheduler.min_lr"}, schedule("cosine") || schedule("linear"), with_schedule},
      {{"lr_scheduler.pct_start", "lr_scheduler.div_factor", "lr_scheduler.final_div_factor"},
       schedule("one_cycle"),
       with_schedule},
      {{"train.recompute"},
       c.quantization.spec.weights.format.quantized() && c.quantization.spec.activations.format.quantized(),
       "weights or activations in float32"},
      {{"lr_scheduler.warmup_start_factor"}, c.lr_scheduler.warmup_epochs > 0, "lr_scheduler.warmup_epochs 0"},
  };
}

}  // namespace

std::vector<std::string> keys_without_effect(const ExperimentConfig& config) {
  const std::vector<Condition> all = conditions(config);
  std::vector<std::string> warnings;
  for (const std::string& difference : differing_keys(ExperimentConfig{}, config, {})) {
    const std::string key = difference.substr(0, difference.find(':'));
    for (const Condition& condition : all) {
      const bool concerned = std::ranges::any_of(condition.keys, [&](const std::string& name) {
        return name.ends_with('.') ? key.starts_with(name) : key == name;
      });
      if (concerned && !condition.have_effect) {
        warnings.push_back(key + " has no effect with " + condition.otherwise);
      }
    }
  }
  return warnings;
}

}  // namespace luq
