// The small parts of a run's folder: metrics.jsonl, lines, numbers in words.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "luq/core/error.h"
#include "luq/core/log.h"
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
  CHECK(cut_back_metrics(folder / "none", 5, true).kept == 0);
  CHECK(!std::filesystem::exists(folder / "none"));
  CHECK(!std::filesystem::exists(file + ".damaged"));
  // A line that is damaged in the middle is not what a kill leaves.
  const std::string damaged = line("train", 20) + "{\"kind\"\n" + line("train", 40) + "zeros";
  write_file(file, damaged);
  const CutBack lines = cut_back_metrics(file, 60, true);
  CHECK(lines.kept == 2);
  CHECK(lines.damaged == 1);
  CHECK(read_file(file + ".damaged") == damaged);
}

TEST_CASE("metrics: lines that are missing at the end are said", "[metrics]") {
  const auto words = [](const CutBack& lines, const LinePosition& expected) {
    return fmt::format("{}", fmt::join(warnings_of(lines, "m", 60, expected), "|"));
  };
  CHECK(words({.kept = 3, .last = {50, true}}, {50, true}).empty());
  CHECK(words({.kept = 3, .last = {60, false}}, {50, true}).empty());
  CHECK(words({}, {}).empty());
  CHECK_THAT(words({}, {50, false}), contains_text("m holds none of the lines up to step 60"));
  CHECK_THAT(words({.kept = 3, .last = {40, true}}, {50, false}),
             contains_text("m ends at step 40, and the run goes on from step 60: lines in between are missing"));
  CHECK_THAT(words({.kept = 3, .last = {60, false}}, {60, true}), contains_text("the evaluation of that step is"));
  CHECK_THAT(words({.kept = 3, .damaged = 2, .last = {40, true}}, {50, false}),
             contains_text("2 lines of m cannot be read") && contains_text("|m ends at step 40"));
}

TEST_CASE("metrics: what cannot be read is not empty, and stays", "[metrics]") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "metrics.jsonl");  // EISDIR, for root too
  CHECK_THROWS_AS(read_metrics(folder / "metrics.jsonl"), Error);
  CHECK_THROWS_AS(cut_back_metrics(folder / "metrics.jsonl", 5, true), Error);
  CHECK(std::filesystem::is_directory(folder / "metrics.jsonl"));
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
  for (const StartMode mode : {StartMode::fresh, StartMode::resume, StartMode::overwrite}) {
    CHECK(message(run.path(), mode).empty());  // a start that was cut off
  }
  CHECK(!run.has_progress());
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
  write_file(run.metrics(), "{}\n");
  CHECK(run.has_progress());
  CHECK_THAT(message(run.path(), StartMode::fresh), contains_text("holds a run already"));
}

namespace {

// What a run that says the same at every level puts on standard output.
std::string output_of_run(const std::string& log_file, LogLevel level) {
  const TemporaryFolder folder;
  std::fflush(stdout);
  const int before = ::dup(STDOUT_FILENO),
            output = ::open((folder / "out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ::dup2(output, STDOUT_FILENO);
  set_log_level(level);
  {
    LineFile file(log_file, true);
    RunLog log(&file);
    log.debug("a number");
    log.info("{} is no format");
    log.warning("a thing");
    log.detail("step 1");
    log.progress(0.5, "half");
    log.failure("[train] it failed\non two lines");
  }
  set_log_level(LogLevel::info);
  ::dup2(before, STDOUT_FILENO);
  ::close(before);
  ::close(output);
  return read_file(folder / "out");
}

std::string without_times(const std::string& log) {
  const std::string form = "dddd-dd-dd dd:dd:dd ";
  std::istringstream lines(log);
  std::string result;
  for (std::string line; std::getline(lines, line);) {
    const auto fits = [](char of_form, char c) { return of_form == 'd' ? c >= '0' && c <= '9' : of_form == c; };
    const bool has_time = line.size() >= form.size() && std::equal(form.begin(), form.end(), line.begin(), fits);
    result += (has_time ? "@ " + line.substr(form.size()) : line) + "\n";
  }
  return result;
}

}  // namespace

TEST_CASE("run_log: what is said where, by level", "[run_log]") {
  const TemporaryFolder folder;
  const std::string all = "@ {} is no format\n@ warning: a thing\n@ step 1\n@ error: [train] it failed\non two lines\n";
  CHECK(output_of_run(folder / "info", LogLevel::info) == "{} is no format\nwarning: a thing\nstep 1\n");
  CHECK(without_times(read_file(folder / "info")) == all);
  CHECK(output_of_run(folder / "debug", LogLevel::debug) == "a number\n{} is no format\nwarning: a thing\nstep 1\n");
  CHECK(without_times(read_file(folder / "debug")) == "@ a number\n" + all);
  CHECK(output_of_run(folder / "warning", LogLevel::warning) == "warning: a thing\n");
  CHECK(without_times(read_file(folder / "warning")) == all);
  CHECK(output_of_run(folder / "off", LogLevel::off).empty());
  CHECK(without_times(read_file(folder / "off")) == all);
}

TEST_CASE("run_log: lines that the file does not take are counted where they are missing", "[run_log]") {
  const TemporaryFolder folder;
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  {
    LineFile file(folder / "log.txt", true);
    RunLog log(&file);
    set_log_level(LogLevel::off);
    log.failure("one");
    const rlimit full{.rlim_cur = std::filesystem::file_size(folder / "log.txt") + 25, .rlim_max = limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &full);
    log.failure("two is cut off in the middle");
    log.failure("three");
    ::setrlimit(RLIMIT_FSIZE, &limit);
    log.failure("four");
    set_log_level(LogLevel::info);
  }
  std::signal(SIGXFSZ, before);
  CHECK(without_times(read_file(folder / "log.txt")) ==
        "@ error: one\n(2 lines are missing here: they could not be written)\n@ error: four\n");
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
