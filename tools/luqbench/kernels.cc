#include "kernels/kernels.h"

#include <cstring>
#include <functional>
#include <iostream>

#include "luq/core/error.h"
#include "luq/core/machine.h"
#include "luq/core/rng.h"
#include "luq/core/tensor.h"
#include "tools/luqbench/bench.h"

namespace luq::bench {
namespace {

// One pass: what it does on the whole input, on this table and on ref, and the bytes that it must move.
struct Pass {
  std::string name;
  double read_bytes, write_bytes;
  std::function<void(const Kernels&, int64_t count)> run;
  std::function<bool(const Kernels& ref, int64_t count)> equals_ref;  // null: nothing to compare
};

}  // namespace

Json bench_kernels(const KernelsOptions& options) {
  if (options.mebibytes < 1 || options.repeats < 1) fail_user("[luqbench] --mebibytes, --repeats: expected 1 or more");
  const Kernels& kernels = kernels_for({});
  const Kernels ref = cpu_kernel_tables().front().table;
  const int64_t count = options.mebibytes << 18, checked = std::min<int64_t>(count, 100'003);
  Tensor x = Tensor::empty({count}), y = Tensor::empty({count});
  Tensor codes = Tensor::empty({(count + 1) / 2}, DType::uint8),
         other = Tensor::empty({(checked + 1) / 2}, DType::uint8);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = philox({1, 2, 3, 4}, static_cast<uint64_t>(i)).word[0];
    x.data<float>()[i] = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
  }
  std::memset(y.data<float>(), 0, static_cast<size_t>(count) * sizeof(float));
  std::memset(codes.data<uint8_t>(), 0, static_cast<size_t>((count + 1) / 2));

  Stats stats, ref_stats;
  const auto encode_int = [&](const Kernels& table, int64_t n, uint8_t* to) {
    table.encode_int({.x = x.data<float>(),
                      .rows = 1,
                      .cols = n,
                      .inverse_scale = 7.5f,
                      .format = Format::int4,
                      .rounding = Rounding::nearest,
                      .key = {},
                      .codes = to});
  };
  const auto encode_fp4 = [&](const Kernels& table, int64_t n, uint8_t* to) {
    table.encode_fp4({.x = x.data<float>(),
                      .rows = 1,
                      .cols = n,
                      .inverse_alpha = 64.0f,
                      .rounding = Rounding::stochastic,
                      .key = {5, 6, 7, 8},
                      .codes = to});
  };
  const auto same_codes = [&](int64_t n) {
    return std::memcmp(codes.data<uint8_t>(), other.data<uint8_t>(), static_cast<size_t>((n + 1) / 2)) == 0;
  };
  const std::vector<Pass> passes{
      {"stats", 4, 0,
       [&](const Kernels& k, int64_t n) { k.stats({.x = x.data<float>(), .count = n, .stats = &stats}); },
       [&](const Kernels& k, int64_t n) {
         k.stats({.x = x.data<float>(), .count = n, .stats = &ref_stats});
         return stats.sum_abs == ref_stats.sum_abs && stats.sum_sq == ref_stats.sum_sq &&
                stats.abs_bits_max == ref_stats.abs_bits_max && stats.nonzero == ref_stats.nonzero;
       }},
      {"encode_int", 4, 0.5, [&](const Kernels& k, int64_t n) { encode_int(k, n, codes.data<uint8_t>()); },
       [&](const Kernels& k, int64_t n) { return encode_int(k, n, other.data<uint8_t>()), same_codes(n); }},
      {"encode_fp4", 4, 0.5, [&](const Kernels& k, int64_t n) { encode_fp4(k, n, codes.data<uint8_t>()); },
       [&](const Kernels& k, int64_t n) { return encode_fp4(k, n, other.data<uint8_t>()), same_codes(n); }},
      {"random_bits", 0, 0,
       [&](const Kernels& k, int64_t n) {
         uint32_t all = 0;
         if (k.random_bits) k.random_bits({.key = {5, 6, 7, 8}, .count = n, .all = &all});
       },
       nullptr},
      {"relu", 4, 4,
       [&](const Kernels& k, int64_t n) {
         k.relu({x.data<float>(), n, y.data<float>(), nullptr});
       },
       nullptr},
      {"add", 8, 4,
       [&](const Kernels& k, int64_t n) {
         k.add({x.data<float>(), y.data<float>(), n, y.data<float>()});
       },
       nullptr},
  };

  const MachineLimits machine = probe_machine(kernels);
  std::cout << fmt::format(
      "machine  {}\ninput    {} MiB of float32; median of {}, each beside a probe of reading alone\n\n",
      to_string(machine), options.mebibytes, options.repeats);
  std::cout << fmt::format("{:<14}{:>10}{:>10}{:>12}{:>22}\n", "kernel", "ms", "GB/s", "Gelement/s",
                           "of reading its input");
  Json json;
  json["read_bytes_per_second"] = machine.read;
  double read_seconds = 0, random_seconds = 0, fp4_seconds = 0;
  for (const Pass& pass : passes) {
    if (pass.equals_ref) {
      pass.run(kernels, checked);
      if (!pass.equals_ref(ref, checked)) fail("[luqbench] {} differs from ref: not timed", pass.name);
    }
    pass.run(kernels, count);
    std::vector<double> seconds, reads;
    for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {  // in turns with reading the same input alone
      if (kernels.peak_read) {
        reads.push_back(time_once([&] { read_memory(kernels, x); }));
      }
      seconds.push_back(time_once([&] { pass.run(kernels, count); }));
    }
    const double taken = median(seconds), bytes = (pass.read_bytes + pass.write_bytes) * static_cast<double>(count);
    if (!reads.empty()) read_seconds = median(reads);
    if (pass.name == "random_bits") random_seconds = taken;
    if (pass.name == "encode_fp4") fp4_seconds = taken;
    const double of_reading = read_seconds * pass.read_bytes / 4 / taken;
    std::cout << fmt::format("{:<14}{:>10.2f}{:>10.1f}{:>12.2f}{:>22.2f}\n", pass.name, taken * 1e3,
                             bytes / taken * 1e-9, static_cast<double>(count) / taken * 1e-9, of_reading);
    json["kernels"][pass.name] = {{"seconds", taken}, {"fraction_of_read_bandwidth", of_reading}};
  }
  const double longer = std::max(read_seconds, random_seconds);
  if (longer > 0) {
    std::cout << fmt::format(
        "\nencode_fp4 takes {:.2f} times the longer of reading its input and generating its random bits.\n",
        fp4_seconds / longer);
    json["encode_fp4_over_limit"] = fp4_seconds / longer;
  }
  return json;
}

}  // namespace luq::bench
