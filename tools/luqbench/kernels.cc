#include "kernels/kernels.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <utility>

#include "luq/core/error.h"
#include "luq/core/format.h"
#include "luq/core/machine.h"
#include "luq/core/rng.h"
#include "luq/core/tensor.h"
#include "tools/luqbench/bench.h"

namespace luq::bench {
namespace {

constexpr int64_t kChannels = 256;     // of the norms
constexpr int64_t kChecked = 100'096;  // elements that are compared with ref, whole rows of the norms

// The arrays that the passes read and write, on one device.
struct Arrays {
  Tensor x, y, codes, mask;
  Tensor mean, inverse_std, gamma, beta, dgamma, dbeta;  // (kChannels)
  Stats stats;

  Arrays(const Tensor& values, Device device)
      : x(values.to(device)),
        y(Tensor::zeros({values.numel()}, DType::float32, device)),
        codes(Tensor::zeros({(values.numel() + 1) / 2}, DType::uint8, device)),
        mask(Tensor::zeros({(values.numel() + 7) / 8}, DType::uint8, device)),
        mean(Tensor::full({kChannels}, 0.1f, device)),
        inverse_std(Tensor::full({kChannels}, 1.7f, device)),
        gamma(Tensor::full({kChannels}, 0.9f, device)),
        beta(Tensor::full({kChannels}, 0.05f, device)),
        dgamma(Tensor::zeros({kChannels}, DType::float32, device)),
        dbeta(Tensor::zeros({kChannels}, DType::float32, device)) {}
};

const float* values(const Tensor& tensor) { return tensor.data<float>(); }

void encode(const Kernels& k, Arrays& a, int64_t n, Format format, float inverse_scale, Rounding rounding) {
  k.encode({.x = values(a.x),
            .rows = 1,
            .cols = n,
            .grid = format.grid(),
            .inverse_scale = inverse_scale,
            .rounding = rounding,
            .key = {5, 6, 7, 8},
            .codes = a.codes.data<uint8_t>()});
}

void random_bits(const Kernels& k, Arrays&, int64_t n) {
  uint32_t all = 0;
  k.random_bits({.key = {5, 6, 7, 8}, .count = n, .all = &all});
}

void norm(const Kernels& k, Arrays& a, int64_t n) {
  k.batch_norm_act({.x = values(a.x),
                    .rows = n / kChannels,
                    .c = kChannels,
                    .mean = values(a.mean),
                    .inverse_std = values(a.inverse_std),
                    .gamma = values(a.gamma),
                    .beta = values(a.beta),
                    .residual = nullptr,
                    .relu = true,
                    .y = a.y.data<float>(),
                    .mask = a.mask.data<uint8_t>(),
                    .stats = &a.stats});
}

void norm_by_ref(const Kernels& ref, Arrays& a, int64_t n) {
  ref.batch_norm_apply({values(a.x), n / kChannels, kChannels, values(a.mean), values(a.inverse_std), values(a.gamma),
                        values(a.beta), a.y.data<float>()});
  ref.relu({values(a.y), n, a.y.data<float>(), a.mask.data<uint8_t>()});
}

// The gradient is x too, as the mask has it.
void norm_backward(const Kernels& k, Arrays& a, int64_t n) {
  k.batch_norm_act_backward({.x = values(a.x),
                             .dy = values(a.x),
                             .rows = n / kChannels,
                             .c = kChannels,
                             .mean = values(a.mean),
                             .inverse_std = values(a.inverse_std),
                             .gamma = values(a.gamma),
                             .training = true,
                             .mask = std::as_const(a.mask).data<uint8_t>(),
                             .dresidual = nullptr,
                             .dx = a.y.data<float>(),
                             .dgamma = a.dgamma.data<float>(),
                             .dbeta = a.dbeta.data<float>(),
                             .stats = &a.stats});
}

void norm_backward_by_ref(const Kernels& ref, Arrays& a, int64_t n) {
  ref.relu_backward({values(a.x), std::as_const(a.mask).data<uint8_t>(), n, a.y.data<float>()});
  ref.batch_norm_backward({values(a.x), values(a.y), n / kChannels, kChannels, values(a.mean), values(a.inverse_std),
                           values(a.gamma), true, a.y.data<float>(), a.dgamma.data<float>(), a.dbeta.data<float>()});
}

bool same_stats(const Arrays& a, const Arrays& b, int64_t) {
  return a.stats.sum_abs == b.stats.sum_abs && a.stats.sum_sq == b.stats.sum_sq &&
         a.stats.abs_bits_max == b.stats.abs_bits_max && a.stats.nonzero == b.stats.nonzero;
}
bool same_codes(const Arrays& a, const Arrays& b, int64_t n) {
  return std::memcmp(a.codes.to({}).raw(), b.codes.raw(), static_cast<size_t>((n + 1) / 2)) == 0;
}
bool close_values(const Arrays& a, const Arrays& b, int64_t n) {
  const Tensor here = a.y.to({});
  for (int64_t i = 0; i < n; ++i) {
    const double got = static_cast<double>(values(here)[i]), expected = static_cast<double>(values(b.y)[i]);
    if (!(std::fabs(got - expected) <= 1e-5 * (1 + std::fabs(expected)))) return false;
  }
  return true;
}

// One pass: the bytes that it must move for an element of x, what it does, and how ref does it.
struct Pass {
  std::string name;
  double read_bytes, write_bytes;
  bool available;
  std::function<void(const Kernels&, Arrays&, int64_t count)> run, by_ref;
  std::function<bool(const Arrays&, const Arrays& ref, int64_t count)> equal;  // null: nothing to compare
};

std::vector<Pass> passes_of(const Kernels& kernels) {
  const auto stats = [](const Kernels& k, Arrays& a, int64_t n) {
    k.stats({.x = values(a.x), .count = n, .stats = &a.stats});
  };
  const auto relu = [](const Kernels& k, Arrays& a, int64_t n) {
    k.relu({values(a.x), n, a.y.data<float>(), nullptr});
  };
  const auto add = [](const Kernels& k, Arrays& a, int64_t n) {
    k.add({values(a.x), values(a.x), n, a.y.data<float>()});
  };
  const auto encode_int4 = [](const Kernels& k, Arrays& a, int64_t n) {
    encode(k, a, n, Format::int4, 7.5f, Rounding::nearest);
  };
  const auto encode_fp4 = [](const Kernels& k, Arrays& a, int64_t n) {
    encode(k, a, n, Format::fp4, 64.0f, Rounding::stochastic);
  };
  return {{"stats", 4, 0, true, stats, stats, same_stats},
          {"encode_int4", 4, 0.5, true, encode_int4, encode_int4, same_codes},
          {"encode_fp4", 4, 0.5, true, encode_fp4, encode_fp4, same_codes},
          {"random_bits", 0, 0, bool(kernels.random_bits), random_bits, nullptr, nullptr},
          {"relu", 4, 4, true, relu, relu, close_values},
          {"add", 8, 4, true, add, add, close_values},
          {"norm_act", 4, 4.125, bool(kernels.batch_norm_act), norm, norm_by_ref, close_values},
          // The sums over x and dy come before the gradient: both are read twice.
          {"norm_act_backward", 16.25, 4, bool(kernels.batch_norm_act_backward), norm_backward, norm_backward_by_ref,
           close_values}};
}

Tensor random_values(int64_t count) {
  Tensor x = Tensor::empty({count});
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = philox({1, 2, 3, 4}, static_cast<uint64_t>(i)).word[0];
    x.data<float>()[i] = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
  }
  return x;
}

}  // namespace

Json bench_kernels(const KernelsOptions& options) {
  if (options.mebibytes < 1 || options.repeats < 1) fail_user("[luqbench] --mebibytes, --repeats: expected 1 or more");
  const Device device = parse_device(options.device);
  const DeviceMemory* memory = device_memory(device);
  const Kernels& kernels = kernels_for(device);
  const Kernels ref = cpu_kernel_tables().front().table;
  const int64_t count = options.mebibytes << 18, checked = std::min(count, kChecked);
  const Tensor x = random_values(count);
  Arrays arrays(x, device), ref_arrays(x, {});
  const std::string machine_text = memory == nullptr ? to_string(probe_machine(kernels)) : describe_cuda();
  std::cout << fmt::format("machine  {}\ninput    {} MiB of float32; median of {}, each beside a probe of {}\n\n",
                           machine_text, options.mebibytes, options.repeats,
                           memory == nullptr ? "reading alone" : "copying");
  std::cout << fmt::format("{:<18}{:>10}{:>10}{:>12}{:>22}\n", "kernel", "ms", "GB/s", "Gelement/s",
                           memory == nullptr ? "of reading its input" : "of copying");
  Json json;
  json["device"] = options.device;
  double probe_seconds = 0, random_seconds = 0, fp4_seconds = 0;
  for (const Pass& pass : passes_of(kernels)) {
    if (!pass.available) continue;
    if (pass.equal) {
      pass.run(kernels, arrays, checked);
      pass.by_ref(ref, ref_arrays, checked);
      if (!pass.equal(arrays, ref_arrays, checked)) fail("[luqbench] {} differs from ref: not timed", pass.name);
    }
    pass.run(kernels, arrays, count);
    std::vector<double> seconds, probes;
    for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {
      if (memory != nullptr) {
        probes.push_back(time_on(device, [&] { memory->within_device(arrays.y.raw(), arrays.x.raw(), x.bytes()); }));
      } else if (kernels.peak_read) {
        probes.push_back(time_once([&] { read_memory(kernels, arrays.x); }));
      }
      seconds.push_back(time_on(device, [&] { pass.run(kernels, arrays, count); }));
    }
    const double taken = median(seconds), bytes = (pass.read_bytes + pass.write_bytes) * static_cast<double>(count);
    if (!probes.empty()) probe_seconds = median(probes);
    if (pass.name == "random_bits") random_seconds = taken;
    if (pass.name == "encode_fp4") fp4_seconds = taken;
    const double probed_bytes = memory == nullptr ? 4 : 8,
                 of_bytes = memory == nullptr ? pass.read_bytes : pass.read_bytes + pass.write_bytes;
    const double fraction = probe_seconds * of_bytes / probed_bytes / taken;
    std::cout << fmt::format("{:<18}{:>10.3f}{:>10.1f}{:>12.2f}{:>22.2f}\n", pass.name, taken * 1e3,
                             bytes / taken * 1e-9, static_cast<double>(count) / taken * 1e-9, fraction);
    json["kernels"][pass.name] = {
        {"seconds", taken},
        {memory == nullptr ? "fraction_of_read_bandwidth" : "fraction_of_copy_bandwidth", fraction}};
  }
  if (probe_seconds > 0) {
    json[memory == nullptr ? "read_bytes_per_second" : "copy_bytes_per_second"] =
        static_cast<double>(x.bytes()) * (memory == nullptr ? 1 : 2) / probe_seconds;
  }
  const double longer = std::max(probe_seconds, random_seconds);
  if (memory == nullptr && longer > 0) {
    std::cout << fmt::format(
        "\nencode_fp4 takes {:.2f} times the longer of reading its input and generating its random bits.\n",
        fp4_seconds / longer);
    json["encode_fp4_over_limit"] = fp4_seconds / longer;
  }
  return json;
}

}  // namespace luq::bench
