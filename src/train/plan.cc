#include "luq/train/plan.h"

#include <algorithm>
#include <chrono>

#include "luq/config/load.h"
#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "luq/core/stand_in_kernels.h"
#include "luq/ops/loss.h"
#include "luq/train/lr_scheduler.h"
#include "luq/train/optimizer.h"
#include "src/train/experiment_parts.h"
#include "src/train/run_log.h"
#include "src/train/training_step.h"

namespace luq {
namespace {

constexpr int64_t kProbeImages = 2;  // batch norm needs more than one value per channel

constexpr double kMeasuredSeconds = 2.0;     // of one step whose speed is measured
constexpr int64_t kLeastMeasuredImages = 4;  // fewer do not tell the speed of many

// A data set that is not there: what is published of it.
class PublishedDataset : public Dataset {
 public:
  explicit PublishedDataset(DatasetInfo info) : info_(std::move(info)) {}
  const DatasetInfo& info() const override { return info_; }

 private:
  DatasetInfo info_;
};

// True of a data set that was not found in the usual places.
bool is_missing(const ExperimentConfig& config) {
  return config.data.path.empty() && published_info(config.data.name, Split::train) &&
         find_dataset(config.data.name).empty();
}

ExperimentParts make_plan_parts(const ExperimentConfig& config) {
  if (!is_missing(config)) return make_parts(config, true);
  const auto planned = [&](Split split) {
    return std::make_shared<PublishedDataset>(*published_info(config.data.name, split));
  };
  return make_parts(config, planned(Split::train), planned(Split::test));
}

struct Speed {
  double training = 0, evaluation = 0;  // images per second
  int64_t images = 0;                   // that a step was measured with
};

// Steps of training and an evaluation on made-up images: as many as a step of the experiment has at once, or fewer
// where that takes longer than kMeasuredSeconds. Leaves the model changed.
Speed measure_speed(ExperimentConfig config, ExperimentParts& parts) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_of = [](const auto& action) {
    const Clock::time_point start = Clock::now();
    action();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  const int64_t largest = config.train.batch_size / config.train.micro_batches;
  config.train.micro_batches = 1;
  const auto make_batch = [&](int64_t images) {
    Tensor pixels = Tensor::empty({images, parts.image[0], parts.image[1], parts.image[2]}, DType::uint8);
    RngStream random(make_rng_key(0, "plan:images"));
    for (int64_t i = 0; i < pixels.numel(); ++i) pixels.data<uint8_t>()[i] = static_cast<uint8_t>(random.below(256));
    return Batch{ImageBatch::of(std::move(pixels), 1.0 / 64, -2).to(parts.device),
                 Tensor::zeros({images}, DType::int32)};
  };
  const std::unique_ptr<Optimizer> optimizer =
      make_optimizer(config.optimizer, parts.model->parameters(), *parts.kernels);
  Ctx ctx = parts.context(config);
  const auto step = [&](const Batch& batch) {
    return seconds_of([&] {
      ctx.training = true;
      training_step(config, parts, ctx, *optimizer, batch, 1e-6 * config.optimizer.lr);
    });
  };
  const Batch first = make_batch(std::min(kLeastMeasuredImages, largest));
  step(first);  // what is made once is made here
  const double images_per_second = static_cast<double>(first.size()) / step(first);
  Speed speed;
  speed.images = std::clamp(static_cast<int64_t>(kMeasuredSeconds * images_per_second), first.size(), largest);
  const Batch batch = make_batch(speed.images);
  const double training = std::min(step(batch), step(batch));
  const auto forward = [&] {
    return seconds_of([&] {
      ctx.training = false;
      parts.model->forward(ctx, parts.input(ctx, batch.images));
    });
  };
  const double evaluation = std::min(forward(), forward());
  speed.training = static_cast<double>(speed.images) / training;
  speed.evaluation = static_cast<double>(speed.images) / evaluation;
  return speed;
}

// "35 s", "12.3 min", "30.5 h" or "1766 h (73.6 days)".
std::string in_words(double seconds) {
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} h ({:.1f} days)", seconds / 3600, seconds / 86400);
}

struct Probe {
  std::vector<PlanEntry> entries;
  int64_t bytes_per_image = 0;  // kept between forward and backward
};

// One forward pass in training mode on a few images, by kernels that do nothing.
Probe probe(const ExperimentConfig& config, const ExperimentParts& parts) {
  Probe result;
  const StandInKernels idle(*parts.kernels, StandIn::idle);
  Tape tape;
  Ctx ctx = parts.context(config);
  ctx.kernels = &idle.kernels();
  ctx.tape = &tape;
  ctx.training = true;
  ctx.plan = &result.entries;
  const int64_t before = memory_stats(parts.device).live_bytes;
  const Shape shape{kProbeImages, parts.image[0], parts.image[1], parts.image[2]};
  const Var images(Tensor::zeros(shape, parts.dtype, parts.device));
  const Tensor labels = Tensor::zeros({kProbeImages}, DType::int32);
  const Var loss = softmax_cross_entropy(ctx, parts.model->forward(ctx, images), labels).loss;
  result.bytes_per_image = (memory_stats(parts.device).live_bytes - before) / kProbeImages;
  return result;
}

std::string of_one_image(const Shape& shape) {
  return to_string(Shape(std::vector<int64_t>(shape.begin() + (shape.rank() > 0 ? 1 : 0), shape.end())));
}

std::string mebibytes(int64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

std::string memory_in_words(const ExperimentConfig& config, Module& model, const Probe& probed) {
  int64_t parameters = 0;
  for (const Parameter* parameter : model.parameters()) parameters += parameter->var.value().numel();
  const bool averages = config.train.ema_decay > 0;
  const bool keeps_gradients = config.train.micro_batches > 1 || config.train.clip_grad_norm > 0;
  const int64_t copies = 1 + optimizer_state_copies(config.optimizer) + (averages ? 1 : 0) + (keeps_gradients ? 1 : 0);
  const int64_t fixed = parameters * copies * size_of(DType::float32);
  const int64_t activations = probed.bytes_per_image * config.train.batch_size / config.train.micro_batches;
  return fmt::format("{} estimated: {} weights, optimiser{}{}, {} kept for backward", mebibytes(fixed + activations),
                     mebibytes(fixed), averages ? ", average" : "", keeps_gradients ? ", gradients" : "",
                     mebibytes(activations));
}

std::string with_kernel(const std::string& formats, const std::string& kernel) {
  return formats == "-" ? "-" : fmt::format("{} [{}]", formats, kernel);
}

}  // namespace

std::string describe_memory(ExperimentConfig config) {
  config.device = "cpu";
  const ExperimentParts parts = make_plan_parts(config);
  return memory_in_words(config, *parts.model, probe(config, parts));
}

std::string describe_plan(const ExperimentConfig& config) {
  ExperimentParts parts = make_plan_parts(config);
  const int64_t steps_per_epoch = parts.train_set->info().images / config.train.batch_size;
  check_lr_schedule(config.lr_scheduler, {config.train.epochs, steps_per_epoch});
  const std::string start = load_initial_weights(config, *parts.model);
  const Probe probed = probe(config, parts);

  std::vector<std::vector<std::string>> rows{
      {"layer", "op", "input", "output", "parameters", "MACs", "forward", "backward_data", "backward_weight"}};
  int64_t macs = 0, parameters = 0, integer_macs = 0;
  for (const PlanEntry& entry : probed.entries) {
    const int64_t layer_macs = entry.macs / kProbeImages;
    macs += layer_macs;
    if (entry.forward.find(" x ") != std::string::npos) integer_macs += layer_macs;
    rows.push_back({entry.name.empty() ? "-" : entry.name, entry.op, of_one_image(entry.input),
                    of_one_image(entry.output), format_count(entry.parameters), format_count(layer_macs),
                    with_kernel(entry.forward, entry.forward_kernel),
                    with_kernel(entry.backward_data, entry.backward_data_kernel),
                    with_kernel(entry.backward_weight, entry.backward_weight_kernel)});
  }
  for (const Parameter* parameter : parts.model->parameters()) parameters += parameter->var.value().numel();
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }

  int64_t steps = steps_per_epoch * config.train.epochs;
  if (config.train.max_steps > 0) steps = std::min(steps, config.train.max_steps);
  const int64_t evaluations = (steps + steps_per_epoch - 1) / steps_per_epoch * (config.train.ema_decay > 0 ? 2 : 1);
  int64_t evaluated = parts.test_set->info().images;
  if (config.eval.max_images > 0) evaluated = std::min(evaluated, config.eval.max_images);
  text += fmt::format("\nparameters       {}\n", format_count(parameters));
  if (!start.empty()) text += fmt::format("weights          {}\n", start);
  text += fmt::format("MACs per image   {} forward, {:.1f} % of them in 4 bits\n", format_count(macs),
                      macs == 0 ? 0.0 : 100.0 * static_cast<double>(integer_macs) / static_cast<double>(macs));
  for (const std::string& warning : keys_without_effect(config)) text += fmt::format("warning          {}\n", warning);
  text += fmt::format("data             {}: {} training and {} test images{}\n", parts.train_set->info().name,
                      format_count(parts.train_set->info().images), format_count(parts.test_set->info().images),
                      is_missing(config) ? fmt::format(", as published: it is not here (looked in {})",
                                                       fmt::join(dataset_locations(config.data.name), ", "))
                                         : "");
  text += fmt::format("steps            {} ({} epochs, batches of {}{})\n", format_count(steps), config.train.epochs,
                      config.train.batch_size,
                      config.train.micro_batches > 1 ? fmt::format(" in {} parts", config.train.micro_batches) : "");
  text += fmt::format("memory           {}\n", memory_in_words(config, *parts.model, probed));
  const Speed speed = measure_speed(config, parts);
  text += fmt::format(
      "speed            {:.1f} images/s in training, {:.1f} in evaluation; measured on {} made-up images, {} "
      "thread{}\n",
      speed.training, speed.evaluation, speed.images, parts.threads, parts.threads == 1 ? "" : "s");
  text += fmt::format("time             {} at this speed: {} images trained, {} evaluated; data may come slower\n",
                      in_words(static_cast<double>(steps * config.train.batch_size) / speed.training +
                               static_cast<double>(evaluations * evaluated) / speed.evaluation),
                      format_count(steps * config.train.batch_size), format_count(evaluations * evaluated));
  return text;
}

}  // namespace luq
