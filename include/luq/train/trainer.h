// Running an experiment: train, resume, evaluate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "luq/config/experiment.h"
#include "luq/data/loader.h"
#include "luq/train/checkpoint.h"

namespace luq {

enum class StartMode {
  fresh,      // an existing run in run.directory is an error that names --resume and --overwrite
  resume,     // continue from checkpoints/last.safetensors
  overwrite,  // delete the run and start anew
};

struct EvalResult {
  double loss = 0;               // mean over images
  double top1 = 0;               // percent
  std::optional<double> top5{};  // percent; for 5 classes or more
  int64_t images = 0;
  std::vector<BrokenImage> broken = {};  // that were left out, where data.broken_images is not error
};

struct TrainResult {
  bool already_finished = false;  // resume of a finished run: nothing was done
  int stopped_by = 0;             // the number of the signal (luq/core/stop_signals.h) that made it save and stop early
  int64_t step = 0;               // global steps done
  EvalResult last_eval;           // of the average of the weights, where there is one
  double best_top1 = 0;
  double seconds = 0;
};

// Trains config's experiment in config.run.directory. Everything that can be checked is checked before the directory is
// created. Throws UserError for the user's mistakes, Error for failures (NaN with the layer's name and the step),
// and Stopped when a signal comes before anything was written (luq/core/stop_signals.h).
TrainResult train(const ExperimentConfig& config, StartMode mode);

struct CheckpointEval {
  EvalResult result;
  bool is_ema = false;  // of the average of the weights
  std::string warning;  // why the numbers may mislead; "" when there is nothing to say
};

struct EvaluationOptions {
  std::string checkpoint;                  // a checkpoint, a packed file or a state_dict
  std::optional<ExperimentConfig> config;  // instead of the file's own
  std::string model;   // for a state_dict without a config: its name in the zoo, in float32 on class folders of images
  std::string data;    // instead of data.path; "": that
  std::string device;  // cpu or cuda, instead of the configuration's; "": that
  CheckpointWeights weights = CheckpointWeights::ema_if_stored;
};

// Evaluates on the test set. Quantised layers without an activation scale (a state_dict holds none) use each batch's
// own, and the warning says so. Throws UserError for a file without a configuration when none is given.
CheckpointEval evaluate_checkpoint(const EvaluationOptions& options);

}  // namespace luq
