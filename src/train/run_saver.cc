#include "src/train/run_saver.h"

#include <utility>

#include "luq/core/error.h"
#include "src/core/no_memory.h"

namespace luq {

RunSaver::RunSaver(const RunDirectory& directory, Module& model, const Optimizer& optimizer, const ModelEma* ema,
                   LineFile& metrics, RunLog& log)
    : directory_(directory), model_(model), optimizer_(optimizer), ema_(ema), metrics_(metrics), log_(log) {}

void RunSaver::begin(const TrainState& state, bool resumed) {
  best_top1_ = state.best_top1;
  const CheckpointFolder folder = directory_.checkpoints();
  try {
    if (resumed) {
      folder.prove(model_, optimizer_, state, ema_);
    } else {
      folder.save_last(model_, optimizer_, state, ema_);
    }
    saved_ = state;
  } catch (const OutOfMemory&) {
    throw;
  } catch (const Error& error) {
    fail("[train] the run could not be saved, so it does not begin: {}{}", error.what(),
         resumed ? fmt::format("; the checkpoint of step {} stays", state.step) : "");
  }
}

bool RunSaver::save_last(const TrainState& state, bool must_succeed) {
  const auto same = [&](const TrainState& saved) {
    return saved.step == state.step && saved.epoch == state.epoch && saved.finished == state.finished &&
           saved.best_top1 == state.best_top1 && saved.config == state.config;
  };
  if (saved_ && same(*saved_)) return true;
  if (!metrics_.sync())
    log_.warning(fmt::format("{} cannot be synced; a power cut may take lines", directory_.metrics()));
  try {
    or_out_of_memory("[checkpoint] the state is saved:",
                     [&] { directory_.checkpoints().save_last(model_, optimizer_, state, ema_); });
    saved_ = state;
    return true;
  } catch (const Error& error) {
    const std::string kept =
        saved_ ? fmt::format("the checkpoint of step {} stays", saved_->step) : "there is no checkpoint yet";
    if (must_succeed) fail("[train] step {}: {}; {}", state.step, error.what(), kept);
    log_.warning(fmt::format("step {}: {}; {}, and the run goes on", state.step, error.what(), kept));
    return false;
  }
}

void RunSaver::save_best(const TrainState& state) {
  std::optional<SafeTensors> content;
  try {
    or_out_of_memory("[checkpoint] the best state is saved:", [&] {
      content = checkpoint_content(model_, optimizer_, state, ema_);
      save_safetensors(directory_.checkpoints().best(), *content);
    });
    best_top1_ = state.best_top1;
    if (pending_ && pending_->top1 <= best_top1_) pending_.reset();
    return;
  } catch (const Error& error) {
    if (pending_ && pending_->top1 > state.best_top1) return;  // one that is still missed
    pending_ = Pending{std::nullopt, state.best_top1, state.step, error.what()};
  }
  try {
    or_out_of_memory("[checkpoint] the best state is kept:", [&] {
      for (auto& [name, tensor] : content.value().tensors) tensor = tensor.clone();
    });
    pending_->content = std::move(content);
  } catch (const std::exception&) {  // no memory for it
  }
  log_.warning(fmt::format("step {}: {}; {}the run goes on", state.step, pending_->reason,
                           pending_->content ? "it is tried again with each checkpoint, and " : ""));
  retry_best();
}

void RunSaver::retry_best() {
  if (!pending_ || !pending_->content) return;
  try {
    or_out_of_memory("[checkpoint] the best state is saved:",
                     [&] { save_safetensors(directory_.checkpoints().best(), *pending_->content); });
    log_.info(fmt::format("saved the best state, of step {}, at last", pending_->step));
    best_top1_ = pending_->top1;
    pending_.reset();
  } catch (const Error& error) {
    pending_->reason = error.what();
  }
}

std::string RunSaver::missed_best() const {
  if (!pending_) return "";
  return fmt::format("[train] the best state, top-1 {:.2f} % at step {}, could not be saved: {}; {}", pending_->top1,
                     pending_->step, pending_->reason,
                     best_top1_ < 0 ? "there is no best.safetensors"
                                    : fmt::format("best.safetensors holds one of top-1 {:.2f} %", best_top1_));
}

}  // namespace luq
