#include "luq/core/machine.h"

#include <fmt/ranges.h>
#include <omp.h>

#include <algorithm>
#include <chrono>

#include "kernels/kernels.h"
#include "luq/core/allocator.h"

namespace luq {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int kRepeats = 3;
constexpr double kSliceSeconds = 0.01;
constexpr int64_t kReadBytes = int64_t{128} << 20;  // beyond the caches

// Operations a second of all threads, the best of a few short runs; 0 without a kernel.
double peak_rate(const Kernel<kernels::PeakArgs>& kernel) {
  if (!kernel) return 0;
  double operations = 0;
  int64_t iterations = 1000;
  for (double seconds = 0; seconds < kSliceSeconds / 4; iterations *= 2) {  // how many fill a slice
    const Clock::time_point start = Clock::now();
    kernel({.iterations = iterations, .operations = &operations});
    seconds = seconds_since(start);
  }
  iterations *= 2;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    double total = 0;
    const Clock::time_point start = Clock::now();
#pragma omp parallel reduction(+ : total)
    {
      double own = 0;
      kernel({.iterations = iterations, .operations = &own});
      total += own;
    }
    best = std::max(best, total / seconds_since(start));
  }
  return best;
}

double read_rate(const Kernels& kernels) {
  if (!kernels.peak_read) return 0;
  const Tensor memory = Tensor::zeros({kReadBytes}, DType::uint8);
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const Clock::time_point start = Clock::now();
    read_memory(kernels, memory);
    best = std::max(best, static_cast<double>(kReadBytes) / seconds_since(start));
  }
  return best;
}

}  // namespace

double MachineLimits::seconds(ComputeUnit unit, double operations, double bytes) const {
  const double rate = unit == ComputeUnit::int8       ? int8
                      : unit == ComputeUnit::float32  ? float32
                      : unit == ComputeUnit::bfloat16 ? std::max(bfloat16, float32)  // it may be computed in either
                                                      : 0;
  return std::max(rate > 0 ? operations / rate : 0, read > 0 ? bytes / read : 0);
}

double MachineLimits::seconds(const KernelRecord& record) const {
  return seconds(record.unit, record.operations, record.bytes);
}

MachineLimits probe_machine(const Kernels& kernels) {
  MachineLimits limits;
  limits.threads = omp_get_max_threads();
  limits.int8 = peak_rate(kernels.peak_int8);
  limits.float32 = peak_rate(kernels.peak_float32);
  limits.bfloat16 = peak_rate(kernels.peak_bfloat16);
  limits.read = read_rate(kernels);
  release_cached_memory();
  return limits;
}

MachineLimits faster(const MachineLimits& a, const MachineLimits& b) {
  return {.int8 = std::max(a.int8, b.int8),
          .float32 = std::max(a.float32, b.float32),
          .bfloat16 = std::max(a.bfloat16, b.bfloat16),
          .read = std::max(a.read, b.read),
          .threads = b.threads};
}

void read_memory(const Kernels& kernels, const Tensor& tensor) {
  if (!kernels.peak_read) return;
#pragma omp parallel
  {
    const int64_t share = tensor.bytes() / 1024 / omp_get_num_threads() * 1024;
    uint8_t all = 0;
    kernels.peak_read(
        {.x = static_cast<const uint8_t*>(tensor.raw()) + omp_get_thread_num() * share, .bytes = share, .all = &all});
  }
}

std::string to_string(const MachineLimits& limits) {
  std::string text;
  const auto add = [&](const char* name, double rate, const char* unit) {
    if (rate > 0) text += fmt::format("{} {:.0f} {}, ", name, rate * 1e-9, unit);
  };
  add("int8", limits.int8, "GOP/s");
  add("float32", limits.float32, "GFLOP/s");
  add("bfloat16", limits.bfloat16, "GFLOP/s");
  if (limits.read > 0) text += fmt::format("reading {:.1f} GB/s, ", limits.read * 1e-9);
  return text + fmt::format("{} thread{}", limits.threads, limits.threads == 1 ? "" : "s");
}

}  // namespace luq
