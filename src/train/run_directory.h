// The folder of one run: config.yaml, log.txt, metrics.jsonl, tensorboard/, checkpoints/.
#pragma once

#include <string>

#include "luq/train/checkpoint.h"
#include "luq/train/trainer.h"

namespace luq {

class RunDirectory {
 public:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config() const { return path_ + "/config.yaml"; }
  std::string log() const { return path_ + "/log.txt"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string tensorboard() const { return path_ + "/tensorboard"; }
  CheckpointFolder checkpoints() const { return CheckpointFolder(path_ + "/checkpoints"); }

  // Throws UserError when a run cannot be started so here: there is a run already (fresh), there is none (resume), the
  // folder holds other things, it or its parent cannot be written. Throws Error when the system cannot tell. Writes
  // nothing. What a start that was cut off before its first checkpoint left is no run yet: each mode starts there.
  void check(StartMode mode) const;
  // There is a checkpoint, or a line of metrics: something to go on from, or to lose.
  bool has_progress() const;
  // Makes the folders, to survive a power cut. Throws UserError naming the path and the system's reason.
  void create() const;
  // Makes durable what was made in the folder. Throws Error.
  void sync() const;
  // Deletes a run's files (and nothing else) but for log.txt, which its owner empties. Cut off anywhere, it leaves a
  // run that can be resumed, or one that --overwrite takes. Throws Error.
  void remove_run() const;

 private:
  bool holds_run() const;
  bool holds_other_things() const;
  std::string path_;
};

}  // namespace luq
