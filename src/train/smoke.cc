#include "luq/train/smoke.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "luq/core/error.h"
#include "luq/core/stop_signals.h"
#include "luq/data/dataset.h"
#include "luq/data/pack.h"
#include "luq/train/trainer.h"
#include "src/core/no_memory.h"
#include "src/data/sample_images.h"
#include "src/train/run_directory.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kImages = 4, kMicroBatches = 2, kTestImages = 6, kFirstSteps = 2, kSteps = 3;
constexpr int64_t kClasses = 10;  // of made-up sets whose number of classes is not known

std::string make_folder() {
  std::string path = (fs::temp_directory_path() / "luqtrain_smoke_XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) fail("[smoke] {}: cannot be made: {}", path, std::strerror(errno));
  return path;
}

bool is_missing(const DataConfig& data) {
  if (data.name == "synthetic") return false;
  std::error_code error;
  if (!data.path.empty()) return !fs::exists(data.path, error) && !error;
  return data.train_shards.empty() && find_dataset(data.name).empty();
}

// Sets `data` to made-up images of the same kind, below `folder`; says which.
std::string substitute(DataConfig& data, const std::string& folder) {
  const std::optional<DatasetInfo> info = published_info(data.name, Split::train);
  const std::string reason = data.path.empty() ? fmt::format("{} was not found in {}", data.name,
                                                             fmt::join(dataset_locations(data.name), ", "))
                                               : fmt::format("{} is not there", data.path);
  const int64_t classes = info ? info->num_classes : kClasses;
  if (info && !info->encoded) {
    data.name = "synthetic";
    data.path.clear();
    data.synthetic = {.train_images = 64,
                      .test_images = 64,
                      .image_size = info->height,
                      .channels = info->channels,
                      .num_classes = classes};
    return fmt::format("made-up images of {}x{}x{}, since {}", info->height, info->width, info->channels, reason);
  }
  const std::string images = folder + "/images";
  write_sample_images(images, classes);
  data.path = images;
  data.val_labels.clear();
  data.devkit_classes.clear();
  if (data.name == "webdataset") {
    data.path = folder + "/shards";
    data.val_shards.clear();
    pack_shards({.input = images, .output = data.path});
  }
  return fmt::format("made-up JPEG files in {} classes, since {}", classes, reason);
}

ExperimentConfig reduced(ExperimentConfig config, const std::string& folder) {
  const double factor = static_cast<double>(kImages) / static_cast<double>(config.train.batch_size);
  config.run.directory = folder + "/run";
  config.train.batch_size = kImages;
  if (config.train.micro_batches > 1) config.train.micro_batches = kMicroBatches;
  config.train.max_steps = kFirstSteps;
  config.train.log_every = 1;
  config.train.checkpoint_every = 0;
  config.optimizer.lr *= factor;
  config.lr_scheduler.min_lr *= factor;
  config.eval.batch_size = kImages;
  config.eval.max_images = kTestImages;
  return config;
}

void run(ExperimentConfig config) {
  train(config, StartMode::fresh);
  throw_if_stopped();
  config.train.max_steps = kSteps;
  const TrainResult result = train(config, StartMode::resume);
  throw_if_stopped();
  if (result.step != kSteps) fail("[smoke] expected {} steps after the resume, got {}", kSteps, result.step);
  const std::string last = RunDirectory(config.run.directory).checkpoints().last();
  const EvalResult again =
      evaluate_checkpoint({.checkpoint = last, .config = std::nullopt, .model = "", .data = "", .device = ""}).result;
  if (again.loss != result.last_eval.loss || again.images != result.last_eval.images) {
    fail("[smoke] {}: evaluated again its loss is {} over {} images, in the run it was {} over {}", last, again.loss,
         again.images, result.last_eval.loss, result.last_eval.images);
  }
}

// What stays is in a folder for temporary files.
void remove_folder(const std::string& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
}

}  // namespace

std::string smoke_test(const ExperimentConfig& given) {
  const auto start = std::chrono::steady_clock::now();
  const StopSignals signals;
  const std::string folder = make_folder();
  ExperimentConfig config = reduced(given, folder);
  std::string data = config.data.name;
  try {
    if (is_missing(config.data)) data = substitute(config.data, folder);
    or_out_of_memory("[smoke]", [&] { run(config); });
  } catch (const UserError&) {
    remove_folder(folder);
    throw;
  } catch (const Stopped& stopped) {
    remove_folder(folder);
    throw Stopped(stopped.number(), fmt::format("[smoke] stopped by {}", signals.name()));
  } catch (const Error& error) {
    fail("{}\nthe run stays in {}", error.what(), folder);
  }
  remove_folder(folder);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return fmt::format(
      "Smoke test passed in {:.0f} s: {} on {}.\n"
      "Done: loading with augmentation, {} steps, evaluation, checkpoint, resume, {} more step, evaluation of the "
      "checkpoint.\n"
      "Smaller than in the experiment: {} images a step instead of {}{}, the learning rate with them, {} test "
      "images.\n",
      seconds.count(), config.model.name, data, kFirstSteps, kSteps - kFirstSteps, config.train.batch_size,
      given.train.batch_size,
      given.train.micro_batches > 1
          ? fmt::format(" (in {} parts instead of {})", config.train.micro_batches, given.train.micro_batches)
          : "",
      kTestImages);
}

}  // namespace luq
