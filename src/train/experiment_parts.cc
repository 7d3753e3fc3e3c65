#include "src/train/experiment_parts.h"

#include <cmath>

#include "luq/core/error.h"
#include "luq/core/threads.h"
#include "luq/ops/accuracy.h"
#include "luq/ops/loss.h"
#include "luq/train/model_file.h"
#include "src/train/batch_feeder.h"

namespace luq {
namespace {

void check_training(const ExperimentConfig& config, const ExperimentParts& parts) {
  const TrainConfig& train = config.train;
  const DatasetInfo& info = parts.train_set->info();
  if (train.batch_size < 1) fail_user("[train] train.batch_size: expected 1 or more, got {}", train.batch_size);
  if (train.epochs < 1) fail_user("[train] train.epochs: expected 1 or more, got {}", train.epochs);
  if (train.log_every < 1) fail_user("[train] train.log_every: expected 1 or more, got {}", train.log_every);
  if (train.checkpoint_every < 0 || train.max_steps < 0) {
    fail_user("[train] train.checkpoint_every and train.max_steps: expected 0 or more, got {} and {}",
              train.checkpoint_every, train.max_steps);
  }
  if (train.batch_size > info.images) {
    fail_user("[train] train.batch_size {} is larger than the training set: {} has {} images", train.batch_size,
              info.name, info.images);
  }
  if (train.micro_batches < 1 || train.micro_batches > 65535 || train.batch_size % train.micro_batches != 0) {
    fail_user("[train] train.micro_batches: expected a divisor of train.batch_size {} in 1..65535, got {}",
              train.batch_size, train.micro_batches);
  }
  if (!(train.clip_grad_norm >= 0)) {
    fail_user("[train] train.clip_grad_norm: expected 0 or more, got {}", train.clip_grad_norm);
  }
  if (train.batch_size > train.micro_batches) return;
  for (const Buffer* buffer : parts.model->buffers()) {
    if (buffer->name.ends_with(".running_mean")) {
      fail_user("[train] train.batch_size {}{}: the batch norm of {} needs 2 images or more at a time",
                train.batch_size,
                train.micro_batches > 1 ? fmt::format(" in {} micro-batches", train.micro_batches) : "", buffer->name);
    }
  }
}

}  // namespace

std::shared_ptr<const Dataset> open_split(const ExperimentConfig& config, Split split) {
  const SyntheticConfig& synthetic = config.data.synthetic;
  return open_dataset(config.data.name, config.data.path, split,
                      {.train_images = synthetic.train_images,
                       .test_images = synthetic.test_images,
                       .image_size = synthetic.image_size,
                       .channels = synthetic.channels,
                       .num_classes = synthetic.num_classes,
                       .seed = config.seed},
                      {.val_labels = config.data.val_labels,
                       .devkit_classes = config.data.devkit_classes,
                       .train_shards = config.data.train_shards,
                       .val_shards = config.data.val_shards,
                       .num_classes = config.data.num_classes});
}

Ctx context_of(const ExperimentConfig& config, const QuantPlan& plan) {
  Ctx ctx;
  ctx.device = parse_device(config.device);
  ctx.kernels = &kernels_for(ctx.device);
  ctx.quant = &plan;
  ctx.seed = config.seed;
  ctx.recompute = config.train.recompute;
  return ctx;
}

DType activation_type(const ExperimentConfig& config) {
  if (config.precision == "float32") return DType::float32;
  if (config.precision == "bfloat16") return DType::bfloat16;
  fail_user("[train] precision: expected float32 or bfloat16, got '{}'", config.precision);
}

Var ExperimentParts::input(const Ctx& ctx, const ImageBatch& images) const {
  return Var(finish_images(*ctx.kernels, images.to(device), dtype));
}

ExperimentParts make_parts(const ExperimentConfig& config, bool with_training) {
  std::shared_ptr<const Dataset> train_set;
  if (with_training) train_set = open_split(config, Split::train);
  return make_parts(config, std::move(train_set), open_split(config, Split::test));
}

ExperimentParts make_parts(const ExperimentConfig& config, std::shared_ptr<const Dataset> train_set,
                           std::shared_ptr<const Dataset> test_set) {
  ExperimentParts parts;
  parts.train_set = std::move(train_set);
  parts.test_set = std::move(test_set);
  const Ctx ctx = parts.context(config);
  parts.kernels = ctx.kernels;
  parts.device = ctx.device;
  parts.dtype = activation_type(config);
  if (config.eval.batch_size < 1)
    fail_user("[train] eval.batch_size: expected 1 or more, got {}", config.eval.batch_size);
  const DatasetInfo& info = parts.test_set->info();
  const Transform transform(info, transform_options(config));
  parts.image = {transform.height(), transform.width(), transform.channels()};
  parts.model = make_model(
      config.model.name, {.in_channels = parts.image[2], .num_classes = info.num_classes, .image_size = parts.image[0]},
      config.seed);
  parts.model->to(parts.device);
  const std::vector<MatmulLayer> layers = parts.model->matmul_layers();
  parts.plan = QuantPlan(config.quantization, layers);
  for (const MatmulLayer& layer : layers) check_quantisers(parts.plan[layer.name], "quantization", layer.name);
  if (parts.train_set != nullptr) check_training(config, parts);
  parts.threads = use_threads(config.threads);
  return parts;
}

std::string load_initial_weights(const ExperimentConfig& config, Module& model) {
  if (config.model.weights.empty()) return "";
  const ModelFile model_file = read_model_file(config.model.weights);
  const LoadedState loaded = load_model_file(model_file, model, true);
  std::string text =
      fmt::format("{} ({}{})", model_file.file, to_string(model_file.kind), model_file.is_ema ? ", its EMA" : "");
  if (!loaded.replaced_head.empty()) {
    text += fmt::format("; its head {} is for {} classes: replaced by a new one", loaded.replaced_head,
                        loaded.stored_classes);
  }
  return text;
}

std::vector<std::string> layers_without_activation_scale(Module& model, const QuantPlan& plan) {
  std::vector<std::string> layers;
  for (const Buffer* buffer : model.buffers()) {
    const size_t dot = buffer->name.rfind('.');
    if (dot == std::string::npos || buffer->name.substr(dot) != ".activation_scale") continue;
    const std::string layer = buffer->name.substr(0, dot);
    if (plan[layer].activations.format.quantized() && !(buffer->value.data<float>()[0] > 0)) layers.push_back(layer);
  }
  return layers;
}

TransformOptions transform_options(const ExperimentConfig& config) {
  const AugmentConfig& augment = config.data.augment;
  return {.image_size = config.data.image_size,
          .eval_resize = config.data.eval_resize,
          .exif_rotate = config.data.exif_rotate,
          .scaled_decode = config.data.scaled_decode,
          .random_resized_crop = augment.random_resized_crop,
          .crop_scale = augment.crop_scale,
          .crop_ratio = augment.crop_ratio,
          .pad_crop = augment.pad_crop,
          .horizontal_flip = augment.horizontal_flip,
          .rand_augment = {augment.rand_augment.num_ops, augment.rand_augment.magnitude},
          .trivial_augment = augment.trivial_augment,
          .color_jitter = {augment.color_jitter.brightness, augment.color_jitter.contrast,
                           augment.color_jitter.saturation, augment.color_jitter.hue},
          .lighting = augment.lighting,
          .mean = augment.mean,
          .std = augment.std,
          .random_erasing = augment.random_erasing,
          .mixup_alpha = augment.mixup_alpha,
          .cutmix_alpha = augment.cutmix_alpha};
}

std::string describe_broken(const EvalResult& result) {
  if (result.broken.empty()) return "";
  std::string text = fmt::format("{} of {} test images are broken and left out:", result.broken.size(),
                                 result.images + static_cast<int64_t>(result.broken.size()));
  constexpr size_t shown = 5;
  for (size_t i = 0; i < std::min(shown, result.broken.size()); ++i) text += "\n  " + result.broken[i].reason;
  if (result.broken.size() > shown)
    text += fmt::format("\n  and {} more (luqtrain validate-data)", result.broken.size() - shown);
  return text;
}

EvalResult evaluate(const ExperimentConfig& config, ExperimentParts& parts,
                    const std::function<bool()>& between_batches, double* wait_seconds) {
  BatchFeeder feeder(
      parts.test_set, transform_options(config),
      {.batch_size = config.eval.batch_size,
       .max_images = config.eval.max_images,
       .workers = config.data.workers,
       .prefetch = config.data.prefetch,
       .seed = config.seed,
       // Nothing stands in for a test image.
       .broken_images = parse_broken_images(config.data.broken_images) == BrokenImages::error ? BrokenImages::error
                                                                                              : BrokenImages::skip,
       .device = parts.device});
  feeder.start(0);
  Ctx ctx = parts.context(config);
  EvalResult result;
  double loss_sum = 0;
  int64_t correct = 0, correct5 = 0;
  const bool has_top5 = parts.test_set->info().num_classes >= 5;
  for (Batch batch; between_batches() && feeder.next(batch);) {
    result.broken.insert(result.broken.end(), batch.broken.begin(), batch.broken.end());
    if (batch.size() == 0) continue;
    const Var logits = parts.model->forward(ctx, parts.input(ctx, batch.images));
    const LossResult loss = softmax_cross_entropy(ctx, logits, batch.labels);
    loss_sum += static_cast<double>(loss.loss.value().data<float>()[0]) * static_cast<double>(batch.size());
    correct += loss.correct;
    if (has_top5) correct5 += count_top_k(ctx, logits.value(), batch.labels, 5);
    result.images += batch.size();
  }
  if (wait_seconds != nullptr) *wait_seconds = feeder.take_wait_seconds();
  if (result.images == 0 && !result.broken.empty()) {
    fail("[eval] every test image is broken, the first of them {}", result.broken.front().reason);
  }
  if (result.images > 0) {
    result.loss = loss_sum / static_cast<double>(result.images);
    result.top1 = 100.0 * static_cast<double>(correct) / static_cast<double>(result.images);
    if (has_top5) result.top5 = 100.0 * static_cast<double>(correct5) / static_cast<double>(result.images);
  }
  return result;
}

}  // namespace luq
