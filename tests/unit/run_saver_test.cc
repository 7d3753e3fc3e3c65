#include "src/train/run_saver.h"

#include <filesystem>
#include <fstream>

#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

struct Run {
  Run()
      : directory(folder / "run"),
        model(make_model("resnet20", {.in_channels = 1, .num_classes = 10, .image_size = 8}, 1)),
        optimizer(make_optimizer(OptimizerConfig{}, model->parameters(), kernels_for(Device{}))) {
    directory.create();
    metrics.emplace(directory.metrics(), false);
    log_file.emplace(directory.log(), false);
    log.emplace(&*log_file);
    saver.emplace(directory, *model, *optimizer, nullptr, *metrics, *log);
  }
  TrainState state(int64_t step, double best_top1 = -1) const {
    TrainState state;
    state.step = step;
    state.best_top1 = best_top1;
    return state;
  }
  // Where best.safetensors would be written nothing can be made.
  void block_best() const { fs::create_directory(directory.checkpoints().best()); }
  void unblock_best() const { fs::remove(directory.checkpoints().best()); }
  double stored_best() const { return read_checkpoint(directory.checkpoints().best()).state.best_top1; }

  TemporaryFolder folder;
  RunDirectory directory;
  std::unique_ptr<Module> model;
  std::unique_ptr<Optimizer> optimizer;
  std::optional<LineFile> metrics, log_file;
  std::optional<RunLog> log;
  std::optional<RunSaver> saver;
};

}  // namespace

TEST_CASE("run_saver: a checkpoint is due after a minute, and a minute after one that failed", "[run_saver]") {
  SaveClock clock;
  CHECK(!clock.due(59));
  CHECK(clock.due(60));
  clock.failed(61);
  CHECK(!clock.due(120));
  CHECK(clock.due(121));
  clock.saved();
  CHECK(!clock.due(1e9));
  clock.failed(1000);
  CHECK(!clock.due(1059));
  CHECK(clock.due(1060));
}

TEST_CASE("run_saver: a run begins with a checkpoint, and one that goes on leaves what is there", "[run_saver]") {
  Run run;
  run.saver->begin(run.state(0), false);
  CHECK(read_checkpoint(run.directory.checkpoints().last()).state.step == 0);
  CHECK(run.saver->saved()->step == 0);
  const std::string before = read_file(run.directory.checkpoints().last());
  run.saver->begin(run.state(3), true);
  CHECK(read_file(run.directory.checkpoints().last()) == before);
  CHECK(std::distance(fs::directory_iterator(run.folder / "run/checkpoints"), {}) == 1);

  fs::remove_all(run.folder / "run/checkpoints");
  for (const bool resumed : {false, true}) {
    CHECK_THROWS_WITH(run.saver->begin(run.state(3), resumed),
                      contains_text("could not be saved, so it does not begin"));
  }
}

TEST_CASE("run_saver: the best state is kept until it can be written, or a better one comes", "[run_saver]") {
  Run run;
  run.saver->begin(run.state(0), false);
  run.block_best();
  run.saver->save_best(run.state(5, 50));
  CHECK(run.saver->best_top1() == -1);
  CHECK(run.saver->wanted_top1() == 50);
  CHECK_THAT(read_file(run.directory.log()), contains_text("best.safetensors") && contains_text("tried again"));
  CHECK_THAT(run.saver->missed_best(), contains_text("50.00 % at step 5") && contains_text("no best.safetensors"));

  // The weights move on; what is written is what was evaluated.
  run.model->parameters()[0]->var.value().zero();
  run.saver->retry_best();
  CHECK(run.saver->best_top1() == -1);
  run.unblock_best();
  run.saver->retry_best();
  CHECK(run.saver->best_top1() == 50);
  CHECK(run.saver->wanted_top1() == 50);
  CHECK(run.saver->missed_best().empty());
  CHECK(run.stored_best() == 50);
  const Checkpoint stored = read_checkpoint(run.directory.checkpoints().best());
  CHECK(stored.state.step == 5);
  CHECK(stored.content.find(run.model->parameters()[0]->name)->data<float>()[0] != 0);

  run.unblock_best();
  run.block_best();
  run.saver->save_best(run.state(6, 60));
  run.unblock_best();
  run.saver->save_best(run.state(7, 70));
  CHECK(run.saver->best_top1() == 70);
  CHECK(run.stored_best() == 70);
}

}  // namespace luq
