// How near a training step comes to what the machine can do.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "luq/core/machine.h"

namespace luq {

// The limits are measured in a fifth of a second, in which something else may run: a step that is faster than they
// allow shows that, and they are measured again.
class StepLimit {
 public:
  // `probe` measures the machine, now and where a step beats what was measured.
  explicit StepLimit(std::function<MachineLimits()> probe) : probe_(std::move(probe)), machine_(probe_()) {}

  const MachineLimits& machine() const { return machine_; }
  // The kernels of one step are wanted.
  bool wants_work() const { return machine_.known() && work_.empty(); }
  void set_work(std::vector<KernelRecord> records) { work_ = std::move(records); }

  // The least seconds that the step could take, over the seconds it took, in percent, 0 < x <= 100. Nothing before the
  // work is known, and where a step is still faster after measuring three times (its tensors stay in a cache, say).
  std::optional<double> percent(double step_seconds);
  // Measures again while something is faster than these limits allow, three times at most in the object's life.
  void measure_while(const std::function<bool(const MachineLimits&)>& is_beaten);
  // How often the machine was measured again.
  int repeats() const { return repeats_; }

 private:
  double seconds() const;

  std::function<MachineLimits()> probe_;
  MachineLimits machine_;
  std::vector<KernelRecord> work_;
  int repeats_ = 0;
};

// A kernel's place in a table: percent of its limit, at most "100". Where it took less than its limit of `least`
// seconds: "cache" when it computed within the units' rates (`computing` seconds at least) and so was faster than
// memory alone, else "beaten". "-" where no limit is known.
std::string limit_column(double least, double computing, double seconds);

}  // namespace luq
