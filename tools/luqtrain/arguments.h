// What was asked for on the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "luq/core/log.h"
#include "luq/data/pack.h"
#include "luq/train/export.h"
#include "luq/train/plot.h"
#include "luq/train/predict.h"
#include "luq/train/profile_report.h"
#include "luq/train/quantize_file.h"
#include "luq/train/trainer.h"

namespace luqtrain {

// An experiment: a file and what is set over it.
struct ExperimentArguments {
  std::string config;
  std::vector<std::string> overrides;
};

struct TrainArguments {
  ExperimentArguments experiment;
  bool dry_run = false, smoke = false, resume = false, overwrite = false;
};

struct EvalArguments {
  luq::EvaluationOptions options;
  ExperimentArguments experiment;  // no file: the checkpoint's own
};

struct ProfileArguments {
  luq::ProfileOptions options;
  ExperimentArguments experiment;
};

struct PlotArguments {
  std::vector<std::string> runs;
  std::string output = "curves.svg";
  luq::PlotAxis axis = luq::PlotAxis::automatic;
};

struct ValidateArguments {
  ExperimentArguments experiment;
  std::string path;  // instead of an experiment
  int64_t workers = 0;
};

struct Arguments {
  std::string command;  // "eval", ...; "" trains
  luq::LogLevel log_level = luq::LogLevel::info;
  TrainArguments train;
  EvalArguments eval;
  luq::PredictOptions predict;
  luq::ExportOptions exported;
  ProfileArguments profile;
  PlotArguments plot;
  luq::QuantizeFileOptions quantize;
  ValidateArguments validate;
  luq::PackOptions pack;

  // A run, with a folder of its own.
  bool is_training() const { return command.empty() && !train.dry_run && !train.smoke; }
};

// Fills `arguments`. Returns an exit code where nothing is left to do: help was shown, or a mistake was named.
std::optional<int> parse(int argc, char** argv, Arguments& arguments);

}  // namespace luqtrain
