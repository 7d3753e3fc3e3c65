#include "luq/core/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "kernels/kernels.h"
#include "luq/core/error.h"

namespace luq {
namespace {

using namespace kernels;

struct Cost {
  std::string shape;
  double bytes = 0;
  ComputeUnit unit = ComputeUnit::none;
  double operations = 0;
};

std::string text(const ConvShape& s) {
  std::string result = fmt::format("{}x{}x{}x{} -> {}, {}x{}", s.n, s.h, s.w, s.c, s.o, s.kh, s.kw);
  if (s.stride_h != 1 || s.stride_w != 1) result += fmt::format(" stride {}", s.stride_h);
  if (s.dilation_h != 1 || s.dilation_w != 1) result += fmt::format(" dilation {}", s.dilation_h);
  if (s.groups != 1) result += fmt::format(" groups {}", s.groups);
  return result;
}

Cost flat(int64_t count, double bytes_each) {
  return {.shape = std::to_string(count), .bytes = static_cast<double>(count) * bytes_each};
}

// A convolution with operands of a, b and c bytes an element: x, w and y in the order of the shape.
Cost conv(const ConvShape& s, double x, double w, double y, ComputeUnit unit) {
  return {.shape = text(s),
          .bytes = x * static_cast<double>(s.x_size()) + w * static_cast<double>(s.w_size()) +
                   y * static_cast<double>(s.y_size()),
          .unit = unit,
          .operations = 2.0 * static_cast<double>(s.macs())};
}

constexpr double kCode = 0.5;

double size(ConstFloats x) { return static_cast<double>(x.element_bytes()); }
ComputeUnit unit(ConstFloats x) { return x.bfloat16 ? ComputeUnit::bfloat16 : ComputeUnit::float32; }

Cost cost(const ConvertArgs& a) { return flat(a.count, 6); }
Cost cost(const StatsArgs& a) { return flat(a.count, size(a.x)); }
Cost cost(const StatsManyArgs& a) {
  int64_t count = 0;
  for (int64_t i = 0; i < a.count; ++i) count += a.tensors[i].count;
  return flat(count, 4);
}
Cost cost(const EncodeIntArgs& a) { return flat(a.rows * a.cols, size(a.x) + kCode); }
Cost cost(const EncodeFp4Args& a) { return flat(a.rows * a.cols, size(a.x) + kCode); }
Cost cost(const DecodeArgs& a) { return flat(a.rows * a.cols, 4 + kCode); }
Cost cost(const QConvForwardArgs& a) { return conv(a.shape, kCode, kCode, size(a.y), ComputeUnit::int8); }
Cost cost(const QConvForwardMomentsArgs& a) { return cost(a.conv); }
Cost cost(const QConvBackwardDataArgs& a) { return conv(a.shape, size(a.dx), kCode, kCode, ComputeUnit::int8); }
Cost cost(const QConvBackwardWeightArgs& a) { return conv(a.shape, kCode, 4, kCode, ComputeUnit::int8); }
Cost cost(const ConvForwardArgs& a) { return conv(a.shape, size(a.x), 4, size(a.x), unit(a.x)); }
Cost cost(const ConvBackwardDataArgs& a) { return conv(a.shape, size(a.dy), 4, size(a.dy), unit(a.dy)); }
Cost cost(const ConvBackwardWeightArgs& a) { return conv(a.shape, size(a.x), 4, size(a.x), unit(a.x)); }
Cost cost(const ColumnSumArgs& a) { return flat(a.rows * a.cols, 4); }
Cost cost(const BatchNormStatsArgs& a) { return flat(a.rows * a.c, 1 * size(a.x)); }
Cost cost(const BatchNormApplyArgs& a) { return flat(a.rows * a.c, 2 * size(a.x)); }
Cost cost(const BatchNormBackwardArgs& a) { return flat(a.rows * a.c, 5 * size(a.x)); }  // x and dy are read twice
Cost cost(const BatchNormActArgs& a) { return flat(a.rows * a.c, (a.residual ? 3 : 2) * size(a.x) + 0.125); }
Cost cost(const BatchNormActBackwardArgs& a) { return flat(a.rows * a.c, (a.dresidual ? 6 : 5) * size(a.x) + 0.25); }
Cost cost(const BatchNormFinishArgs& a) { return flat(a.c, a.running_mean != nullptr ? 28 : 8); }
Cost cost(const MovingAverageArgs& a) { return flat(a.count, 12); }
Cost cost(const CopyRowsArgs& a) { return flat(a.rows * a.bytes, 2); }
Cost cost(const ReluArgs& a) { return flat(a.count, 2 * size(a.x)); }
Cost cost(const ReluBackwardArgs& a) { return flat(a.count, 2 * size(a.dy)); }
Cost cost(const AddArgs& a) { return flat(a.count, 3 * size(a.a)); }
Cost cost(const DropoutArgs& a) { return flat(a.count, 8); }
Cost cost(const GeluArgs& a) { return flat(a.count, 2 * size(a.x)); }
Cost cost(const GeluBackwardArgs& a) { return flat(a.count, 3 * size(a.x)); }
Cost cost(const LayerNormArgs& a) { return flat(a.rows * a.c, 2 * size(a.x)); }
Cost cost(const LayerNormBackwardArgs& a) { return flat(a.rows * a.c, 3 * size(a.x)); }
// products: matrix products of (tokens, head_dim) and (tokens, tokens) for each head.
Cost attention(int64_t n, int64_t tokens, int64_t heads, int64_t head_dim, ConstFloats x, int products, int tensors) {
  const auto values = static_cast<double>(n * tokens * heads * head_dim);
  return {.shape = fmt::format("{}x{}, {} heads of {}", n, tokens, heads, head_dim),
          .bytes = tensors * values * size(x),
          .unit = unit(x),
          .operations = 2.0 * products * values * static_cast<double>(tokens)};
}
Cost cost(const AttentionArgs& a) { return attention(a.n, a.tokens, a.heads, a.head_dim, a.qkv, 2, 4); }
Cost cost(const AttentionBackwardArgs& a) { return attention(a.n, a.tokens, a.heads, a.head_dim, a.qkv, 5, 8); }
Cost pool(int64_t in, int64_t out, double in_bytes, double out_bytes) {
  return {.shape = fmt::format("{} -> {}", in, out),
          .bytes = in_bytes * static_cast<double>(in) + out_bytes * static_cast<double>(out)};
}
int64_t pool_in(const PoolShape& s) { return s.n * s.h * s.w * s.c; }
int64_t pool_out(const PoolShape& s) { return s.n * s.oh() * s.ow() * s.c; }
Cost cost(const MaxPoolArgs& a) { return pool(pool_in(a.shape), pool_out(a.shape), size(a.x), size(a.x) + 4); }
Cost cost(const MaxPoolBackwardArgs& a) {
  return pool(pool_in(a.shape), pool_out(a.shape), size(a.dy), size(a.dy) + 4);
}
Cost cost(const AvgPoolArgs& a) { return pool(pool_in(a.shape), pool_out(a.shape), 4, 4); }
Cost cost(const AvgPoolBackwardArgs& a) { return pool(pool_in(a.shape), pool_out(a.shape), 4, 4); }
Cost cost(const AdaptiveAvgPoolArgs& a) { return pool(a.n * a.h * a.w * a.c, a.n * a.oh * a.ow * a.c, 4, 4); }
Cost cost(const AdaptiveAvgPoolBackwardArgs& a) { return pool(a.n * a.h * a.w * a.c, a.n * a.oh * a.ow * a.c, 4, 4); }
Cost cost(const CrossEntropyArgs& a) { return flat(a.rows * a.classes, 8); }
Cost cost(const PeakArgs&) { return {}; }
Cost cost(const PeakReadArgs&) { return {}; }
Cost cost(const RandomBitsArgs&) { return {}; }
Cost cost(const AdamWArgs& a) { return flat(a.count, 28); }
Cost cost(const ResizeArgs& a) { return pool(a.h * a.w * a.c, a.oh * a.ow * a.c, 1, 1); }
Cost cost(const FinishImagesArgs& a) {
  const double read = a.mix.kind == ImageMix::Kind::mixup ? 2 : 1;
  return flat(a.count * a.h * a.w * a.c, read + size(a.y));
}
Cost cost(const SgdArgs& a) { return flat(a.count, a.velocity != nullptr ? 20 : 12); }

}  // namespace

struct KernelProfile::State {
  Kernels original, timed;
  std::map<std::tuple<std::string, const char*, std::string>, KernelRecord> records;
  std::string phase;
  const DeviceMemory* memory = nullptr;
  static State* active;

  template <typename Args, Kernel<Args> Kernels::*Entry>
  void run(const char* name, const Args& args) {
    if (memory != nullptr) memory->wait();
    const auto start = std::chrono::steady_clock::now();
    (original.*Entry)(args);
    if (memory != nullptr) memory->wait();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const Cost spent = cost(args);
    KernelRecord& record = records[{phase, name, spent.shape}];
    record.phase = phase;
    record.kernel = name;
    record.implementation = (original.*Entry).implementation;
    record.shape = spent.shape;
    record.unit = spent.unit;
    record.calls += 1;
    record.seconds += seconds;
    record.operations += spent.operations;
    record.bytes += spent.bytes;
  }
};

KernelProfile::State* KernelProfile::State::active = nullptr;

KernelProfile::KernelProfile(const Kernels& kernels, Device device) : state_(std::make_unique<State>()) {
  if (State::active != nullptr) fail("[profile] only one profile may record at a time");
  State::active = state_.get();
  state_->original = state_->timed = kernels;
  state_->memory = device_memory(device);
#define LUQ_TIME_ENTRY(name, Args) \
  if (kernels.name)                \
    state_->timed.name.run = [](const Args& args) { State::active->run<Args, &Kernels::name>(#name, args); };
  LUQ_KERNEL_ENTRIES(LUQ_TIME_ENTRY)
#undef LUQ_TIME_ENTRY
}

KernelProfile::~KernelProfile() { State::active = nullptr; }

const Kernels& KernelProfile::kernels() const { return state_->timed; }

std::vector<KernelRecord> KernelProfile::records() const {
  std::vector<KernelRecord> rows;
  for (const auto& [key, record] : state_->records) rows.push_back(record);
  std::sort(rows.begin(), rows.end(),
            [](const KernelRecord& a, const KernelRecord& b) { return a.seconds > b.seconds; });
  return rows;
}

void KernelProfile::set_phase(std::string phase) { state_->phase = std::move(phase); }

void KernelProfile::clear() { state_->records.clear(); }

}  // namespace luq
