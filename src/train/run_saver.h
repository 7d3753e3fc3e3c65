// What a run saves, when, and what becomes of it when it cannot: last.safetensors and best.safetensors.
#pragma once

#include <limits>
#include <optional>
#include <string>

#include "src/train/line_file.h"
#include "src/train/run_directory.h"
#include "src/train/run_log.h"

namespace luq {

// When a checkpoint is due for its time: once, after a minute of training, so that what keeps a run from being saved is
// known soon whatever train.checkpoint_every says; and a minute after one that failed.
class SaveClock {
 public:
  // seconds: of training in this process.
  bool due(double seconds) const { return seconds >= next_; }
  void saved() { next_ = std::numeric_limits<double>::infinity(); }
  void failed(double seconds) { next_ = seconds + minute; }

 private:
  static constexpr double minute = 60;
  double next_ = minute;
};

class RunSaver {
 public:
  // Everything must outlive it.
  RunSaver(const RunDirectory& directory, Module& model, const Optimizer& optimizer, const ModelEma* ema,
           LineFile& metrics, RunLog& log);

  // Before the first step: shows that the run can be saved. A new one gets its first checkpoint, of step 0; a resumed
  // one writes what it would save and removes it. Throws Error when it cannot.
  void begin(const TrainState& state, bool resumed);

  // last.safetensors; "saved" means that it, and the lines of metrics.jsonl up to it, survive a power cut. False when
  // it could not be saved and need not be, which is said; else throws Error.
  bool save_last(const TrainState& state, bool must_succeed);

  // best.safetensors, of a state whose best_top1 it is. What cannot be written is kept, and tried again with every
  // later save until a better one comes.
  void save_best(const TrainState& state);
  void retry_best();
  // Percent; of best.safetensors, and of what it will hold when it can be written. -1: none.
  double best_top1() const { return best_top1_; }
  double wanted_top1() const { return pending_ && pending_->content ? pending_->top1 : best_top1_; }
  // After the last save: why best.safetensors is not the best; "" when it is.
  std::string missed_best() const;

  // What last.safetensors holds.
  const std::optional<TrainState>& saved() const { return saved_; }

 private:
  struct Pending {
    std::optional<SafeTensors> content;
    double top1 = 0;
    int64_t step = 0;
    std::string reason;
  };

  const RunDirectory& directory_;
  Module& model_;
  const Optimizer& optimizer_;
  const ModelEma* ema_;
  LineFile& metrics_;
  RunLog& log_;
  std::optional<TrainState> saved_;
  double best_top1_ = -1;
  std::optional<Pending> pending_;
};

}  // namespace luq
