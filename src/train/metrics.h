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

struct CutBack {
  int64_t kept = 0;     // lines
  int64_t damaged = 0;  // lines in front of a kept one that are none; the file as it was is kept as <file>.damaged
};
// Takes out of metrics.jsonl, if there is one, what a run going on from `step` will write again: later lines, an
// unfinished last line and, unless keep_eval, evaluations at `step`. Throws Error naming the file when it cannot
// be read or written; then it is as it was.
CutBack cut_back_metrics(const std::string& file, int64_t step, bool keep_eval);

}  // namespace luq
