// One experiment as typed structs: the only shape in which configuration travels. Defaults stand here; what may be
// written in a file, its range and its meaning stand in src/config/schema.cc and docs/configuration.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "luq/quant/policy.h"

namespace luq {

struct RunConfig {
  std::string directory;  // empty: runs/<configuration's file name without extension>
};

struct ModelConfig {
  std::string name;     // required, from the zoo
  std::string weights;  // file to start training from; empty: random numbers
};

struct RandAugmentConfig {
  int64_t num_ops = 0;  // 0: off
  int64_t magnitude = 9;
};

struct ColorJitterConfig {
  double brightness = 0, contrast = 0, saturation = 0, hue = 0;
};

struct AugmentConfig {
  bool random_resized_crop = false;
  std::vector<double> crop_scale = {0.08, 1};               // of the area
  std::vector<double> crop_ratio = {3.0 / 4.0, 4.0 / 3.0};  // width / height
  int64_t pad_crop = 0;          // pixels of zero padding before a random crop of the original size; 0: off
  bool horizontal_flip = false;  // with probability 1/2
  RandAugmentConfig rand_augment;
  bool trivial_augment = false;
  ColorJitterConfig color_jitter;
  double lighting = 0;        // standard deviation of noise along ImageNet's principal colours
  double random_erasing = 0;  // probability
  double mixup_alpha = 0, cutmix_alpha = 0;
  std::vector<double> mean;  // per channel, of values in 0..1; empty: the data set's
  std::vector<double> std;
};

struct SyntheticConfig {  // data.name: synthetic
  int64_t train_images = 1024;
  int64_t test_images = 256;
  int64_t image_size = 32;
  int64_t channels = 3;
  int64_t num_classes = 10;
};

struct DataConfig {
  std::string name;  // required: fashion_mnist, mnist, cifar10, cifar100, image_folder, imagenet, webdataset, synthetic
  std::string path;  // empty: the places where the data set is usually found
  std::string val_labels;                // image_folder, imagenet: classes of test images that lie in one folder
  std::string devkit_classes;            // imagenet: classes in the order of the development kit's ids
  std::string train_shards, val_shards;  // webdataset
  int64_t num_classes = 0;               // webdataset; 0: from the data
  int64_t workers = 1;                   // threads that prepare batches
  int64_t prefetch = 4;                  // batches kept ready
  int64_t image_size = 224;              // image files: height and width of what the model takes
  int64_t eval_resize = 256;             // image files, evaluation: the shorter side before the centre is cut out
  bool exif_rotate = false;              // turn image files as their EXIF orientation says
  std::string broken_images = "error";   // image files that cannot be decoded: error, skip, substitute
  bool scaled_decode = false;            // training: decode large crops of JPEG files at a fraction of their size
  AugmentConfig augment;
  SyntheticConfig synthetic;
};

struct OptimizerConfig {
  std::string name = "sgd";  // sgd, adamw
  double lr = 0.1;
  double momentum = 0.9;  // sgd
  bool nesterov = false;  // sgd
  double beta1 = 0.9;     // adamw
  double beta2 = 0.999;   // adamw
  double eps = 1e-8;      // adamw
  double weight_decay = 5e-4;
  bool decay_norm = true;  // false: no weight decay on norm parameters and biases
};

struct LrSchedulerConfig {
  std::string name = "cosine";  // constant, step, cosine, linear, one_cycle
  double warmup_epochs = 0;     // linear from warmup_start_factor * lr, per step
  double warmup_start_factor = 0;
  std::vector<double> milestones;  // step: epochs at which lr is multiplied by gamma
  double gamma = 0.1;
  double min_lr = 0;       // cosine, linear: final rate
  double pct_start = 0.3;  // one_cycle
  double div_factor = 25;
  double final_div_factor = 1e4;
};

struct TrainConfig {
  int64_t epochs = 15;
  int64_t max_steps = 0;  // 0: no limit; does not change the schedule's horizon
  int64_t batch_size = 128;
  int64_t checkpoint_every = 0;  // steps; 0: each epoch
  int64_t log_every = 20;        // steps
  double label_smoothing = 0;
  double ema_decay = 0;       // of an average of the weights; 0: none
  int64_t micro_batches = 1;  // parts of a batch whose gradients are averaged for one update
  double clip_grad_norm = 0;  // 0: off
  bool recompute = false;     // outputs of quantised convolutions, for the backward pass of the norm behind them
};

struct EvalConfig {
  int64_t batch_size = 256;
  int64_t max_images = 0;  // 0: all
};

struct ExperimentConfig {
  uint64_t seed = 0;
  int64_t threads = 0;  // 0: default_threads() of luq/core/threads.h
  std::string device = "cpu";
  std::string precision = "float32";  // of everything that is not quantised
  bool deterministic = true;
  RunConfig run;
  ModelConfig model;
  DataConfig data;
  OptimizerConfig optimizer;
  LrSchedulerConfig lr_scheduler;
  TrainConfig train;
  EvalConfig eval;
  QuantPolicy quantization;
};

}  // namespace luq
