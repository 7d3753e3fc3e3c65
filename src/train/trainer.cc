// The training loop.
//
// A run is a position (step, epoch, batch in epoch) that moves forward one update at a time, with an evaluation at the
// end of each epoch and of the run. Everything else, from the learning rate to the random bits, is a function of the
// position and the configuration, so a run that goes on from a checkpoint does what it would have done.
//
// A position whose batches are all done but whose epoch has not been advanced still owes its evaluation; after the
// evaluation the epoch advances and batch becomes 0. So a checkpoint always says by itself what comes next.
#include "luq/train/trainer.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "luq/config/load.h"
#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/stop_signals.h"
#include "luq/train/checkpoint.h"
#include "luq/train/ema.h"
#include "luq/train/lr_scheduler.h"
#include "luq/train/optimizer.h"
#include "luq/train/plan.h"
#include "src/core/no_memory.h"
#include "src/train/batch_feeder.h"
#include "src/train/dataset_json.h"
#include "src/train/denormal_warning.h"
#include "src/train/experiment_parts.h"
#include "src/train/line_file.h"
#include "src/train/metrics.h"
#include "src/train/prepare_steps.h"
#include "src/train/resumption.h"
#include "src/train/run_directory.h"
#include "src/train/run_log.h"
#include "src/train/run_saver.h"
#include "src/train/run_start.h"
#include "src/train/step_limit.h"
#include "src/train/tensorboard.h"
#include "src/train/training_step.h"

namespace luq {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds since 1970.
double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// What the steps of this process since the last train line took.
struct Timing {
  double data_seconds = 0, seconds = 0;
  int64_t images = 0, steps = 0;
};

// The error, what helps, and what the experiment needs by its plan.
std::string with_memory_plan(const OutOfMemory& error, const ExperimentConfig& config) {
  const std::string text = fmt::format(
      "{}; lower train.batch_size, raise train.micro_batches{}, or lower eval.batch_size where it evaluates",
      error.what(), config.train.recompute ? "" : ", set train.recompute where convolutions are quantised");
  try {
    return fmt::format("{}; the experiment's memory is {}", text, describe_memory(config));
  } catch (const Error&) {  // no memory for that either
    return text;
  } catch (const std::bad_alloc&) {
    return text;
  }
}

class Trainer {
 public:
  Trainer(const ExperimentConfig& config, StartMode mode) : config_(config), directory_(config.run.directory) {
    directory_.check(mode);
    std::optional<Checkpoint> checkpoint;
    if (mode == StartMode::resume && directory_.has_progress()) {
      checkpoint = read_resumable();
    } else if (mode == StartMode::resume) {
      start_warning_ = "no checkpoint was written yet: the run begins at its first step";
    }
    parts_ = make_parts(config_, true);
    feeder_.emplace(parts_.train_set, transform_options(config_),
                    LoaderOptions{.batch_size = config_.train.batch_size,
                                  .shuffle = true,
                                  .augment = true,
                                  .drop_last = true,
                                  .workers = config_.data.workers,
                                  .prefetch = config_.data.prefetch,
                                  .seed = config_.seed,
                                  .broken_images = parse_broken_images(config_.data.broken_images),
                                  .device = parts_.device});
    horizon_ = {config_.train.epochs, feeder_->batches_per_epoch()};
    check_lr_schedule(config_.lr_scheduler, horizon_);
    optimizer_ = make_optimizer(config_.optimizer, parts_.model->parameters(), *parts_.kernels);
    if (config_.train.ema_decay > 0) ema_.emplace(*parts_.model, config_.train.ema_decay);
    last_step_ = horizon_.steps();
    if (config_.train.max_steps > 0) last_step_ = std::min(last_step_, config_.train.max_steps);
    state_.seed = config_.seed;
    if (checkpoint) {
      restore(*checkpoint, *parts_.model, *optimizer_, ema());
      state_ = checkpoint->state;
      last_line_ = last_line_at(*checkpoint);
      check_same_data(*checkpoint, parts_.train_set->info(), horizon_.steps_per_epoch);
      already_finished_ = state_.finished && state_.step >= last_step_;
      horizon_changes_ = describe_horizon_change(parse_experiment(state_.config, checkpoint->file, {}), config_,
                                                 horizon_.steps_per_epoch, state_.step);
      resumed_ = true;
    } else {
      start_ = load_initial_weights(config_, *parts_.model);
    }
    state_.config = to_yaml(config_);
    state_.data = to_json(parts_.train_set->info());
  }

  TrainResult run();

 private:
  enum class Outcome { done, interrupted };

  Checkpoint read_resumable();
  void open_files();
  bool lacks_best() const;
  void begin_saving();
  void say_start();
  Outcome train_and_evaluate();
  Outcome train_batches();
  Outcome evaluate_here();
  Batch next_batch();
  void report(const std::vector<BrokenImage>& images);
  bool counts_broken_images() const { return config_.data.broken_images != "error"; }
  void train_step(const Batch& batch);
  void write_train_line();
  bool save_last(bool must_succeed);
  TrainResult stop();
  void check_state();
  void append_metrics(Metrics metrics);
  std::string best_file() const { return directory_.checkpoints().best(); }
  ModelEma* ema() { return ema_ ? &*ema_ : nullptr; }
  int64_t epoch_number() const { return std::min(state_.epoch + 1, config_.train.epochs); }
  double current_lr(int64_t step) const {
    return learning_rate(config_.lr_scheduler, config_.optimizer.lr, horizon_, std::max<int64_t>(step, 0));
  }

  StopSignals signals_;  // from before the data are listed, which may take long
  ExperimentConfig config_;
  RunDirectory directory_;
  ExperimentParts parts_;
  std::optional<BatchFeeder> feeder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<ModelEma> ema_;
  LrHorizon horizon_;
  int64_t last_step_ = 0;  // the run ends after this many updates
  TrainState state_;
  bool already_finished_ = false, resumed_ = false;
  std::vector<std::string> horizon_changes_;
  std::string start_;          // where the weights come from, "" for random ones
  std::string start_warning_;  // what is said of what the run goes on from
  std::string resumed_from_;   // the file
  LinePosition last_line_;     // that metrics.jsonl had there
  std::vector<std::string> lines_warnings_;

  std::optional<LineFile> log_file_, metrics_file_;
  std::optional<TensorBoardFile> tensorboard_;
  std::optional<RunSaver> saver_;
  SaveClock save_clock_;
  std::optional<RunLog> log_;
  Timing timing_;
  DenormalWarning denormals_;
  std::optional<StepLimit> limit_;
  double train_seconds_ = 0;        // in steps of this process
  std::set<std::string> reported_;  // broken images
  int64_t steps_here_ = 0;
  EvalResult last_eval_;
  Clock::time_point started_ = Clock::now();
};

Checkpoint Trainer::read_resumable() {
  Resumable found = directory_.checkpoints().read_last();
  Checkpoint& checkpoint = found.checkpoint;
  start_warning_ = found.warning;
  resumed_from_ = checkpoint.file;
  check_same_experiment(checkpoint, config_, directory_.path());
  return std::move(checkpoint);
}

void Trainer::open_files() {
  directory_.create();
  log_file_.emplace(directory_.log(), true);
  if (!resumed_) {
    directory_.remove_run();
    log_file_->clear();
  } else {
    // An evaluation at this step stays only when the checkpoint was made after it.
    const std::string file = directory_.metrics();
    const CutBack lines = cut_back_metrics(file, state_.step, state_.finished || state_.batch == 0);
    lines_warnings_ = warnings_of(lines, file, state_.step, last_line_);
    directory_.checkpoints().settle(resumed_from_);
  }
  metrics_file_.emplace(directory_.metrics(), false);
  tensorboard_.emplace(directory_.tensorboard(), now(), read_metrics(directory_.metrics()));
  write_text_file(directory_.config(), state_.config);
  directory_.sync();
}

// The state says what best.safetensors holds, and there is none.
bool Trainer::lacks_best() const {
  std::error_code error;
  return state_.best_top1 >= 0 && !std::filesystem::exists(best_file(), error) && !error;
}

void Trainer::begin_saving() {
  if (!start_warning_.empty()) log_->warning(start_warning_);
  for (const std::string& warning : lines_warnings_) log_->warning(warning);
  if (lacks_best()) {
    log_->warning(fmt::format("{} is not there any more; the next evaluation makes one", best_file()));
    state_.best_top1 = -1;
  }
  saver_.emplace(directory_, *parts_.model, *optimizer_, ema(), *metrics_file_, *log_);
  saver_->begin(state_, resumed_);
}

void Trainer::say_start() {
  say_parts(*log_, config_, parts_, start_);
  limit_.emplace([this] { return probe_machine(*parts_.kernels); });
  if (limit_->machine().known()) log_->info(fmt::format("limits   {}", to_string(limit_->machine())));
  log_->info(fmt::format("plan     {} epochs of {} steps of {} images{}", horizon_.epochs, horizon_.steps_per_epoch,
                         config_.train.batch_size,
                         last_step_ < horizon_.steps() ? fmt::format(", ending at step {}", last_step_) : ""));
  if (!resumed_) return;
  log_->info(fmt::format("resumed at step {}, epoch {}", state_.step, epoch_number()));
  for (const std::string& change : horizon_changes_) log_->info("changed  " + change);
}

void Trainer::append_metrics(Metrics metrics) {
  metrics.time = now();
  if (!metrics_file_->append(to_json(metrics))) {
    log_->warning(fmt::format("{} cannot be written; a line is lost", directory_.metrics()));
  }
  if (!tensorboard_->append(metrics)) {
    log_->warning(fmt::format("{} cannot be written; a record is lost", directory_.tensorboard()));
  }
}

void Trainer::write_train_line() {
  const TrainWindow window = std::exchange(state_.window, {});
  const Timing timing = std::exchange(timing_, {});
  if (window.images == 0) return;
  const auto images = static_cast<double>(window.images);
  Metrics metrics{.kind = "train",
                  .epoch = epoch_number(),
                  .step = state_.step,
                  .loss = window.loss_sum / images,
                  .top1 = 100.0 * static_cast<double>(window.correct) / images,
                  .lr = current_lr(state_.step - 1),
                  .images_per_second = static_cast<double>(timing.images) / timing.seconds,
                  .data_seconds = timing.data_seconds,
                  .compute_seconds = timing.seconds - timing.data_seconds};
  if (config_.train.clip_grad_norm > 0) {
    metrics.gradient_norm = window.gradient_norm_sum / static_cast<double>(window.steps);
  }
  if (counts_broken_images()) metrics.broken_images = window.broken_images;
  const int before = limit_->repeats();
  metrics.percent_of_limit = limit_->percent(timing.seconds / static_cast<double>(timing.steps));
  if (limit_->repeats() > before) {
    log_->info(fmt::format("limits   {}; measured again, since a step was faster", to_string(limit_->machine())));
  }
  append_metrics(metrics);
  log_->detail(describe(metrics, horizon_.epochs, last_step_));
}

// A broken state must not replace a sound checkpoint.
void Trainer::check_state() {
  std::string name = first_non_finite(*parts_.model);
  if (name.empty()) name = first_non_finite(optimizer_->state());
  if (name.empty() && ema_) name = first_non_finite(ema_->state());
  if (name.empty()) return;
  fail("[train] step {}: {} holds NaN or infinity; the run stops{}", state_.step, name,
       state_.step > 0 ? " (a lower optimizer.lr may help)" : "");
}

void Trainer::train_step(const Batch& batch) {
  Ctx ctx = parts_.context(config_);
  ctx.step = static_cast<uint64_t>(state_.step);
  ctx.training = true;
  ctx.denormals = denormals_.watch(state_.step);
  std::optional<KernelProfile> profile;
  if (limit_->wants_work()) {
    profile.emplace(*parts_.kernels, parts_.device);
    ctx.kernels = &profile->kernels();
    optimizer_->use(profile->kernels());
  }
  try {
    const StepOutcome outcome = or_out_of_memory(
        "[allocate]", [&] { return training_step(config_, parts_, ctx, *optimizer_, batch, current_lr(state_.step)); });
    if (ema_) ema_->update(state_.step + 1);
    if (ctx.denormals != nullptr) denormals_.look(state_.step, *parts_.model, *optimizer_, *log_);
    TrainWindow& window = state_.window;
    window.loss_sum += outcome.loss * static_cast<double>(batch.size());
    window.correct += outcome.correct;
    window.gradient_norm_sum += outcome.gradient_norm.value_or(0);
    window.images += batch.size();
    window.steps += 1;
    if (profile) {
      limit_->set_work(profile->records());
      optimizer_->use(*parts_.kernels);
    }
  } catch (const UserError&) {
    throw;
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(fmt::format("[train] step {}: {}", state_.step + 1, error.what()));
  } catch (const Error& error) {
    fail("[train] step {}: {}", state_.step + 1, error.what());
  }
}

// A broken image stops the run where it stands, so that it goes on from there when the image is repaired.
Batch Trainer::next_batch() {
  Batch batch;
  const auto without_batch = [this](const Error& error) {
    const bool saved = state_.step > 0 && save_last(false);
    return fmt::format("[train] step {}: {}{}", state_.step + 1, error.what(),
                       saved ? fmt::format("; step {} is saved, and --resume goes on from there", state_.step) : "");
  };
  try {
    if (!feeder_->next(batch)) fail("[train] the loader ended epoch {} at batch {}", state_.epoch, state_.batch);
  } catch (const OutOfMemory& error) {
    throw OutOfMemory(without_batch(error));
  } catch (const Error& error) {
    throw Error(without_batch(error));
  }
  report(batch.broken);
  state_.window.broken_images += static_cast<int64_t>(batch.broken.size());
  if (2 * batch.size() < config_.train.batch_size) {
    fail("[train] step {}: {} of {} images of a batch are broken: more than half of them", state_.step + 1,
         batch.broken.size(), config_.train.batch_size);
  }
  return batch;
}

void Trainer::report(const std::vector<BrokenImage>& images) {
  for (const BrokenImage& image : images) {
    if (reported_.insert(image.name).second) log_->warning(fmt::format("broken image: {}", image.reason));
  }
}

Trainer::Outcome Trainer::train_batches() {
  if (state_.batch >= horizon_.steps_per_epoch || state_.step >= last_step_) return Outcome::done;
  feeder_->start(state_.epoch, state_.batch);
  feeder_->take_wait_seconds();
  while (state_.batch < horizon_.steps_per_epoch && state_.step < last_step_) {
    if (signals_.received() != 0) return Outcome::interrupted;
    const Clock::time_point start = Clock::now();
    const Batch batch = next_batch();
    train_step(batch);
    ++state_.step;
    ++state_.batch;
    const double seconds = seconds_since(start);
    timing_.seconds += seconds;
    timing_.data_seconds += feeder_->take_wait_seconds();
    timing_.images += batch.size();
    timing_.steps += 1;
    train_seconds_ += seconds;
    ++steps_here_;
    if (state_.step % config_.train.log_every == 0 || state_.step == last_step_) write_train_line();
    if (state_.window.images > 0) {
      const auto images = static_cast<double>(state_.window.images);
      const double remaining =
          static_cast<double>(last_step_ - state_.step) * train_seconds_ / static_cast<double>(steps_here_);
      log_->progress(static_cast<double>(state_.step) / static_cast<double>(last_step_),
                     fmt::format("epoch {}/{}  loss {:.4f}  top-1 {:.2f} %  {:.0f} images/s  ETA {}", epoch_number(),
                                 horizon_.epochs, state_.window.loss_sum / images,
                                 100.0 * static_cast<double>(state_.window.correct) / images,
                                 static_cast<double>(timing_.images) / timing_.seconds, format_duration(remaining)));
    }
    const int64_t every = config_.train.checkpoint_every;
    const bool evaluation_follows = state_.batch == horizon_.steps_per_epoch || state_.step >= last_step_;
    const bool is_due = every > 0 && state_.step % every == 0 && !evaluation_follows;
    if (is_due || save_clock_.due(train_seconds_)) save_last(false);
  }
  return Outcome::done;
}

Trainer::Outcome Trainer::evaluate_here() {
  check_state();
  const Clock::time_point start = Clock::now();
  double wait_seconds = 0;
  int64_t batches = 0;
  const auto go_on = [&] {
    log_->progress(static_cast<double>(state_.step) / static_cast<double>(last_step_),
                   fmt::format("epoch {}/{}  evaluating, batch {}", epoch_number(), horizon_.epochs, ++batches));
    return signals_.received() == 0;
  };
  const auto evaluate_model = [&] {
    double waited = 0;
    const EvalResult result = evaluate(config_, parts_, go_on, &waited);
    wait_seconds += waited;
    if (signals_.received() == 0 && !std::isfinite(result.loss)) {
      fail("[train] step {}: the loss over the test images is {}", state_.step, result.loss);
    }
    return result;
  };
  const EvalResult result = evaluate_model();
  report(result.broken);
  std::optional<EvalResult> averaged;
  if (ema_ && signals_.received() == 0) {
    ema_->swap();
    averaged = evaluate_model();
    ema_->swap();
  }
  if (signals_.received() != 0) return Outcome::interrupted;
  const double seconds = seconds_since(start);
  Metrics metrics{.kind = "eval",
                  .epoch = epoch_number(),
                  .step = state_.step,
                  .loss = result.loss,
                  .top1 = result.top1,
                  .top5 = result.top5,
                  .lr = current_lr(state_.step - 1),
                  .images_per_second = static_cast<double>(result.images + (averaged ? averaged->images : 0)) / seconds,
                  .data_seconds = wait_seconds,
                  .compute_seconds = seconds - wait_seconds};
  std::string text = fmt::format("epoch {}/{}  step {}/{}  test loss {:.4f}  test {}", metrics.epoch, horizon_.epochs,
                                 state_.step, last_step_, result.loss, describe_accuracy(result.top1, result.top5));
  if (averaged) {
    metrics.ema_loss = averaged->loss;
    metrics.ema_top1 = averaged->top1;
    metrics.ema_top5 = averaged->top5;
    text += fmt::format("  EMA loss {:.4f}  {}", averaged->loss, describe_accuracy(averaged->top1, averaged->top5));
  }
  if (counts_broken_images()) metrics.broken_images = static_cast<int64_t>(result.broken.size());
  append_metrics(metrics);
  if (!result.broken.empty()) text += fmt::format("  ({} broken images left out)", result.broken.size());
  log_->info(fmt::format("{}  ({} images)", text, format_count(result.images)));
  last_eval_ = averaged.value_or(result);
  return Outcome::done;
}

// False when the checkpoint could not be saved and need not be.
bool Trainer::save_last(bool must_succeed) {
  check_state();
  saver_->retry_best();
  state_.best_top1 = saver_->best_top1();
  const Clock::time_point start = Clock::now();
  const bool saved = saver_->save_last(state_, must_succeed);
  if (saved) {
    log_->debug(fmt::format("step {}: saved in {:.3f} s", state_.step, seconds_since(start)));
    save_clock_.saved();
  } else {
    save_clock_.failed(train_seconds_);
  }
  return saved;
}

Trainer::Outcome Trainer::train_and_evaluate() {
  state_.finished = false;
  while (true) {
    if (train_batches() == Outcome::interrupted) return Outcome::interrupted;
    if (evaluate_here() == Outcome::interrupted) return Outcome::interrupted;
    if (state_.batch >= horizon_.steps_per_epoch) {
      ++state_.epoch;
      state_.batch = 0;
    }
    state_.finished = state_.step >= last_step_;
    if (last_eval_.top1 > saver_->wanted_top1()) {
      TrainState best = state_;
      best.best_top1 = last_eval_.top1;
      saver_->save_best(best);
      state_.best_top1 = saver_->best_top1();
    }
    const int64_t every = config_.train.checkpoint_every;
    if (state_.finished || every == 0 || state_.step % every == 0) save_last(state_.finished);
    if (state_.finished) return Outcome::done;
  }
}

TrainResult Trainer::stop() {
  save_last(true);
  if (!saver_->missed_best().empty()) log_->warning(saver_->missed_best());
  log_->info(fmt::format("stopped by {} after step {}; saved {}; --resume continues", signals_.name(), state_.step,
                         directory_.checkpoints().last()));
  return {.stopped_by = signals_.received(),
          .step = state_.step,
          .last_eval = last_eval_,
          .best_top1 = std::max(state_.best_top1, 0.0),
          .seconds = seconds_since(started_)};
}

TrainResult Trainer::run() {
  if (already_finished_) {
    if (!start_warning_.empty()) {
      log_file_.emplace(directory_.log(), true);
      directory_.checkpoints().settle(resumed_from_);
      RunLog(&*log_file_).warning(start_warning_);
    }
    if (lacks_best()) {
      RunLog(nullptr).warning(fmt::format("{} is not there any more; {} holds the state of step {}", best_file(),
                                          directory_.checkpoints().last(), state_.step));
    }
    RunLog(nullptr).info(
        fmt::format("{}: the run is finished (step {}, best test top-1 {:.2f} %); a larger "
                    "train.epochs or train.max_steps continues it",
                    directory_.path(), state_.step, state_.best_top1));
    TrainResult result;
    result.already_finished = true;
    result.step = state_.step;
    result.best_top1 = std::max(state_.best_top1, 0.0);
    return result;
  }
  if (signals_.received() != 0) {
    throw Stopped(signals_.received(),
                  fmt::format("[train] stopped by {} before the first step; nothing was written", signals_.name()));
  }
  prepare_steps(config_, parts_);
  open_files();
  log_.emplace(&*log_file_);
  try {
    const Outcome outcome = or_out_of_memory("[train]", [this] {
      try {
        say_start();
      } catch (const Stopped&) {  // what follows sees the signal, and saves
      }
      begin_saving();
      return train_and_evaluate();
    });
    if (outcome == Outcome::interrupted) return stop();
  } catch (const OutOfMemory& error) {
    const std::string text = with_memory_plan(error, config_);
    log_->failure(text);
    throw Error(text);
  } catch (const Error& error) {
    log_->failure(error.what());
    throw;
  }
  const double seconds = seconds_since(started_);
  const MemoryStats memory = memory_stats(parts_.device);
  const std::string scratch =
      memory.scratch_bytes > 0
          ? fmt::format(", of kernels {:.1f} MiB more", static_cast<double>(memory.scratch_bytes) / (1 << 20))
          : "";
  log_->info(fmt::format("finished after step {} in {}: test {}, best top-1 {:.2f} %; peak memory of tensors {} MiB{}",
                         state_.step, format_duration(seconds), describe_accuracy(last_eval_.top1, last_eval_.top5),
                         std::max(state_.best_top1, 0.0), memory.peak_bytes >> 20, scratch));
  if (!saver_->missed_best().empty()) {
    log_->failure(saver_->missed_best());
    fail("{}", saver_->missed_best());
  }
  return {
      .step = state_.step, .last_eval = last_eval_, .best_top1 = std::max(state_.best_top1, 0.0), .seconds = seconds};
}

}  // namespace

TrainResult train(const ExperimentConfig& config, StartMode mode) {
  try {
    return or_out_of_memory("[train]", [&] { return Trainer(config, mode).run(); });
  } catch (const OutOfMemory& error) {  // while it was made
    throw Error(with_memory_plan(error, config));
  }
}

}  // namespace luq
