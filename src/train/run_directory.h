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
  // folder holds other things, it or its parent cannot be written. Writes nothing.
  void check(StartMode mode) const;
  // Makes the folders. Throws UserError naming the path and the system's reason.
  void create() const;
  // Deletes a run's files (and nothing else) but for log.txt, which its owner empties.
  void remove_run() const;

 private:
  bool holds_run() const;
  std::string path_;
};

}  // namespace luq
