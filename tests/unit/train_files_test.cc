// The small parts of a run's folder: metrics.jsonl, lines, numbers in words.
#include <cmath>
#include <nlohmann/json.hpp>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "src/train/line_file.h"
#include "src/train/metrics.h"
#include "src/train/run_directory.h"
#include "src/train/run_log.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {

TEST_CASE("metrics: a line is one JSON object with the documented keys", "[metrics]") {
  Metrics metrics{.kind = "eval", .epoch = 2, .step = 40, .time = 1.75e9 + 0.25, .loss = 0.1 + 0.2, .top1 = 91.25};
  const auto keys = [&] {
    const auto line = nlohmann::ordered_json::parse(to_json(metrics));
    std::vector<std::string> found;
    for (const auto& [key, value] : line.items()) found.push_back(key);
    return found;
  };
  CHECK(keys() == std::vector<std::string>{"kind", "epoch", "step", "time", "loss", "top1", "lr", "images_per_second",
                                           "data_seconds", "compute_seconds"});
  metrics.top5 = 99.5;
  metrics.ema_loss = metrics.ema_top1 = metrics.ema_top5 = 1;
  metrics.percent_of_limit = 50;
  CHECK(keys() == std::vector<std::string>{"kind", "epoch", "step", "time", "loss", "top1", "top5", "ema_loss",
                                           "ema_top1", "ema_top5", "lr", "images_per_second", "data_seconds",
                                           "compute_seconds", "percent_of_limit"});
  const auto parsed = nlohmann::json::parse(to_json(metrics));
  CHECK(parsed["kind"] == "eval");
  CHECK(parsed["loss"].get<double>() == 0.1 + 0.2);
  CHECK(parsed["time"].get<double>() == 1.75e9 + 0.25);
  CHECK(to_json(metrics).find('\n') == std::string::npos);
}

TEST_CASE("metrics: what is written is read back, and what is no whole line is left out", "[metrics]") {
  const TemporaryFolder folder;
  const Metrics train{.kind = "train", .epoch = 2, .step = 40, .time = 1.75e9, .loss = 0.1 + 0.2, .top1 = 91.25};
  Metrics eval{.kind = "eval", .step = 41, .lr = 0.05, .images_per_second = 3};
  eval.top5 = 99.5;
  const std::string lines = to_json(train) + "\n" + to_json(eval) + "\n";
  write_file(folder / "a", to_json(train) + "\n[1]\n{\"step\":1}\n{\"kind\":\"eval\",\"step\":\"1\"}\n" +
                               to_json(eval) + "\n{\"kind\":\"train\",\"st");
  std::string again;
  for (const Metrics& metrics : read_metrics(folder / "a")) again += to_json(metrics) + "\n";
  CHECK(again == lines);
  CHECK(read_metrics(folder / "none").empty());
}

TEST_CASE("metrics: cut back to a step", "[metrics]") {
  const TemporaryFolder folder;
  const std::string file = folder / "metrics.jsonl";
  const auto line = [](const char* kind, int64_t step) { return to_json({.kind = kind, .step = step}) + "\n"; };
  const std::string upto = line("train", 20) + line("train", 40) + line("eval", 40) + line("train", 60);
  const std::string all = upto + line("eval", 60) + line("train", 80) + "{\"kind\":\"train\",\"st";
  write_file(file, all);
  cut_back_metrics(file, 60, false);
  CHECK(read_file(file) == upto);
  write_file(file, all);
  cut_back_metrics(file, 60, true);
  CHECK(read_file(file) == upto + line("eval", 60));
  cut_back_metrics(file, 0, true);
  CHECK(read_file(file).empty());
  cut_back_metrics(folder / "none", 5, true);
  CHECK(!std::filesystem::exists(folder / "none"));
}

TEST_CASE("line_file: appends, and is held by one process when asked", "[line_file]") {
  const TemporaryFolder folder;
  {
    LineFile file(folder / "log.txt", true);
    CHECK(file.append("one"));
    CHECK_THROWS_AS(LineFile(folder / "log.txt", true), UserError);
  }
  LineFile file(folder / "log.txt", true);
  CHECK(file.append("two"));
  CHECK(read_file(folder / "log.txt") == "one\ntwo\n");
  file.clear();
  CHECK(file.append("three"));
  CHECK(read_file(folder / "log.txt") == "three\n");
  CHECK_THROWS_AS(LineFile(folder / "no/log.txt", false), UserError);
  LineFile full("/dev/full", false);
  CHECK(!full.append("lost"));
}

TEST_CASE("text_file: replaced whole or not at all", "[text_file]") {
  const TemporaryFolder folder;
  write_text_file(folder / "a", "one");
  write_text_file(folder / "a", "two");
  CHECK(read_file(folder / "a") == "two");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
  CHECK_THROWS_AS(write_text_file(folder / "no/a", "x"), Error);
}

TEST_CASE("run_directory: when a run may start", "[run_directory]") {
  const TemporaryFolder folder;
  const auto message = [&](const std::string& path, StartMode mode) -> std::string {
    try {
      RunDirectory(path).check(mode);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(message(folder / "new/run", StartMode::fresh).empty());
  CHECK(message(folder / "new/run", StartMode::overwrite).empty());
  CHECK_THAT(message(folder / "new/run", StartMode::resume), contains_text("no run to resume"));
  CHECK(!std::filesystem::exists(folder / "new"));
  CHECK_THAT(message("", StartMode::fresh), contains_text("expected a path"));

  write_file(folder / "file", "x");
  CHECK_THAT(message(folder / "file/run", StartMode::fresh), contains_text("is not a folder"));
  CHECK_THAT(message(folder / "file", StartMode::overwrite), contains_text("is not a folder"));

  std::filesystem::create_directory(folder / "photos");
  CHECK(message(folder / "photos", StartMode::fresh).empty());
  write_file(folder / "photos/cat.png", "x");
  CHECK_THAT(message(folder / "photos", StartMode::fresh), contains_text("holds no run"));
  CHECK_THAT(message(folder / "photos", StartMode::overwrite), contains_text("holds no run"));

  const RunDirectory run(folder / "run");
  run.create();
  write_file(run.config(), "x");
  write_file(run.checkpoints().last(), "x");
  write_file(run.path() + "/notes.txt", "mine");
  CHECK_THAT(message(run.path(), StartMode::fresh), contains_text("--resume") && contains_text("--overwrite"));
  CHECK(message(run.path(), StartMode::resume).empty());
  CHECK(message(run.path(), StartMode::overwrite).empty());
  run.remove_run();
  CHECK(!std::filesystem::exists(run.config()));
  CHECK(!std::filesystem::exists(run.checkpoints().last()));
  CHECK(read_file(run.path() + "/notes.txt") == "mine");
}

TEST_CASE("run_log: numbers in words", "[run_log]") {
  CHECK(format_duration(0) == "0:00");
  CHECK(format_duration(123.4) == "2:03");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_count(0) == "0");
  CHECK(format_count(999) == "999");
  CHECK(format_count(1000) == "1,000");
  CHECK(format_count(1234567) == "1,234,567");
}

}  // namespace luq
