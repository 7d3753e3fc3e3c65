#include "tools/luqtrain/commands.h"

#include <unistd.h>

#include <csignal>
#include <iostream>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/log.h"
#include "luq/core/output_file.h"
#include "luq/core/shell.h"
#include "luq/core/standard_streams.h"
#include "luq/core/stop_signals.h"
#include "luq/core/system_info.h"
#include "luq/data/dataset.h"
#include "luq/train/doctor.h"
#include "luq/train/plan.h"
#include "luq/train/smoke.h"
#include "luq/train/validate_data.h"

namespace luqtrain {
namespace {

void print(const std::string& text) { std::cout << text << std::flush; }

// What is said beside an output: on standard error where the output itself goes to standard output.
void print_beside(const std::string& output, const std::string& text) {
  if (luq::is_standard_output(output)) {
    std::cerr << text;
  } else {
    print(text);
  }
}

void dry_run(const luq::ExperimentConfig& config) {
  // The plan follows as comments, so that all of the output is one YAML document.
  const std::string plan = luq::describe_plan(config);
  std::string text = luq::to_yaml(config) + "\n";
  for (size_t begin = 0; begin < plan.size();) {
    const size_t end = plan.find('\n', begin);
    text += "# " + plan.substr(begin, end - begin) + "\n";
    begin = end + 1;
  }
  print(text);
}

luq::ExperimentConfig load(const ExperimentArguments& arguments) {
  return luq::load_experiment(luq::find_config(arguments.config), arguments.overrides);
}

// What goes on with a run that was stopped, as a shell takes it.
std::string resume_command(const TrainArguments& arguments, const luq::ExperimentConfig& config) {
  const std::string& given = arguments.experiment.config;
  // What came through a pipe is not there a second time; the run has a copy.
  const bool is_gone = !given.empty() && luq::is_stream(given);
  std::string command = "luqtrain --config " + luq::shell_path(is_gone ? config.run.directory + "/config.yaml" : given);
  for (const std::string& override_text : arguments.experiment.overrides) {
    command += " --set " + luq::shell_quote(override_text);
  }
  if (is_gone) command += " --set " + luq::shell_quote("run.directory=" + config.run.directory);
  if (luq::log_level() != luq::LogLevel::info) {
    command += fmt::format(" --log-level {}", luq::log_level_names[static_cast<size_t>(luq::log_level())]);
  }
  return command + " --resume";
}

int run_training(const TrainArguments& arguments) {
  if (arguments.experiment.config.empty()) {
    luq::fail_user("expected --config FILE, for example --config resnet20_luq.yaml; see --help");
  }
  const luq::ExperimentConfig config = load(arguments.experiment);
  if (arguments.dry_run) {
    dry_run(config);
    return 0;
  }
  const luq::StopSignals signals;  // also while it says what was saved
  std::signal(SIGPIPE, SIG_IGN);   // a run goes on without its standard output
  if (arguments.smoke) {
    print(luq::smoke_test(config));
    return 0;
  }
  const luq::StartMode mode = arguments.resume      ? luq::StartMode::resume
                              : arguments.overwrite ? luq::StartMode::overwrite
                                                    : luq::StartMode::fresh;
  const luq::TrainResult result = luq::train(config, mode);
  const std::string& directory = config.run.directory;
  if (result.already_finished) return 0;
  if (result.stopped_by != 0) {
    print(fmt::format("Saved. To go on: {}\n", resume_command(arguments, config)));
    return 128 + result.stopped_by;
  }
  print(
      fmt::format("Test top-1 {:.2f} % after {} steps (best {:.2f} %), in {:.0f} s.\n"
                  "The run is in {}: config.yaml, log.txt, metrics.jsonl, tensorboard/, checkpoints/.\n"
                  "Next: luqtrain eval --checkpoint {}\n",
                  result.last_eval.top1, result.step, result.best_top1, result.seconds, directory,
                  luq::shell_path(directory + "/checkpoints/best.safetensors")));
  return 0;
}

int run_predict(const luq::PredictOptions& options) {
  luq::UnusedFiles unused;
  const std::vector<luq::Prediction> predictions = luq::predict(options, &unused);
  if (unused.count() > 0) luq::log_warning("--images: " + unused.to_text());
  print_beside(options.logits, luq::to_text(predictions));
  int problems = 0;
  for (const luq::Prediction& prediction : predictions) {
    if (prediction.problem.empty()) continue;
    luq::log_error(luq::path_and_reason(prediction.image, prediction.problem));
    ++problems;
  }
  return problems == 0 ? 0 : kFailure;
}

int run_validation(const ValidateArguments& arguments) {
  const std::string& path = arguments.path;
  if (arguments.experiment.config.empty() == path.empty())
    luq::fail_user("[validate-data] expected --config FILE or --path FOLDER");
  const luq::ExperimentConfig config = path.empty() ? load(arguments.experiment) : luq::config_of_folder(path);
  const bool show = luq::can_redraw(STDERR_FILENO) && luq::log_level() <= luq::LogLevel::info;
  const luq::ValidationReport report = luq::validate_data(config, arguments.workers, [show](int64_t done, int64_t all) {
    if (show && (done % 256 < 16 || done == all)) std::cerr << fmt::format("\r{} of {} images", done, all);
    if (show && done == all) std::cerr << "\n";
  });
  for (const std::string& broken : report.broken) print(broken + "\n");
  for (const std::string& warning : report.warnings) luq::log_warning(warning);
  print(fmt::format("{} training and {} test images, {} broken\n", report.train_images, report.test_images,
                    report.broken.size()));
  return report.broken.empty() ? 0 : kFailure;
}

int run_evaluation(const EvalArguments& arguments) {
  luq::EvaluationOptions options = arguments.options;
  if (!arguments.experiment.config.empty()) options.config = load(arguments.experiment);
  if (arguments.experiment.config.empty() && !arguments.experiment.overrides.empty()) {
    luq::fail_user(
        "[eval] --set goes over an experiment that --config names; over a checkpoint's own there are --data and "
        "--device");
  }
  const auto [result, is_ema, warning] = luq::evaluate_checkpoint(options);
  print(fmt::format("{}: test top-1 {:.2f} %, {}loss {:.4f}, {} images{}\n", options.checkpoint, result.top1,
                    result.top5 ? fmt::format("top-5 {:.2f} %, ", *result.top5) : "", result.loss, result.images,
                    is_ema ? " (EMA of the weights)" : ""));
  if (!warning.empty()) luq::log_warning(warning);
  return 0;
}

int run_pack(const luq::PackOptions& options) {
  const luq::PackReport report = luq::pack_shards(options);
  for (const std::string& warning : report.warnings) luq::log_warning(warning);
  const auto part = [](int64_t images, const char* kind, int64_t shards) {
    return fmt::format("{} {} image{} in {} shard{}", images, kind, images == 1 ? "" : "s", shards,
                       shards == 1 ? "" : "s");
  };
  print(fmt::format("{}: {}, {}, {} MiB\n", options.output, part(report.train_images, "training", report.train_shards),
                    part(report.val_images, "test", report.val_shards), report.bytes >> 20));
  return 0;
}

}  // namespace

int run_command(const Arguments& arguments) {
  luq::set_log_level(arguments.log_level);
  const std::string& command = arguments.command;
  if (command == "eval") return run_evaluation(arguments.eval);
  if (command == "predict") return run_predict(arguments.predict);
  if (command == "validate-data") return run_validation(arguments.validate);
  if (command == "pack") return run_pack(arguments.pack);
  if (command == "export") {
    print_beside(arguments.exported.output, luq::export_model(arguments.exported));
  } else if (command == "profile") {
    print(luq::profile_report(load(arguments.profile.experiment), arguments.profile.options));
  } else if (command == "plot") {
    luq::plot_runs_to_file(arguments.plot.runs, arguments.plot.axis, arguments.plot.output);
    print_beside(arguments.plot.output, arguments.plot.output + "\n");
  } else if (command == "kernels") {
    print(luq::describe_kernels());
  } else if (command == "doctor") {
    print(luq::doctor_report());
  } else if (command == "quantize") {
    print_beside(arguments.quantize.output, luq::quantize_file(arguments.quantize));
  } else {
    return run_training(arguments.train);
  }
  return 0;
}

}  // namespace luqtrain
