// Benchmarks: kernels, the layers of a model, whole training steps. What is wrong is not timed.

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "luq/core/error.h"
#include "luq/core/log.h"
#include "luq/core/output_file.h"
#include "luq/core/shell.h"
#include "luq/core/standard_streams.h"
#include "luq/core/stop_signals.h"
#include "luq/core/threads.h"
#include "tools/luqbench/bench.h"

namespace luq::bench {

void fill_input(const std::string& model, int64_t& image_size, int64_t& channels, int64_t& classes) {
  struct Input {
    int64_t size, channels, classes;
  };
  const bool cifar = model == "resnet20" || model == "resnet32" || model == "resnet44" || model == "resnet56";
  const Input usual = cifar ? Input{28, 1, 10} : model == "vgg11_bn" ? Input{32, 3, 10} : Input{224, 3, 1000};
  if (image_size == 0) image_size = usual.size;
  if (channels == 0) channels = usual.channels;
  if (classes == 0) classes = usual.classes;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double time_once(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double time_on(Device device, const std::function<void()>& run) {
  const DeviceMemory* memory = device_memory(device);
  if (memory == nullptr) return time_once(run);
  constexpr double kShortest = 0.002;  // so that starting and waiting count little
  for (int64_t runs = 1;; runs *= 4) {
    memory->wait();
    const double seconds = time_once([&] {
      for (int64_t i = 0; i < runs; ++i) run();
      memory->wait();
    });
    if (seconds >= kShortest || runs >= 1024) return seconds / static_cast<double>(runs);
  }
}

LayerQuant luq_quantization() {
  const QuantSpec int4{Format::int4, ScaleMethod::sawb, Rounding::nearest};
  return {int4, int4, {Format::fp4, ScaleMethod::max, Rounding::stochastic}};
}

}  // namespace luq::bench

namespace {

using namespace luq::bench;

constexpr int kFailure = 1, kUserMistake = 2;

// Before minutes of measuring, not after them.
void require_writable(const std::string& file) {
  if (file.empty()) return;
  try {
    luq::check_output("luqbench", file);
  } catch (const luq::Error& error) {  // nothing was measured yet: another name is all that it takes
    throw luq::UserError(error.what());
  }
  // Standard output is one JSON document then.
  if (luq::is_standard_output(file)) std::cout.rdbuf(std::cerr.rdbuf());
}

void write_json(const std::string& file, const Json& json) {
  if (file.empty()) return;
  luq::write_output("luqbench", file, json.dump(2) + "\n");
}

template <typename Options>
void add_model_options(CLI::App& command, Options& options) {
  command.add_option("--model", options.model, "Model of the zoo")->capture_default_str();
  command.add_option("--batch", options.batch, "Images of a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  const CLI::Range extent(0, 1 << 16);
  command.add_option("--image-size", options.image_size, "Height and width (224; 28 or 32 for the small models)")
      ->check(extent);
  command.add_option("--channels", options.channels, "Channels of an image")->check(extent);
  command.add_option("--classes", options.classes, "Classes")->check(extent);
}

}  // namespace

int main(int argc, char** argv) {
  luq::open_standard_streams();
  luq::set_log_program("luqbench");
  if (const std::string problem = luq::check_thread_environment(); !problem.empty()) luq::log_warning(problem);
  luq::end_at_stop_signals("luqbench");
  std::signal(SIGXFSZ, SIG_IGN);  // what passes the limit of a file's size is an error of the write
  CLI::App app{"Benchmarks of luqtrain: checks first, then times, and compares with what this machine can do."};
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::simple);
  std::string json_file;
  const auto add_common = [&](CLI::App& command, std::string& device, int64_t& threads) {
    command.add_option("--device", device, "cpu or cuda")->capture_default_str()->check(CLI::IsMember({"cpu", "cuda"}));
    command.add_option("--threads", threads, "Threads (0: OMP_NUM_THREADS, else all cores)")
        ->check(CLI::Range(0, 4096));
    command.add_option("--json", json_file, "Also write the numbers to this file");
  };

  KernelsOptions kernels;
  auto* kernels_command = app.add_subcommand("kernels", "Statistics, encoders and other passes over memory");
  add_common(*kernels_command, kernels.device, kernels.threads);
  kernels_command->add_option("--mebibytes", kernels.mebibytes, "Size of the input in float32")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  kernels_command->add_option("--repeats", kernels.repeats, "Runs of each")->capture_default_str();

  LayersOptions layers;
  auto* layers_command =
      app.add_subcommand("layers", "The 4-bit matmuls of a model's convolutions, beside oneDNN's or cuBLASLt's int8");
  add_model_options(*layers_command, layers);
  add_common(*layers_command, layers.device, layers.threads);
  layers_command->add_option("--repeats", layers.repeats, "Runs of each")->capture_default_str();

  StepOptions step;
  std::string worker, compare;
  auto* step_command = app.add_subcommand("step", "Whole training steps, each configuration in its own process");
  add_model_options(*step_command, step);
  add_common(*step_command, step.device, step.threads);
  step_command->add_option("--rounds", step.rounds, "Turns of each configuration: a step to warm up, then timed ones")
      ->capture_default_str();
  step_command
      ->add_option("--only", step.only,
                   "Run these alone: luq, luq_recompute, luq_exempt_shortcuts, fp32, bf16; with --compare torch_fp32, "
                   "torch_bf16; repeatable")
      ->allow_extra_args(false);
  step_command->add_option("--set", step.overrides, "key.path=value for luqtrain's configurations; repeatable")
      ->allow_extra_args(false);
  step_command->add_option("--compare", compare, "torch: also PyTorch, float32 and bfloat16, eager and compiled")
      ->check(CLI::IsMember({"torch"}));
  step_command->add_option("--python", step.python, "Python with PyTorch (where tools/setup_torch.sh puts it)");
  step_command->add_option("--worker", worker)->group("");

  LoaderBenchOptions loader;
  std::string loader_compare;
  auto* loader_command = app.add_subcommand("loader", "Training batches from a folder of JPEG files");
  loader_command->add_option("--path", loader.path, "Folder with train/<class>/<image>")->required();
  loader_command->add_option("--images", loader.images, "Images of an epoch (0: all)")->check(CLI::Range(0, 1 << 30));
  loader_command->add_option("--batch", loader.batch, "Images of a batch")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  loader_command->add_option("--workers", loader.workers, "Threads of this loader, processes of PyTorch's")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  loader_command->add_option("--epochs", loader.epochs, "Epochs of each, of which the first warms up")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 20));
  loader_command->add_option("--compare", loader_compare, "torch: also torchvision's loader with PIL")
      ->check(CLI::IsMember({"torch"}));
  loader_command->add_option("--python", loader.python, "Python with PyTorch (where tools/setup_torch.sh puts it)");
  loader_command->add_option("--json", json_file, "Also write the numbers to this file");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUserMistake;
  }
  try {
    json_file = luq::expand_home(json_file);
    loader.path = luq::expand_home(loader.path);
    require_writable(json_file);
    for (int64_t* threads : {&kernels.threads, &layers.threads, &step.threads}) {
      if (*threads == 0) *threads = luq::default_threads();
    }
    if (kernels_command->parsed()) {
      luq::use_threads(kernels.threads);
      write_json(json_file, bench_kernels(kernels));
    } else if (layers_command->parsed()) {
      luq::use_threads(layers.threads);
      fill_input(layers.model, layers.image_size, layers.channels, layers.classes);
      write_json(json_file, bench_layers(layers));
    } else if (loader_command->parsed()) {
      loader.compare_torch = loader_compare == "torch";
      write_json(json_file, bench_loader(loader));
    } else {
      fill_input(step.model, step.image_size, step.channels, step.classes);
      step.compare_torch = compare == "torch";
      if (!worker.empty()) {
        run_step_worker(worker, step);
      } else {
        write_json(json_file, bench_step(step));
      }
    }
  } catch (const luq::UserError& error) {
    luq::log_error(error.what());
    return kUserMistake;
  } catch (const std::exception& error) {
    luq::log_error(error.what());
    return kFailure;
  }
  if (std::cout.flush()) return 0;
  luq::log_error("standard output cannot be written; what was said there is incomplete");
  return kFailure;
}
