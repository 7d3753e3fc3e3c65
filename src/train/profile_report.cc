#include "luq/train/profile_report.h"

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "luq/core/error.h"
#include "luq/train/step_runner.h"
#include "src/train/run_log.h"
#include "src/train/step_limit.h"

namespace luq {
namespace {

constexpr int kWarmUp = 2;

struct Row {
  std::string phase = {}, kernel = {}, shape = {};
  int64_t calls = 0;
  double seconds = 0, bytes = 0, operations = 0, limit = 0, computing = 0;

  void add(const Row& other) {
    calls += other.calls;
    seconds += other.seconds;
    bytes += other.bytes;
    operations += other.operations;
    limit += other.limit;
    computing += other.computing;
  }
};

// One row per phase and kernel, and per shape where asked for; the slowest first within the phases' order.
std::vector<Row> collect(const std::vector<KernelRecord>& records, const MachineLimits& machine, bool shapes) {
  std::map<std::tuple<std::string, std::string, std::string>, Row> rows;
  for (const KernelRecord& record : records) {
    const std::string kernel = fmt::format("{} [{}]", record.kernel, record.implementation);
    Row& row = rows[{record.phase, kernel, shapes ? record.shape : ""}];
    row.phase = record.phase;
    row.kernel = kernel;
    row.shape = shapes ? record.shape : "";
    row.add({.calls = record.calls,
             .seconds = record.seconds,
             .bytes = record.bytes,
             .operations = record.operations,
             .limit = machine.seconds(record),
             .computing = machine.seconds(record.unit, record.operations, 0)});
  }
  std::vector<Row> sorted;
  for (auto& [key, row] : rows) sorted.push_back(std::move(row));
  const auto order = [](const std::string& phase) { return phase == "forward" ? 0 : phase == "backward" ? 1 : 2; };
  std::ranges::sort(sorted, [&](const Row& a, const Row& b) {
    if (a.phase != b.phase) return order(a.phase) < order(b.phase);
    return a.seconds > b.seconds;
  });
  return sorted;
}

}  // namespace

std::string profile_report(const ExperimentConfig& config, const ProfileOptions& options) {
  if (options.steps < 1) fail_user("[profile] steps: expected 1 or more, got {}", options.steps);
  StepRunner runner(config);
  StepLimit limit([&] { return probe_machine(runner.kernels()); });
  for (int i = 0; i < kWarmUp; ++i) runner.step();
  KernelProfile profile(runner.kernels(), parse_device(config.device));
  runner.record(&profile);
  std::vector<double> times;
  for (int64_t i = 0; i < options.steps; ++i) times.push_back(runner.step().seconds);
  runner.record(nullptr);

  const auto steps = static_cast<double>(options.steps);
  double step_seconds = 0;
  for (const double seconds : times) step_seconds += seconds / steps;
  limit.set_work(profile.records());
  limit.measure_while([&](const MachineLimits& machine) {
    return std::ranges::any_of(collect(profile.records(), machine, options.shapes),
                               [](const Row& row) { return row.limit > row.seconds; });
  });
  const std::optional<double> percent = limit.percent(step_seconds * steps);
  const MachineLimits& machine = limit.machine();
  std::vector<Row> rows = collect(profile.records(), machine, options.shapes);
  Row total{.phase = "total", .kernel = "kernels", .shape = ""};
  for (const Row& row : rows) total.add(row);
  rows.push_back(total);

  std::ranges::sort(times);
  const auto images = static_cast<double>(runner.batch_size());
  const bool on_cpu = parse_device(config.device).type == DeviceType::cpu;
  std::string text = fmt::format("machine  {}\n", on_cpu ? to_string(machine) : describe_cuda());
  text += fmt::format(
      "step     {:.1f} ms for {} images, {:.1f} images/s (median {:.1f} ms of {}){}\n\n", step_seconds * 1e3,
      runner.batch_size(), images / step_seconds, times[times.size() / 2] * 1e3, times.size(),
      percent ? fmt::format("; the machine's limits allow {:.1f} ms, {:.0f} %", total.limit / steps * 1e3, *percent)
              : "");
  size_t name = 6, shape = options.shapes ? 5 : 0;
  for (const Row& row : rows) {
    name = std::max(name, row.kernel.size());
    shape = std::max(shape, row.shape.size());
  }
  const std::string shape_column = options.shapes ? fmt::format("  {:<{}}", "shape", shape) : "";
  text += fmt::format("{:<8}  {:<{}}{}  {:>5}  {:>8}  {:>6}  {:>9}  {:>8}  {:>7}  {:>7}  {:>10}\n", "phase", "kernel",
                      name, shape_column, "calls", "ms", "share", "MB", "GOP", "GB/s", "GOP/s", "% of limit");
  for (const Row& row : rows) {
    const std::string where = options.shapes ? fmt::format("  {:<{}}", row.shape, shape) : "";
    const double seconds = std::max(row.seconds, 1e-12);
    text +=
        fmt::format("{:<8}  {:<{}}{}  {:>5}  {:>8.2f}  {:>4.1f} %  {:>9.1f}  {:>8.2f}  {:>7.1f}  {:>7.0f}  {:>10}\n",
                    row.phase, row.kernel, name, where, row.calls / options.steps, row.seconds / steps * 1e3,
                    100 * row.seconds / steps / step_seconds, row.bytes / steps * 1e-6, row.operations / steps * 1e-9,
                    row.bytes / seconds * 1e-9, row.operations / seconds * 1e-9,
                    limit_column(row.limit, row.computing, row.seconds));
  }
  const double outside = step_seconds - total.seconds / steps;
  text += fmt::format("{:<8}  {:<{}}{}  {:>5}  {:>8.2f}  {:>4.1f} %\n", "", "outside kernels", name,
                      options.shapes ? fmt::format("  {:<{}}", "", shape) : "", "", outside * 1e3,
                      100 * outside / step_seconds);
  text +=
      "\nOne step on average. MB: what kernels read and write, as often as they do. GOP: a multiply-accumulate is "
      "two.\n";
  if (machine.known()) {
    text +=
        "% of limit: the longer of bytes over the read rate and operations over the unit's rate, over the time taken.\n"
        "cache: faster than memory was read when it was measured: tensors stayed in a cache (or other programs read "
        "then).\n"
        "beaten: faster than the units computed when they were measured (or the products of padding, which count as\n"
        "operations, were left out). Where a kernel is faster the limits are measured again, three times at most.\n";
  }
  if (!on_cpu) text += "Each call was waited for, which adds some microseconds to it and to the step.\n";
  return text;
}

}  // namespace luq
