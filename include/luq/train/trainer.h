// Running an experiment: train, resume, evaluate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "luq/config/experiment.h"

namespace luq {

enum class StartMode {
  fresh,      // an existing run in run.directory is an error that names --resume and --overwrite
  resume,     // continue from checkpoints/last.safetensors
  overwrite,  // delete the run and start anew
};

struct EvalResult {
  double loss = 0;  // mean over images
  double top1 = 0;  // percent
  int64_t images = 0;
};

struct TrainResult {
  bool already_finished = false;  // resume of a finished run: nothing was done
  bool interrupted = false;       // SIGINT or SIGTERM: saved and stopped early
  int64_t step = 0;               // global steps done
  EvalResult last_eval;
  double best_top1 = 0;
  double seconds = 0;
};

// Trains config's experiment in config.run.directory. Everything that can be checked is checked before the directory is
// created. Throws UserError for the user's mistakes, Error for failures (NaN with the layer's name and the step).
TrainResult train(const ExperimentConfig& config, StartMode mode);

// Evaluates a checkpoint on its test set, with the configuration stored in it unless one is given.
EvalResult evaluate_checkpoint(const std::string& checkpoint, const std::optional<ExperimentConfig>& config);

}  // namespace luq
