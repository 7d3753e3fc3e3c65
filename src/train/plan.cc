#include "luq/train/plan.h"

#include <algorithm>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/ops/loss.h"
#include "luq/train/optimizer.h"
#include "src/train/experiment_parts.h"
#include "src/train/run_log.h"

namespace luq {
namespace {

constexpr int64_t kProbeImages = 2;  // batch norm needs more than one value per channel

struct Probe {
  std::vector<PlanEntry> entries;
  int64_t bytes_per_image = 0;  // kept between forward and backward
};

// One forward pass in training mode on a few images of zeros.
Probe probe(const ExperimentConfig& config, const ExperimentParts& parts) {
  Probe result;
  Tape tape;
  Ctx ctx = parts.context(config);
  ctx.tape = &tape;
  ctx.training = true;
  ctx.plan = &result.entries;
  const int64_t before = memory_stats().live_bytes;
  const Var images = parts.input(Tensor::zeros({kProbeImages, parts.image[0], parts.image[1], parts.image[2]}));
  const Tensor labels = Tensor::zeros({kProbeImages}, DType::int32);
  const Var loss = softmax_cross_entropy(ctx, parts.model->forward(ctx, images), labels).loss;
  result.bytes_per_image = (memory_stats().live_bytes - before) / kProbeImages;
  return result;
}

std::string of_one_image(const Shape& shape) {
  return to_string(Shape(std::vector<int64_t>(shape.begin() + (shape.rank() > 0 ? 1 : 0), shape.end())));
}

std::string mebibytes(int64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

std::string with_kernel(const std::string& formats, const std::string& kernel) {
  return formats == "-" ? "-" : fmt::format("{} [{}]", formats, kernel);
}

}  // namespace

std::string describe_plan(const ExperimentConfig& config) {
  const ExperimentParts parts = make_parts(config, true);
  const std::string start = load_initial_weights(config, *parts.model);
  const Probe probed = probe(config, parts);

  std::vector<std::vector<std::string>> rows{
      {"layer", "op", "input", "output", "parameters", "MACs", "forward", "backward", "update"}};
  int64_t macs = 0, parameters = 0, integer_macs = 0;
  for (const PlanEntry& entry : probed.entries) {
    const int64_t layer_macs = entry.macs / kProbeImages;
    macs += layer_macs;
    if (entry.forward.find(" x ") != std::string::npos) integer_macs += layer_macs;
    rows.push_back(
        {entry.name.empty() ? "-" : entry.name, entry.op, of_one_image(entry.input), of_one_image(entry.output),
         format_count(entry.parameters), format_count(layer_macs), with_kernel(entry.forward, entry.forward_kernel),
         with_kernel(entry.backward, entry.backward_kernel), with_kernel(entry.update, entry.update_kernel)});
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

  const int64_t steps = parts.train_set->info().images / config.train.batch_size * config.train.epochs;
  const bool keeps_gradients = config.train.micro_batches > 1 || config.train.clip_grad_norm > 0;
  const int64_t copies =
      1 + optimizer_state_copies(config.optimizer) + (config.train.ema_decay > 0 ? 1 : 0) + (keeps_gradients ? 1 : 0);
  const int64_t fixed = parameters * copies * size_of(DType::float32);
  const int64_t activations = probed.bytes_per_image * config.train.batch_size / config.train.micro_batches;
  text += fmt::format("\nparameters       {}\n", format_count(parameters));
  if (!start.empty()) text += fmt::format("weights          {}\n", start);
  text += fmt::format("MACs per image   {} forward, {:.1f} % of them in 4 bits\n", format_count(macs),
                      macs == 0 ? 0.0 : 100.0 * static_cast<double>(integer_macs) / static_cast<double>(macs));
  text += fmt::format("data             {}: {} training and {} test images\n", parts.train_set->info().name,
                      format_count(parts.train_set->info().images), format_count(parts.test_set->info().images));
  text += fmt::format("steps            {} ({} epochs, batches of {}{})\n",
                      format_count(config.train.max_steps > 0 ? std::min(steps, config.train.max_steps) : steps),
                      config.train.epochs, config.train.batch_size,
                      config.train.micro_batches > 1 ? fmt::format(" in {} parts", config.train.micro_batches) : "");
  text += fmt::format("memory           {} estimated: {} weights, optimiser{}{}, {} kept for backward\n",
                      mebibytes(fixed + activations), mebibytes(fixed), config.train.ema_decay > 0 ? ", average" : "",
                      keeps_gradients ? ", gradients" : "", mebibytes(activations));
  return text;
}

}  // namespace luq
