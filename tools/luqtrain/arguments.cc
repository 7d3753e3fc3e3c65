#include "tools/luqtrain/arguments.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>

#include "luq/core/error.h"
#include "luq/core/log.h"
#include "luq/core/shell.h"
#include "tools/luqtrain/advice.h"
#include "tools/luqtrain/commands.h"

namespace luqtrain {
namespace {

// CLI11 makes of -1 the largest number there is, and takes a number that is too large for the largest.
std::string check_unsigned(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return "";
  return "expected an integer in 0..2^64-1, got " + text;
}

std::string check_integer(const std::string& text) {
  int64_t value = 0;
  const char* begin = text.data() + (text.starts_with('+') && !text.starts_with("+-") ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return "";
  return "expected an integer, got '" + text + "'";
}

// To the number that CLI11 makes an axis of.
std::string read_axis(std::string& text) {
  if (text != "epochs" && text != "steps") return "expected epochs or steps, got '" + text + "'";
  text = std::to_string(static_cast<int>(text == "epochs" ? luq::PlotAxis::epochs : luq::PlotAxis::steps));
  return "";
}

// Shells expand the ~ of a word of its own, and not that of --checkpoint=~/x.
void expand_paths(Arguments& arguments) {
  const auto expand = [](std::string& path) { path = luq::expand_home(path); };
  for (ExperimentArguments* experiment : {&arguments.train.experiment, &arguments.eval.experiment,
                                          &arguments.profile.experiment, &arguments.validate.experiment}) {
    expand(experiment->config);
  }
  for (std::string* path :
       {&arguments.eval.options.checkpoint, &arguments.eval.options.data, &arguments.predict.checkpoint,
        &arguments.predict.folder, &arguments.predict.labels, &arguments.predict.logits, &arguments.exported.checkpoint,
        &arguments.exported.output, &arguments.plot.output, &arguments.quantize.input, &arguments.quantize.output,
        &arguments.validate.path, &arguments.pack.input, &arguments.pack.output, &arguments.pack.val_labels}) {
    expand(*path);
  }
  for (std::string& image : arguments.predict.images) expand(image);
  for (std::string& run : arguments.plot.runs) expand(run);
}

}  // namespace

std::optional<int> parse(int argc, char** argv, Arguments& arguments) {
  CLI::App app{
      "Trains convolutional networks with 4-bit matmuls: INT4 forward, logarithmic unbiased FP4 gradients (LUQ).\n"
      "Without a command it trains: luqtrain --config resnet20_luq.yaml"};
  app.set_version_flag("--version", std::string("luqtrain ") + LUQ_VERSION);
  app.require_subcommand(0, 1);
  app.footer(
      "Ends with 0 when finished, 1 after a failure, 2 after a user's mistake, 128 + n when stopped by signal n.");

  TrainArguments& training = arguments.train;
  app.add_option("--config", training.experiment.config,
                 "Experiment: a YAML file, or the name of a shipped one (docs/configuration.md)");
  app.add_option("--set", training.experiment.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false);
  app.add_flag("--dry-run", training.dry_run,
               "Print the effective configuration, the plan and its cost, write nothing");
  app.add_flag("--smoke", training.smoke, "Try all of the experiment on a handful of images, in under a minute")
      ->excludes("--dry-run");
  auto* resume = app.add_flag("--resume", training.resume, "Continue the run in run.directory")->excludes("--smoke");
  app.add_flag("--overwrite", training.overwrite, "Delete the run in run.directory and start anew")
      ->excludes(resume)
      ->excludes("--smoke");

  const CLI::Validator integer(check_integer, "", "integer");
  const CLI::IsMember device_name({"cpu", "cuda"});
  luq::EvaluationOptions& evaluated = arguments.eval.options;
  ExperimentArguments& eval_experiment = arguments.eval.experiment;
  bool eval_trained = false;
  auto* eval = app.add_subcommand("eval", "Evaluate a checkpoint or a state_dict on a test set");
  eval->add_option("--checkpoint", evaluated.checkpoint,
                   "A checkpoint of a run, or a torchvision state_dict in safetensors")
      ->required();
  eval->add_option("--config", eval_experiment.config,
                   "Experiment to use instead of the checkpoint's own; a state_dict needs one, or --model and --data");
  eval->add_option("--model", evaluated.model, "For a state_dict without --config: its model, in float32 on --data");
  eval->add_option("--data", evaluated.data, "Folder of the data, instead of data.path");
  eval->add_option("--set", eval_experiment.overrides, "key.path=value over --config; repeatable")
      ->allow_extra_args(false);
  eval->add_option("--device", evaluated.device, "cpu or cuda, instead of the experiment's")->check(device_name);
  eval->add_flag("--no-ema", eval_trained, "The trained weights, also where the checkpoint holds their average (EMA)");

  luq::PredictOptions& predicted = arguments.predict;
  bool predict_trained = false;
  auto* predict_command = app.add_subcommand("predict", "Say what a model sees in image files (docs/interop.md)");
  predict_command->add_option("--checkpoint", predicted.checkpoint, "A checkpoint, a state_dict or a packed file")
      ->required();
  predict_command->add_option("--model", predicted.model, "The model's name, which a state_dict needs");
  predict_command->add_option("image", predicted.images, "Image files");
  predict_command->add_option("--images", predicted.folder,
                              "A folder: all its images and those in folders below, by path");
  predict_command->add_option("--labels", predicted.labels, "Class names, one a line, instead of the checkpoint's");
  predict_command->add_option("--logits", predicted.logits, "safetensors file to write: logits, (images, classes)");
  predict_command
      ->add_option("--device", predicted.device, "cpu or cuda, instead of what the checkpoint was trained on")
      ->check(device_name);
  predict_command->add_flag("--no-ema", predict_trained,
                            "The trained weights, also where the checkpoint holds their average (EMA)");

  luq::ExportOptions& exported = arguments.exported;
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

  ExperimentArguments& profiled = arguments.profile.experiment;
  luq::ProfileOptions& profile = arguments.profile.options;
  auto* profile_command = app.add_subcommand("profile", "Show where the time of a training step goes");
  profile_command->add_option("--config", profiled.config, "Experiment, as for training")->required();
  profile_command->add_option("--set", profiled.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false);
  profile_command->add_option("--steps", profile.steps, "Steps to record (5)")->check(integer);
  profile_command->add_flag("--shapes", profile.shapes, "A row for each shape");

  auto* plot = app.add_subcommand("plot", "Draw loss, top-1 and learning rate of several runs over each other");
  plot->add_option("run", arguments.plot.runs, "Folders of runs")->required();
  plot->add_option("--output", arguments.plot.output, "SVG file to write (curves.svg)");
  plot->add_option("--x", arguments.plot.axis, "epochs or steps; without it epochs, where their length is known")
      ->transform(CLI::Validator(read_axis, "", "axis"));

  app.add_subcommand("kernels", "List what implements each kernel on this machine");
  app.add_subcommand("doctor", "Show processor, libraries and data sets, and what is missing");

  const CLI::Validator unsigned_integer(check_unsigned, "", "unsigned");
  luq::QuantizeFileOptions& quantize = arguments.quantize;
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

  ExperimentArguments& validated = arguments.validate.experiment;
  auto* validate_command = app.add_subcommand(
      "validate-data", "Decode every image of a data set and list the broken ones; ends with 1 when there are any");
  auto* validate_config = validate_command->add_option("--config", validated.config, "Experiment, as for training");
  validate_command->add_option("--set", validated.overrides, "key.path=value, wins over the file; repeatable")
      ->allow_extra_args(false)
      ->needs(validate_config);
  validate_command->add_option("--path", arguments.validate.path, "Instead: a folder of classes, or of tar shards")
      ->excludes(validate_config);
  validate_command->add_option("--workers", arguments.validate.workers, "Threads (0: OMP_NUM_THREADS, else all cores)")
      ->check(integer);

  luq::PackOptions& pack = arguments.pack;
  auto* pack_command = app.add_subcommand(
      "pack", "Write WebDataset tar shards, an index of each, and classes.txt from folders of classes (docs/data.md)");
  pack_command->add_option("--input", pack.input, "Folder with train/<class>/* and val/<class>/* or test/<class>/*")
      ->required();
  pack_command->add_option("--output", pack.output, "Folder to make")->required();
  pack_command->add_option("--val-labels", pack.val_labels,
                           "File of the classes of test images that lie in one folder");
  pack_command->add_option("--shard-size", pack.shard_size, "Images in a shard (1000)")->check(integer);
  pack_command->add_option("--shuffle", pack.shuffle, "Seed of a random order of the training images (none: by class)")
      ->check(unsigned_integer);
  pack_command->add_option("--workers", pack.workers, "Shards written at a time (4)")->check(integer);

  std::string log_level = "info";
  const std::vector<std::string> levels(std::begin(luq::log_level_names), std::end(luq::log_level_names));
  const auto add_log_level = [&](CLI::App* command) {
    command
        ->add_option("--log-level", log_level, "What is said beside results: debug, info, warning, error or off (info)")
        ->check(CLI::IsMember(levels).description(""));
  };
  add_log_level(&app);
  for (CLI::App* command : app.get_subcommands({})) add_log_level(command);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help, version
    const auto [word, text] = advice(app, {argv + 1, argv + argc});
    luq::log_error((word.empty() ? error.what() : luq::shell_quote(word) + " is not expected here") + "\n" +
                   (text.empty() ? "Run with --help for more information." : text));
    return kUserMistake;
  }
  arguments.log_level = static_cast<luq::LogLevel>(std::ranges::find(levels, log_level) - levels.begin());
  if (eval_trained) evaluated.weights = luq::CheckpointWeights::trained;
  if (predict_trained) predicted.weights = luq::CheckpointWeights::trained;
  if (export_trained) exported.weights = luq::CheckpointWeights::trained;
  expand_paths(arguments);
  for (const CLI::App* command : app.get_subcommands()) arguments.command = command->get_name();
  for (const CLI::Option* option : app.get_options()) {
    if (arguments.command.empty() || option->count() == 0 || option->get_name() == "--log-level") continue;
    luq::log_error(fmt::format("{} before {} is not expected here\noptions of {} come behind it", option->get_name(),
                               arguments.command, arguments.command));
    return kUserMistake;
  }
  return std::nullopt;
}

}  // namespace luqtrain
