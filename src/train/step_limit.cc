#include "src/train/step_limit.h"

namespace luq {
namespace {

constexpr int most_repeats = 3;

}  // namespace

double StepLimit::seconds() const {
  double all = 0;
  for (const KernelRecord& record : work_) all += machine_.seconds(record);
  return all;
}

std::optional<double> StepLimit::percent(double step_seconds) {
  if (work_.empty() || !(step_seconds > 0)) return std::nullopt;
  while (seconds() > step_seconds && repeats_ < most_repeats) {
    machine_ = faster(machine_, probe_());
    ++repeats_;
  }
  const double least = seconds();
  if (least > step_seconds || !(least > 0)) return std::nullopt;
  return 100 * least / step_seconds;
}

}  // namespace luq
