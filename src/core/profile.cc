#include "luq/core/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "kernels/kernels.h"
#include "kernels/operands.h"
#include "luq/core/error.h"

namespace luq {
namespace {

using namespace kernels;

// The bytes of a call that are read and written.
class MovedBytes final : private KernelArrays {
 public:
  template <typename Args>
  double of(Args args) {
    bytes_ = 0;
    visit(args);
    return static_cast<double>(bytes_);
  }

 private:
  void* array(void* data, const KernelArray& array) override {
    bytes_ += array.moved_bytes();
    return data;
  }

  int64_t bytes_ = 0;
};

struct Cost {
  std::string shape;
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

ComputeUnit unit(ConstFloats x) { return x.bfloat16 ? ComputeUnit::bfloat16 : ComputeUnit::float32; }
Cost conv(const ConvShape& s, ComputeUnit unit) { return {text(s), unit, 2.0 * static_cast<double>(s.macs())}; }

Cost cost(const QConvForwardArgs& a) { return conv(a.shape, ComputeUnit::int8); }
Cost cost(const QConvForwardMomentsArgs& a) { return cost(a.conv); }
Cost cost(const QConvBackwardDataArgs& a) { return conv(a.shape, ComputeUnit::int8); }
Cost cost(const QConvBackwardWeightArgs& a) { return conv(a.shape, ComputeUnit::int8); }
Cost cost(const ConvForwardArgs& a) { return conv(a.shape, unit(a.x)); }
Cost cost(const ConvBackwardDataArgs& a) { return conv(a.shape, unit(a.dy)); }
Cost cost(const ConvBackwardWeightArgs& a) { return conv(a.shape, unit(a.x)); }

// products: matrix products of (tokens, head_dim) and (tokens, tokens) for each head.
template <typename Args>
Cost attention(const Args& a, int products) {
  return {fmt::format("{}x{}, {} heads of {}", a.n, a.tokens, a.heads, a.head_dim), unit(a.qkv),
          2.0 * products * static_cast<double>(a.n * a.tokens * a.heads * a.head_dim) * static_cast<double>(a.tokens)};
}
Cost cost(const AttentionArgs& a) { return attention(a, 2); }
Cost cost(const AttentionBackwardArgs& a) { return attention(a, 5); }

Cost pool(int64_t in, int64_t out) { return {.shape = fmt::format("{} -> {}", in, out)}; }
Cost pool(const PoolShape& s) { return pool(s.n * s.h * s.w * s.c, s.n * s.oh() * s.ow() * s.c); }
Cost cost(const MaxPoolArgs& a) { return pool(a.shape); }
Cost cost(const MaxPoolBackwardArgs& a) { return pool(a.shape); }
Cost cost(const AvgPoolArgs& a) { return pool(a.shape); }
Cost cost(const AvgPoolBackwardArgs& a) { return pool(a.shape); }
Cost cost(const AdaptiveAvgPoolArgs& a) { return pool(a.n * a.h * a.w * a.c, a.n * a.oh * a.ow * a.c); }
Cost cost(const AdaptiveAvgPoolBackwardArgs& a) { return pool(a.n * a.h * a.w * a.c, a.n * a.oh * a.ow * a.c); }
Cost cost(const ResizeArgs& a) { return pool(a.h * a.w * a.c, a.oh * a.ow * a.c); }

Cost cost(const PeakArgs&) { return {}; }
Cost cost(const PeakReadArgs&) { return {}; }

Cost flat(int64_t count) { return {.shape = std::to_string(count)}; }
Cost cost(const StatsManyArgs& a) {
  int64_t count = 0;
  for (int64_t i = 0; i < a.count; ++i) count += a.tensors[i].count;
  return flat(count);
}
Cost cost(const CopyRowsArgs& a) { return flat(a.rows * a.bytes); }
Cost cost(const CrossEntropyArgs& a) { return flat(a.rows * a.classes); }
Cost cost(const BatchNormFinishArgs& a) { return flat(a.c); }
Cost cost(const FinishImagesArgs& a) { return flat(a.count * a.h * a.w * a.c); }
// The others work on `count` elements or on a matrix.
template <typename Args>
Cost cost(const Args& a) {
  if constexpr (requires { a.cols; }) {
    return flat(a.rows * a.cols);
  } else if constexpr (requires { a.rows; }) {
    return flat(a.rows * a.c);
  } else {
    return flat(a.count);
  }
}

}  // namespace

struct KernelProfile::State {
  Kernels original, timed;
  std::map<std::tuple<std::string, const char*, std::string>, KernelRecord> records;
  std::string phase;
  MovedBytes moved;
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
    record.bytes += moved.of(args);
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
