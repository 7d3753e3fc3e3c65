#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/system_info.h"
#include "luq/models/registry.h"
#include "luq/train/step_runner.h"
#include "tools/luqbench/bench.h"
#include "tools/luqbench/process.h"

namespace luq::bench {
namespace {

namespace fs = std::filesystem;

constexpr int kWarmUp = 3;
constexpr double kTurnSeconds = 0.5;  // timed in a turn, where steps are shorter
constexpr int kMostSteps = 10;        // in a turn

// A configuration of luqtrain, or of PyTorch, whose better one of several counts.
struct Configuration {
  std::string name;    // in tables and JSON
  std::string detail;  // what tells it from others of the name: "eager", "compile"
  std::vector<std::string> command;
};

ExperimentConfig experiment(const std::string& name, const StepOptions& options) {
  ExperimentConfig config;
  config.device = options.device;
  config.threads = options.threads;
  config.model.name = options.model;
  config.data.name = "synthetic";
  config.data.synthetic = {.train_images = options.batch,
                           .test_images = 1,
                           .image_size = options.image_size,
                           .channels = options.channels,
                           .num_classes = options.classes};
  config.optimizer = {.name = "sgd", .lr = 0.01, .momentum = 0.9, .weight_decay = 1e-4};
  config.lr_scheduler.name = "constant";
  config.train.batch_size = options.batch;
  if (name == "luq" || name == "luq_recompute" || name == "luq_exempt_shortcuts") {
    config.quantization.spec = luq_quantization();
    config.train.recompute = name == "luq_recompute";
    if (name == "luq_exempt_shortcuts") config.quantization.exempt = {"*downsample*"};
  } else if (name != "fp32" && name != "bf16") {
    fail_user("[luqbench] configuration: expected luq, luq_recompute, luq_exempt_shortcuts, fp32 or bf16, got '{}'",
              name);
  }
  config.precision = name == "fp32" ? "float32" : "bfloat16";
  // Written and read again, so that --set means what it means for luqtrain.
  return parse_experiment(to_yaml(config), "luqbench", options.overrides);
}

// Keys that options of this program give.
void check_overrides(const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    for (const auto& [key, option] : {std::pair{"model.", "--model"},
                                      {"train.batch_size=", "--batch"},
                                      {"threads=", "--threads"},
                                      {"device=", "--device"},
                                      {"data.", "--image-size, --channels and --classes"}}) {
      if (text.starts_with(key)) fail_user("[luqbench] --set {}: here {} gives this", text, option);
    }
  }
}

bool has_shortcuts(const Module& model) {
  for (const MatmulLayer& layer : model.matmul_layers()) {
    if (layer.name.find("downsample") != std::string::npos) return true;
  }
  return false;
}

std::vector<Configuration> configurations(const StepOptions& options) {
  check_overrides(options.overrides);
  // Unknown models are refused here, not by every process.
  const auto model = make_model(options.model, {options.channels, options.classes, options.image_size}, 0);
  const auto number = [](int64_t value) { return std::to_string(value); };
  std::vector<std::string> input{"--model",      options.model,
                                 "--batch",      number(options.batch),
                                 "--image-size", number(options.image_size),
                                 "--channels",   number(options.channels),
                                 "--classes",    number(options.classes),
                                 "--threads",    number(options.threads),
                                 "--device",     options.device};
  std::vector<Configuration> all;
  for (const char* name : {"luq", "luq_recompute", "luq_exempt_shortcuts", "fp32", "bf16"}) {
    if (std::string_view(name) == "luq_exempt_shortcuts" && !has_shortcuts(*model)) continue;
    std::vector<std::string> command{fs::read_symlink("/proc/self/exe").string(), "step", "--worker", name};
    command.insert(command.end(), input.begin(), input.end());
    for (const std::string& override_text : options.overrides) {
      command.insert(command.end(), {"--set", override_text});
    }
    all.push_back({name, "", std::move(command)});
  }
  if (options.compare_torch) {
    const std::string python = torch_python(options.python), program = torch_program("torch_step.py");
    for (const bool bf16 : {false, true}) {
      for (const bool compile : {false, true}) {
        std::vector<std::string> command{python, program};
        command.insert(command.end(), input.begin(), input.end());
        if (bf16) command.push_back("--bf16");
        if (compile) command.push_back("--compile");
        all.push_back({bf16 ? "torch_bf16" : "torch_fp32", compile ? "compile" : "eager", std::move(command)});
      }
    }
  }
  if (options.only.empty()) return all;
  std::vector<Configuration> chosen;
  for (const std::string& name : options.only) {
    const size_t before = chosen.size();
    for (const Configuration& configuration : all) {
      if (configuration.name == name) chosen.push_back(configuration);
    }
    if (chosen.size() == before) fail_user("[luqbench] --only {}: there is no such configuration here", name);
  }
  return chosen;
}

// Those whose turn it is not should not spin for long, unless the user wants them to.
std::vector<std::string> waiting_environment() {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return {};
  return {"GOMP_SPINCOUNT=1000"};
}

struct Measured {
  Configuration configuration;
  std::unique_ptr<Process> process;
  std::vector<double> seconds;
  double first_loss = 0, loss = 0;
  int64_t peak_memory = 0;
  std::string version;

  double step() {
    process->write_line("step");
    std::istringstream answer(process->read_line());
    double taken = 0;
    if (!(answer >> taken >> loss >> peak_memory)) {
      fail("[luqbench] {} {}: expected seconds, loss and memory", configuration.name, configuration.detail);
    }
    answer >> version;
    if (!std::isfinite(loss))
      fail("[luqbench] {} {}: the loss is not finite", configuration.name, configuration.detail);
    return taken;
  }

  // The first step after the others' finds the caches full of theirs; in a training it would not, and it is not timed.
  void turn() {
    const double first = step();
    const int steps = std::clamp(static_cast<int>(kTurnSeconds / std::max(first, 1e-3)), 1, kMostSteps);
    for (int i = 0; i < steps; ++i) seconds.push_back(step());
  }
};

// The configurations of luqtrain begin with the same weights and the same batch: quantisation moves the first
// loss a little, and only that.
void check(const std::vector<Measured>& all) {
  const Measured* fp32 = nullptr;
  for (const Measured& measured : all) {
    if (measured.configuration.name == "fp32") fp32 = &measured;
  }
  if (fp32 == nullptr) return;
  for (const Measured& measured : all) {
    if (measured.configuration.name.starts_with("torch")) continue;
    if (std::abs(measured.first_loss - fp32->first_loss) > 0.25 * fp32->first_loss) {
      fail("[luqbench] {}: the first loss is {:.4f}, that of fp32 {:.4f}: not timed", measured.configuration.name,
           measured.first_loss, fp32->first_loss);
    }
  }
}

}  // namespace

void run_step_worker(const std::string& configuration, const StepOptions& options) {
  StepRunner runner(experiment(configuration, options));
  for (std::string line; std::getline(std::cin, line);) {
    const StepRunner::Result result = runner.step();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const int64_t peak = options.device == "cpu" ? int64_t{usage.ru_maxrss} * 1024 : runner.peak_memory();
    std::cout << fmt::format("{} {} {}", result.seconds, result.loss, peak) << std::endl;
  }
}

Json bench_step(const StepOptions& options) {
  if (options.rounds < 1) fail_user("[luqbench] --rounds: expected 1 or more, got {}", options.rounds);
  const std::vector<Configuration> chosen = configurations(options);
  for (const Configuration& configuration : chosen) {
    if (!configuration.name.starts_with("torch")) experiment(configuration.name, options);
  }
  std::vector<Measured> all;
  for (const Configuration& configuration : chosen) {
    std::cerr << fmt::format("starting {} {}\n", configuration.name, configuration.detail);
    Measured measured{.configuration = configuration, .process = nullptr, .seconds = {}, .version = {}};
    measured.process = std::make_unique<Process>(configuration.command, waiting_environment());
    measured.step();
    measured.first_loss = measured.loss;
    for (int i = 1; i < kWarmUp; ++i) measured.step();
    all.push_back(std::move(measured));
  }
  check(all);
  for (int64_t round = 0; round < options.rounds; ++round) {
    for (Measured& measured : all) measured.turn();
    std::cerr << fmt::format("round {} of {}\n", round + 1, options.rounds);
  }
  for (Measured& measured : all) measured.process.reset();

  std::string text =
      fmt::format("{} on {}, batch {}, {}x{}x{}, {} threads, median of {} turns{}{}\n\n", options.model, options.device,
                  options.batch, options.image_size, options.image_size, options.channels, options.threads,
                  options.rounds, options.overrides.empty() ? "" : "; ", fmt::join(options.overrides, ", "));
  const auto rate = [&](const Measured& m) { return static_cast<double>(options.batch) / median(m.seconds); };
  std::map<std::string, const Measured*> best;
  for (const Measured& measured : all) {
    const Measured*& place = best[measured.configuration.name];
    if (place == nullptr || rate(measured) > rate(*place)) place = &measured;
  }
  const auto ratio = [&](const Measured& m, const char* peer) {
    return best.contains(peer) ? fmt::format("{:>8.2f}", rate(m) / rate(*best[peer])) : fmt::format("{:>8}", "-");
  };
  const char* fp32_peer = options.compare_torch ? "torch_fp32" : "fp32";
  const char* bf16_peer = options.compare_torch ? "torch_bf16" : "bf16";
  if (options.device != "cpu") text += fmt::format("device   {}\n", describe_cuda());
  text += fmt::format("{:<22}{:<9}{:>10}{:>12}{:>12}{:>10}{:>10}\n", "configuration", "", "images/s", "ms/step",
                      "peak MiB", "x fp32", "x bf16");
  Json json;
  json["model"] = options.model;
  json["device"] = options.device;
  json["batch"] = options.batch;
  json["image_size"] = options.image_size;
  json["threads"] = options.threads;
  if (!options.overrides.empty()) json["set"] = options.overrides;
  for (const auto& [name, value] : system_info()) {
    if (name == "processor") json["processor"] = value;
  }
  for (const Measured& measured : all) {
    text += fmt::format("{:<22}{:<9}{:>10.2f}{:>12.1f}{:>12}  {}  {}\n", measured.configuration.name,
                        measured.configuration.detail, rate(measured), median(measured.seconds) * 1e3,
                        measured.peak_memory >> 20, ratio(measured, fp32_peer), ratio(measured, bf16_peer));
    if (!measured.version.empty()) json["torch_version"] = measured.version;
  }
  text += options.compare_torch
              ? "\nx fp32, x bf16: images/s over those of PyTorch's better float32 and bfloat16 run.\n"
              : "\nx fp32, x bf16: images/s over those of luqtrain's own fp32 and bf16; --compare torch puts PyTorch "
                "there.\n";
  std::cout << text;
  for (const auto& [name, measured] : best) {
    json["images_per_second"][name] = rate(*measured);
    json[options.device == "cpu" ? "peak_rss_bytes" : "peak_device_bytes"][name] = measured->peak_memory;
    json["step_seconds"][name] = measured->seconds;
    if (!measured->configuration.detail.empty()) json["torch_mode"][name] = measured->configuration.detail;
  }
  return json;
}

}  // namespace luq::bench
