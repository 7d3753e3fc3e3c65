// metrics.jsonl: one JSON object per line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace luq {

struct Metrics {
  std::string kind = "train";    // or "eval"
  int64_t epoch = 0;             // from 1
  int64_t step = 0;              // updates done
  double time = 0;               // seconds since 1970, when the line was written
  double loss = 0;               // mean over the images since the line before, or over the test images
  double top1 = 0;               // percent, of the same images
  std::optional<double> top5{};  // percent, of an evaluation with 5 classes or more
  std::optional<double> ema_loss{}, ema_top1{}, ema_top5{};  // of the average of the weights, where there is one
  double lr = 0;                                             // of the last update
  std::optional<double> gradient_norm{};  // before clipping, mean over the steps since the line before
  double images_per_second = 0;
  double data_seconds = 0;                   // waiting for data
  double compute_seconds = 0;                // the rest
  std::optional<int64_t> broken_images{};    // left out or replaced, of the images since the line before
  std::optional<double> percent_of_limit{};  // what this machine's limits allow over the time taken
};

std::string to_json(const Metrics& metrics);

// The whole lines of a metrics.jsonl, in its order; what is no such line is left out. Empty when there is no file.
// Throws Error naming the file when it cannot be read.
std::vector<Metrics> read_metrics(const std::string& file);

// Where a line stands: lines of a step are a train line, then an evaluation.
struct LinePosition {
  int64_t step = 0;
  bool is_eval = false;
  auto operator<=>(const LinePosition&) const = default;
};

struct CutBack {
  int64_t kept = 0;     // lines
  int64_t damaged = 0;  // lines in front of a kept one that are none; the file as it was is kept as <file>.damaged
  LinePosition last;    // of the kept lines; of none: step 0
};
// Takes out of metrics.jsonl, if there is one, what a run going on from `step` will write again: later lines, an
// unfinished last line and, unless keep_eval, evaluations at `step`. Throws Error naming the file when it cannot
// be read or written; then it is as it was.
CutBack cut_back_metrics(const std::string& file, int64_t step, bool keep_eval);
// What a user is told of the lines of `file` when a run goes on from `step`, at which the last line was `expected`.
std::vector<std::string> warnings_of(const CutBack& lines, const std::string& file, int64_t step,
                                     const LinePosition& expected);

}  // namespace luq
