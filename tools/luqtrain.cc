// The command line: training by default, and a few commands beside it.

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "luq/config/load.h"
#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/system_info.h"
#include "luq/data/dataset.h"
#include "luq/data/pack.h"
#include "luq/train/doctor.h"
#include "luq/train/export.h"
#include "luq/train/plan.h"
#include "luq/train/plot.h"
#include "luq/train/predict.h"
#include "luq/train/profile_report.h"
#include "luq/train/quantize_file.h"
#include "luq/train/smoke.h"
#include "luq/train/trainer.h"
#include "luq/train/validate_data.h"

namespace {

constexpr int kFailure = 1, kUserMistake = 2;

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  bool dry_run = false, smoke = false, resume = false, overwrite = false;
};

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

// libgomp's threads spin for milliseconds at every barrier by default, which makes a step several times slower as soon
// as anything else wants a core. It reads its settings once, when the program is loaded: set a short spin and start
// again.
void spin_briefly(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 0);
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (!error) execv(program.c_str(), argv);  // comes back only when it failed; the defaults do then
}

int run_training(const TrainArguments& arguments) {
  if (arguments.config.empty()) {
    luq::fail_user("expected --config FILE, for example --config resnet20_luq.yaml; see --help");
  }
  const std::string file = luq::find_config(arguments.config);
  const luq::ExperimentConfig config = luq::load_experiment(file, arguments.overrides);
  if (arguments.dry_run) {
    dry_run(config);
    return 0;
  }
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
  if (result.interrupted) {
    std::string again = "luqtrain --config " + arguments.config;
    for (const std::string& override_text : arguments.overrides) again += " --set '" + override_text + "'";
    print(fmt::format("Saved. To go on: {} --resume\n", again));
    return 0;
  }
  print(
      fmt::format("Test top-1 {:.2f} % after {} steps (best {:.2f} %), in {:.0f} s.\n"
                  "The run is in {}: config.yaml, log.txt, metrics.jsonl, tensorboard/, checkpoints/.\n"
                  "Next: luqtrain eval --checkpoint {}/checkpoints/best.safetensors\n",
                  result.last_eval.top1, result.step, result.best_top1, result.seconds, directory, directory));
  return 0;
}

int run_predict(const luq::PredictOptions& options) {
  const std::vector<luq::Prediction> predictions = luq::predict(options);
  print_beside(options.logits, luq::to_text(predictions));
  int problems = 0;
  for (const luq::Prediction& prediction : predictions) {
    if (prediction.problem.empty()) continue;
    std::cerr << "luqtrain: error: " << luq::path_and_reason(prediction.image, prediction.problem) << "\n";
    ++problems;
  }
  return problems == 0 ? 0 : kFailure;
}

int run_validation(const TrainArguments& arguments, const std::string& path, int64_t workers) {
  if (arguments.config.empty() == path.empty())
    luq::fail_user("validate-data: expected --config FILE or --path FOLDER");
  const luq::ExperimentConfig config =
      path.empty() ? luq::load_experiment(luq::find_config(arguments.config), arguments.overrides)
                   : luq::config_of_folder(path);
  const bool show = isatty(STDERR_FILENO) != 0;
  const luq::ValidationReport report = luq::validate_data(config, workers, [show](int64_t done, int64_t all) {
    if (show && (done % 256 < 16 || done == all)) std::cerr << fmt::format("\r{} of {} images", done, all);
    if (show && done == all) std::cerr << "\n";
  });
  for (const std::string& broken : report.broken) print(broken + "\n");
  for (const std::string& warning : report.warnings) std::cerr << "luqtrain: warning: " << warning << "\n";
  print(fmt::format("{} training and {} test images, {} broken\n", report.train_images, report.test_images,
                    report.broken.size()));
  return report.broken.empty() ? 0 : kFailure;
}

// CLI11 makes of -1 the largest number there is, and takes a number that is too large for the largest.
std::string check_unsigned(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return "";
  return "expected an integer in 0..2^64-1, got " + text;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Trains convolutional networks with 4-bit matmuls: INT4 forward, logarithmic unbiased FP4 gradients (LUQ).\n"
      "Without a command it trains: luqtrain --config resnet20_luq.yaml"};
  app.set_version_flag("--version", std::string("luqtrain ") + LUQ_VERSION);
  app.require_subcommand(0, 1);
  app.failure_message(CLI::FailureMessage::simple);

  TrainArguments training;
  app.add_option("--config", training.config,
                 "Experiment: a YAML file, or the name of a shipped one (docs/configuration.md)");
  app.add_option("--set", training.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false);
  app.add_flag("--dry-run", training.dry_run,
               "Print the effective configuration, the plan and its cost, write nothing");
  app.add_flag("--smoke", training.smoke, "Try all of the experiment on a handful of images, in under a minute")
      ->excludes("--dry-run");
  auto* resume = app.add_flag("--resume", training.resume, "Continue the run in run.directory")->excludes("--smoke");
  app.add_flag("--overwrite", training.overwrite, "Delete the run in run.directory and start anew")
      ->excludes(resume)
      ->excludes("--smoke");

  const CLI::IsMember device_name({"cpu", "cuda"});
  luq::EvaluationOptions evaluated;
  std::string eval_config;
  std::vector<std::string> eval_overrides;
  bool eval_trained = false;
  auto* eval = app.add_subcommand("eval", "Evaluate a checkpoint or a state_dict on a test set");
  eval->add_option("--checkpoint", evaluated.checkpoint,
                   "A checkpoint of a run, or a torchvision state_dict in safetensors")
      ->required();
  eval->add_option("--config", eval_config,
                   "Experiment to use instead of the checkpoint's own; a state_dict needs one, or --model and --data");
  eval->add_option("--model", evaluated.model, "For a state_dict without --config: its model, in float32 on --data");
  eval->add_option("--data", evaluated.data, "Folder of the data, instead of data.path");
  eval->add_option("--set", eval_overrides, "key.path=value over --config; repeatable")->allow_extra_args(false);
  eval->add_option("--device", evaluated.device, "cpu or cuda, instead of the experiment's")->check(device_name);
  eval->add_flag("--no-ema", eval_trained, "The trained weights, also where the checkpoint holds their average (EMA)");

  luq::PredictOptions predicted;
  bool predict_trained = false;
  auto* predict_command = app.add_subcommand("predict", "Say what a model sees in image files (docs/interop.md)");
  predict_command->add_option("--checkpoint", predicted.checkpoint, "A checkpoint, a state_dict or a packed file")
      ->required();
  predict_command->add_option("--model", predicted.model, "The model's name, which a state_dict needs");
  predict_command->add_option("image", predicted.images, "JPEG or PNG files");
  predict_command->add_option("--images", predicted.folder,
                              "A folder: all its images and those in folders below, by path");
  predict_command->add_option("--labels", predicted.labels, "Class names, one a line, instead of the checkpoint's");
  predict_command->add_option("--logits", predicted.logits, "safetensors file to write: logits, (images, classes)");
  predict_command
      ->add_option("--device", predicted.device, "cpu or cuda, instead of what the checkpoint was trained on")
      ->check(device_name);
  predict_command->add_flag("--no-ema", predict_trained,
                            "The trained weights, also where the checkpoint holds their average (EMA)");

  luq::ExportOptions exported;
  bool export_trained = false;
  auto* export_command = app.add_subcommand("export", "Write a model in a format that others read (docs/interop.md)");
  export_command->add_option("--checkpoint", exported.checkpoint, "A checkpoint, a state_dict or a packed file")
      ->required();
  export_command
      ->add_option("--format", exported.format, "safetensors (torchvision state_dict), onnx, or packed (4-bit weights)")
      ->required();
  export_command->add_option("--output", exported.output, "File to write")->required();
  export_command->add_option("--model", exported.model, "The model's name, which a state_dict needs");
  export_command->add_flag("--no-ema", export_trained,
                           "The trained weights, also where the checkpoint holds their average (EMA)");

  TrainArguments profiled;
  luq::ProfileOptions profile;
  auto* profile_command = app.add_subcommand("profile", "Show where the time of a training step goes");
  profile_command->add_option("--config", profiled.config, "Experiment, as for training")->required();
  profile_command->add_option("--set", profiled.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false);
  profile_command->add_option("--steps", profile.steps, "Steps to record (5)");
  profile_command->add_flag("--shapes", profile.shapes, "A row for each shape");

  std::vector<std::string> plotted;
  std::string picture = "curves.svg";
  luq::PlotAxis axis = luq::PlotAxis::automatic;
  auto* plot = app.add_subcommand("plot", "Draw loss, top-1 and learning rate of several runs over each other");
  plot->add_option("run", plotted, "Folders of runs")->required();
  plot->add_option("--output", picture, "SVG file to write (curves.svg)");
  plot->add_option("--x", axis, "epochs or steps; without it epochs, where their length is known")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, luq::PlotAxis>{{"epochs", luq::PlotAxis::epochs}, {"steps", luq::PlotAxis::steps}}));

  auto* kernels = app.add_subcommand("kernels", "List what implements each kernel on this machine");
  auto* doctor = app.add_subcommand("doctor", "Show processor, libraries and data sets, and what is missing");

  const CLI::Validator unsigned_integer(check_unsigned, "", "unsigned");
  luq::QuantizeFileOptions quantize;
  auto* quantize_command = app.add_subcommand(
      "quantize",
      "Quantise the float tensors of a safetensors file with the kernels of training.\n"
      "fp4_luq draws its random bits from the stream (seed, tensor name, step, sample); docs/numerics.md");
  quantize_command->add_option("--input", quantize.input, "safetensors file")->required();
  quantize_command->add_option("--format", quantize.format, "int4_sawb, uint4_sawb or fp4_luq")->required();
  quantize_command->add_option("--output", quantize.output, "safetensors file to write")->required();
  quantize_command->add_option("--device", quantize.device, "cpu or cuda: the same codes (cpu)")->check(device_name);
  quantize_command->add_option("--seed", quantize.seed, "Seed of the random bits (0)")->check(unsigned_integer);
  quantize_command->add_option("--step", quantize.step, "Step of the random bits (0)")->check(unsigned_integer);
  quantize_command->add_option("--sample", quantize.sample, "Sample of the random bits, 0..65535 (0)")
      ->check(unsigned_integer);

  TrainArguments validated;
  std::string validated_path;
  int64_t validate_workers = 0;
  auto* validate_command = app.add_subcommand(
      "validate-data", "Decode every image of a data set and list the broken ones; ends with 1 when there are any");
  auto* validate_config = validate_command->add_option("--config", validated.config, "Experiment, as for training");
  validate_command->add_option("--set", validated.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false)
      ->needs(validate_config);
  validate_command->add_option("--path", validated_path, "Instead: a folder of classes, or of tar shards")
      ->excludes(validate_config);
  validate_command->add_option("--workers", validate_workers, "Threads (0: all cores)");

  luq::PackOptions pack;
  auto* pack_command = app.add_subcommand(
      "pack", "Write WebDataset tar shards, an index of each, and classes.txt from folders of classes (docs/data.md)");
  pack_command->add_option("--input", pack.input, "Folder with train/<class>/* and val/<class>/* or test/<class>/*")
      ->required();
  pack_command->add_option("--output", pack.output, "Folder to make")->required();
  pack_command->add_option("--val-labels", pack.val_labels,
                           "File of the classes of test images that lie in one folder");
  pack_command->add_option("--shard-size", pack.shard_size, "Images in a shard (1000)");
  pack_command->add_option("--shuffle", pack.shuffle, "Seed of a random order of the training images (none: by class)")
      ->check(unsigned_integer);
  pack_command->add_option("--workers", pack.workers, "Shards written at a time (4)");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUserMistake;
  }
  try {
    if (eval->parsed()) {
      if (!eval_config.empty()) evaluated.config = luq::load_experiment(luq::find_config(eval_config), eval_overrides);
      if (eval_config.empty() && !eval_overrides.empty()) luq::fail_user("--set needs --config here");
      if (eval_trained) evaluated.weights = luq::CheckpointWeights::trained;
      const auto [result, is_ema, warning] = luq::evaluate_checkpoint(evaluated);
      print(fmt::format("{}: test top-1 {:.2f} %, {}loss {:.4f}, {} images{}\n", evaluated.checkpoint, result.top1,
                        result.top5 ? fmt::format("top-5 {:.2f} %, ", *result.top5) : "", result.loss, result.images,
                        is_ema ? " (EMA of the weights)" : ""));
      if (!warning.empty()) std::cerr << "luqtrain: warning: " << warning << "\n";
    } else if (predict_command->parsed()) {
      if (predict_trained) predicted.weights = luq::CheckpointWeights::trained;
      return run_predict(predicted);
    } else if (export_command->parsed()) {
      if (export_trained) exported.weights = luq::CheckpointWeights::trained;
      print_beside(exported.output, luq::export_model(exported));
    } else if (profile_command->parsed()) {
      const luq::ExperimentConfig config = luq::load_experiment(luq::find_config(profiled.config), profiled.overrides);
      print(luq::profile_report(config, profile));
    } else if (plot->parsed()) {
      luq::plot_runs_to_file(plotted, axis, picture);
      print_beside(picture, fmt::format("{}\n", picture));
    } else if (kernels->parsed()) {
      print(luq::describe_kernels());
    } else if (doctor->parsed()) {
      print(luq::doctor_report());
    } else if (validate_command->parsed()) {
      return run_validation(validated, validated_path, validate_workers);
    } else if (pack_command->parsed()) {
      const luq::PackReport report = luq::pack_shards(pack);
      print(fmt::format("{}: {} training images in {} shards, {} test images in {} shards, {} MiB\n", pack.output,
                        report.train_images, report.train_shards, report.val_images, report.val_shards,
                        report.bytes >> 20));
    } else if (quantize_command->parsed()) {
      print_beside(quantize.output, luq::quantize_file(quantize));
    } else {
      return run_training(training);
    }
  } catch (const luq::UserError& error) {
    std::cerr << "luqtrain: error: " << error.what() << "\n";
    return kUserMistake;
  } catch (const std::bad_alloc&) {  // where nothing more is known
    const std::vector<CLI::App*> commands = app.get_subcommands();
    std::cerr << "luqtrain: error: [" << (commands.empty() ? "train" : commands.front()->get_name())
              << "] out of memory: " << luq::memory_stats().live_bytes << " in use\n";
    return kFailure;
  } catch (const std::exception& error) {
    std::cerr << "luqtrain: error: " << error.what() << "\n";
    return kFailure;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  spin_briefly(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // what passes the limit of a file's size is an error of the write
  int code = kFailure;
  try {
    code = run(argc, argv);
  } catch (const std::bad_alloc&) {  // before it was known what to do
    std::cerr << "luqtrain: error: [luqtrain] out of memory when it started\n";
  }
  if (std::cout.flush()) return code;
  std::cerr << "luqtrain: error: standard output cannot be written; what was said there is incomplete\n";
  return code == 0 ? kFailure : code;
}
