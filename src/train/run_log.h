// What a run says: on standard output, with a progress line on a terminal, and in log.txt.
#pragma once

#include <memory>
#include <string>

#include "src/train/line_file.h"
#include "src/train/metrics.h"

namespace luq {

// Lines are written at once. log.txt has those of level info and above with date and time in front, and with
// log_level() debug these too; standard output those of log_level() and above. An output that cannot be written harms
// nothing: log.txt and standard error say so once, and how many lines log.txt itself has lost stands where they are
// missing.
class RunLog {
 public:
  // file may be null: standard output alone. Not owned.
  explicit RunLog(LineFile* file);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // To both.
  void debug(const std::string& text);
  void info(const std::string& text);
  // "warning: " and the text.
  void warning(const std::string& text);
  // To log.txt, and to standard output where it is no terminal, whose progress line says the same.
  void detail(const std::string& text);
  // To log.txt alone: "error: " and the text, which ends the program, and which it says on standard error.
  void failure(const std::string& text);
  // Redraws the progress line of a terminal, at most ten times a second; nothing elsewhere.
  // fraction: of the whole run.
  void progress(double fraction, const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
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
