#include "luq/train/plot.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/folders.h"
#include "luq/core/output_file.h"
#include "luq/core/text_file.h"
#include "src/train/metrics.h"
#include "src/train/run_directory.h"
#include "src/train/svg.h"

namespace luq {
namespace {

constexpr size_t kStretches = 300;
constexpr const char* kDirectoryKey = "run.directory";

struct Run {
  std::string path;
  std::map<std::string, std::string> config;  // "train.epochs" -> "90", defaults filled in
  std::vector<Metrics> lines;
  std::optional<double> steps_per_epoch;
};

// An evaluation at the end of an epoch tells how many steps it has: one behind which the next epoch begins, or the last
// of a run that ended as its configuration says.
std::optional<double> steps_per_epoch(const Run& run) {
  for (size_t i = 0; i < run.lines.size(); ++i) {
    const Metrics& line = run.lines[i];
    if (line.kind != "eval" || line.epoch < 1 || line.step < 1) continue;
    const bool is_last = i + 1 == run.lines.size();
    if (is_last ? run.config.at("train.epochs") == std::to_string(line.epoch) && run.config.at("train.max_steps") == "0"
                : run.lines[i + 1].epoch > line.epoch) {
      return static_cast<double>(line.step) / static_cast<double>(line.epoch);
    }
  }
  return std::nullopt;
}

Run read_run(const std::string& path) {
  const RunDirectory directory(path);
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::is_directory(status)) {
    fail_user("[plot] {}: is no run: {}", path,
              status.type() == std::filesystem::file_type::none        ? "it cannot be read: " + error.message()
              : status.type() == std::filesystem::file_type::not_found ? "there is no such folder"
                                                                       : "it is a file, expected the folder of a run");
  }
  const std::optional<std::string> bytes = read_if_there("plot", directory.config());
  if (!bytes) fail_user("[plot] {}: is no run: it holds no config.yaml", path);
  const std::string yaml = plain_text(*bytes, "plot", directory.config());
  Run run{.path = path, .config = {}, .lines = read_metrics(directory.metrics()), .steps_per_epoch = {}};
  for (const KeyDescription& key : describe_keys()) run.config[key.key] = key.default_value;
  for (const auto& [key, value] : flat_values(yaml, directory.config())) run.config[key] = value;
  if (run.lines.empty()) {
    fail_user("[plot] {}: metrics.jsonl holds no line that can be drawn; one is written every train.log_every steps",
              path);
  }
  run.steps_per_epoch = steps_per_epoch(run);
  return run;
}

// The shortest end of a key, cut at dots, that is no other key's: "optimizer.lr" -> "lr".
std::string short_key(const std::string& key, const std::set<std::string>& all) {
  for (size_t dot = key.rfind('.'); dot != std::string::npos && dot > 0; dot = key.rfind('.', dot - 1)) {
    const std::string end = key.substr(dot);
    const auto same = [&](const std::string& other) { return other.ends_with(end) || "." + other == end; };
    if (std::ranges::count_if(all, same) == 1) return end.substr(1);
  }
  return key;
}

std::vector<std::string> labels(const std::vector<Run>& runs) {
  std::set<std::string> keys;
  for (const Run& run : runs) {
    for (const auto& [key, value] : run.config) keys.insert(key);
  }
  const auto value_of = [](const Run& run, const std::string& key) {
    const auto found = run.config.find(key);
    return found == run.config.end() ? std::string("-") : found->second;
  };
  std::vector<std::string> labels(runs.size());
  for (const std::string& key : keys) {
    const auto is_first = [&](const Run& run) { return value_of(run, key) == value_of(runs[0], key); };
    if (key == kDirectoryKey || std::ranges::all_of(runs, is_first)) continue;
    for (size_t i = 0; i < runs.size(); ++i) {
      labels[i] += fmt::format("{}{}={}", labels[i].empty() ? "" : ", ", short_key(key, keys), value_of(runs[i], key));
    }
  }
  const std::vector<std::string> by_config = labels;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (labels[i].empty()) {
      labels[i] = runs[i].path;
    } else if (std::ranges::count(by_config, by_config[i]) > 1) {
      labels[i] += fmt::format(" ({})", runs[i].path);
    }
  }
  return labels;
}

// Means of stretches of equal length in x where there are more points than a panel can show.
std::vector<Point> thinned(const std::vector<Point>& points) {
  if (points.size() <= 2 * kStretches) return points;
  const double begin = points.front().x, length = points.back().x - begin;
  std::vector<Point> means;
  for (size_t i = 0, stretch = 0; stretch < kStretches && i < points.size(); ++stretch) {
    const double end = begin + length * static_cast<double>(stretch + 1) / kStretches;
    Point sum;
    double count = 0;
    for (; i < points.size() && (points[i].x <= end || stretch + 1 == kStretches); ++i, ++count) {
      sum.x += points[i].x;
      sum.y += points[i].y;
    }
    if (count > 0) means.push_back({sum.x / count, sum.y / count});
  }
  return means;
}

using Value = std::optional<double> (*)(const Metrics&);

Curve make_curve(const Run& run, size_t owner, const std::string& kind, CurveStyle style, bool in_epochs, Value value) {
  Curve curve{.owner = owner, .style = style, .points = {}};
  for (const Metrics& line : run.lines) {
    const std::optional<double> y = value(line);
    if (line.kind != kind || !y || !std::isfinite(*y)) continue;
    curve.points.push_back({static_cast<double>(line.step) / (in_epochs ? *run.steps_per_epoch : 1.0), *y});
  }
  curve.points = thinned(curve.points);
  return curve;
}

}  // namespace

std::string plot_runs(const std::vector<std::string>& paths, PlotAxis axis) {
  if (paths.empty()) fail_user("[plot] expected the folder of one run or more");
  std::vector<Run> runs;
  for (const std::string& path : paths) runs.push_back(read_run(path));
  const auto unknown = std::ranges::find_if(runs, [](const Run& run) { return !run.steps_per_epoch; });
  if (axis == PlotAxis::epochs && unknown != runs.end()) {
    fail_user("[plot] {}: holds no evaluation at the end of an epoch yet, so the length of one is not known; use steps",
              unknown->path);
  }
  const bool in_epochs = axis != PlotAxis::steps && unknown == runs.end();

  const Value loss = [](const Metrics& line) { return std::optional(line.loss); };
  const Value top1 = [](const Metrics& line) { return std::optional(line.top1); };
  const Value lr = [](const Metrics& line) { return std::optional(line.lr); };
  const Value ema_loss = [](const Metrics& line) { return line.ema_loss; };
  const Value ema_top1 = [](const Metrics& line) { return line.ema_top1; };
  Picture picture{.x_title = in_epochs ? "epoch" : "step",
                  .panels = {{.title = "Loss", .curves = {}},
                             {.title = "Top-1 (%)", .curves = {}, .highest = 100},
                             {.title = "Learning rate", .curves = {}, .from_lowest = true}},
                  .legend = labels(runs)};
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto add = [&](size_t panel, const char* kind, CurveStyle style, Value value) {
      picture.panels[panel].curves.push_back(make_curve(runs[i], i, kind, style, in_epochs, value));
    };
    add(0, "train", CurveStyle::thin, loss);
    add(0, "eval", CurveStyle::marked, loss);
    add(0, "eval", CurveStyle::dashed, ema_loss);
    add(1, "train", CurveStyle::thin, top1);
    add(1, "eval", CurveStyle::marked, top1);
    add(1, "eval", CurveStyle::dashed, ema_top1);
    add(2, "train", CurveStyle::solid, lr);
  }
  return to_svg(picture);
}

void plot_runs_to_file(const std::vector<std::string>& runs, PlotAxis axis, const std::string& output) {
  if (!output.ends_with(".svg") && !is_stream(output)) {
    fail_user("[plot] --output: expected a name that ends in .svg, got '{}'", output);
  }
  check_output("plot", output);
  for (const std::string& run : runs) {
    const RunDirectory directory(run);
    for (const std::string& input : {directory.config(), directory.metrics(), directory.log()}) {
      check_other_file("plot", "--output", input, output);
    }
  }
  write_output("plot", output, plot_runs(runs, axis));
}

}  // namespace luq
