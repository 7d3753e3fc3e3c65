// What a run says: on standard output, with a progress line on a terminal, and in log.txt.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "src/train/line_file.h"
#include "src/train/metrics.h"

namespace luq {

class RunLog {
 public:
  // file may be null: standard output alone. Not owned.
  explicit RunLog(LineFile* file);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // To both.
  void info(const std::string& text);
  // To log.txt, and to standard output where it is no terminal, whose progress line says the same.
  void detail(const std::string& text);
  // Redraws the progress line of a terminal, at most ten times a second; nothing elsewhere.
  // fraction: of the whole run.
  void progress(double fraction, const std::string& text);

 private:
  void erase_progress();

  LineFile* file_;
  bool is_terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_drawn_;
};

// "1:02:03" or "2:03".
std::string format_duration(double seconds);
// 272474 as "272,474".
std::string format_count(int64_t count);
// "epoch 2/15  step 600/7020  loss 0.4123  top-1 85.12 %  lr 0.1  2310 images/s  56 % of the limit"
std::string describe(const Metrics& metrics, int64_t epochs, int64_t steps);
// "top-1 76.15 %", or "top-1 76.15 %  top-5 92.87 %"
std::string describe_accuracy(double top1, const std::optional<double>& top5);

}  // namespace luq
