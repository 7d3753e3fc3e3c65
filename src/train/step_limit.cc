#include "src/train/step_limit.h"

#include <fmt/format.h>

namespace luq {
namespace {

constexpr int most_repeats = 3;

}  // namespace

double StepLimit::seconds() const {
  double all = 0;
  for (const KernelRecord& record : work_) all += machine_.seconds(record);
  return all;
}

void StepLimit::measure_while(const std::function<bool(const MachineLimits&)>& is_beaten) {
  for (; repeats_ < most_repeats && is_beaten(machine_); ++repeats_) machine_ = faster(machine_, probe_());
}

std::optional<double> StepLimit::percent(double step_seconds) {
  if (work_.empty() || !(step_seconds > 0)) return std::nullopt;
  measure_while([&](const MachineLimits&) { return seconds() > step_seconds; });
  const double least = seconds();
  if (least > step_seconds || !(least > 0)) return std::nullopt;
  return 100 * least / step_seconds;
}

std::string limit_column(double least, double computing, double seconds) {
  if (!(least > 0)) return "-";
  if (least <= seconds) return fmt::format("{:.0f}", 100 * least / seconds);
  return computing <= seconds ? "cache" : "beaten";
}

}  // namespace luq
