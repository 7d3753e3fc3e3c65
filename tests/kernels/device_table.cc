#include "tests/kernels/device_table.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <stdexcept>
#include <type_traits>

namespace luq::test {
namespace {

using namespace luq::kernels;

// The operands of one call in device memory. The same host pointer becomes the same device pointer; null stays null.
class Operands {
 public:
  Operands(const DeviceMemory& memory, Alignment alignment) : memory_(memory), alignment_(alignment) {}
  ~Operands() {
    if (std::uncaught_exceptions() > 0) return;  // after an error the device refuses everything
    for (const Operand& operand : operands_) memory_.deallocate(operand.begin);
  }
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  template <typename T>
  void in(const T*& pointer, int64_t count) {
    pointer = static_cast<const T*>(place(const_cast<T*>(pointer), count, bytes_of<T>(), true, false));
  }
  void in(ConstFloats& x, int64_t count) {
    x.data = place(const_cast<void*>(x.data), count, x.element_bytes(), true, false);
  }
  // keeps: what lies there is read, or not all of it written.
  template <typename T>
  void out(T*& pointer, int64_t count, bool keeps = false) {
    pointer = static_cast<T*>(place(pointer, count, bytes_of<T>(), keeps, true));
  }
  void out(Floats& y, int64_t count, bool keeps = false) {
    y.data = place(y.data, count, ConstFloats(y).element_bytes(), keeps, true);
  }

  // What was written, to the host.
  void bring_back() const {
    for (const Operand& operand : operands_) {
      if (!operand.written) continue;
      std::vector<uint8_t> all(static_cast<size_t>(operand.skip + operand.bytes));
      memory_.to_host(all.data(), operand.begin, operand.skip + operand.bytes);
      for (int64_t i = 0; i < operand.skip; ++i) {
        if (all[static_cast<size_t>(i)] != kFill) throw std::runtime_error("an entry wrote before an operand");
      }
      if (operand.bytes > 0) std::memcpy(operand.host, all.data() + operand.skip, static_cast<size_t>(operand.bytes));
    }
  }

 private:
  static constexpr uint8_t kFill = 0xa5;

  struct Operand {
    void* host;
    int64_t bytes, skip;
    uint8_t* begin;  // of the allocation
    bool written;
  };

  template <typename T>
  static constexpr int64_t bytes_of() {
    if constexpr (std::is_void_v<T>) {
      return 1;
    } else {
      return sizeof(T);
    }
  }

  void* place(void* host, int64_t count, int64_t element_bytes, bool read, bool written) {
    if (host == nullptr) return nullptr;
    const int64_t bytes = count * element_bytes;
    for (Operand& operand : operands_) {
      if (operand.host != host) continue;
      if (operand.bytes != bytes) throw std::runtime_error("an operand of two sizes");
      if (read) memory_.to_device(operand.begin + operand.skip, host, bytes);
      operand.written = operand.written || written;
      return operand.begin + operand.skip;
    }
    const auto of_host = static_cast<int64_t>(reinterpret_cast<uintptr_t>(host) % 16);
    const int64_t skip = alignment_ == Alignment::shifted ? (of_host + element_bytes) % 16 : of_host;
    auto* begin = static_cast<uint8_t*>(memory_.allocate(skip + bytes));
    if (begin == nullptr) throw std::runtime_error("no device memory left");
    std::vector<uint8_t> all(static_cast<size_t>(skip + bytes), kFill);
    if (read && bytes > 0) std::memcpy(all.data() + skip, host, static_cast<size_t>(bytes));
    memory_.to_device(begin, all.data(), skip + bytes);
    operands_.push_back({host, bytes, skip, begin, written});
    return begin + skip;
  }

  const DeviceMemory& memory_;
  Alignment alignment_;
  std::vector<Operand> operands_;
};

// ---- The operands of each entry -------------------------------------------------------------------------------------

int64_t packed(int64_t rows, int64_t cols) { return rows * packed_row_bytes(cols); }
int64_t packed_x(const ConvShape& s) { return packed(s.n * s.h * s.w, s.c); }
int64_t packed_y(const ConvShape& s) { return packed(s.n * s.oh() * s.ow(), s.o); }
int64_t packed_w(const ConvShape& s) { return packed(s.o * s.kh * s.kw, s.c_group()); }

void stage(Operands& o, ConvertArgs& a) {
  o.in(a.x, a.count);
  o.out(a.y, a.count);
}
void stage(Operands& o, StatsArgs& a) { o.in(a.x, a.count); }
void stage(Operands& o, StatsManyArgs& a) {
  static std::vector<StatsArgs> tensors;  // while the entry runs
  tensors.assign(a.tensors, a.tensors + a.count);
  for (StatsArgs& one : tensors) stage(o, one);
  a.tensors = tensors.data();
}
void stage(Operands& o, EncodeIntArgs& a) {
  o.in(a.x, a.rows * a.cols);
  o.out(a.codes, packed(a.rows, a.cols));
}
void stage(Operands& o, EncodeFp4Args& a) {
  o.in(a.x, a.rows * a.cols);
  o.out(a.codes, packed(a.rows, a.cols));
}
void stage(Operands& o, DecodeArgs& a) {
  o.in(a.codes, packed(a.rows, a.cols));
  o.out(a.x, a.rows * a.cols);
}

// With sums the floats are not written.
void stage(Operands& o, QConvForwardArgs& a) {
  o.in(a.x, packed_x(a.shape));
  o.in(a.w, packed_w(a.shape));
  o.in(a.bias, a.shape.o);
  o.out(a.y, a.shape.y_size(), a.sums != nullptr);
  o.out(a.sums, a.shape.y_size());
}
void stage(Operands& o, QConvForwardMomentsArgs& a) {
  stage(o, a.conv);
  o.out(a.mean, a.conv.shape.o);
  o.out(a.variance, a.conv.shape.o);
}
void stage(Operands& o, QConvBackwardDataArgs& a) {
  o.in(a.dy, packed_y(a.shape));
  o.in(a.w, packed_w(a.shape));
  o.out(a.dx, a.shape.x_size(), a.accumulate || a.sums != nullptr);
  o.out(a.sums, a.shape.x_size());
}
void stage(Operands& o, QConvBackwardWeightArgs& a) {
  o.in(a.dy, packed_y(a.shape));
  o.in(a.x, packed_x(a.shape));
  o.out(a.dw, a.shape.w_size(), a.sums != nullptr);
  o.out(a.sums, a.shape.w_size());
}

void stage(Operands& o, ConvForwardArgs& a) {
  o.in(a.x, a.shape.x_size());
  o.in(a.w, a.shape.w_size());
  o.in(a.bias, a.shape.o);
  o.out(a.y, a.shape.y_size());
}
void stage(Operands& o, ConvBackwardDataArgs& a) {
  o.in(a.dy, a.shape.y_size());
  o.in(a.w, a.shape.w_size());
  o.out(a.dx, a.shape.x_size());
}
void stage(Operands& o, ConvBackwardWeightArgs& a) {
  o.in(a.dy, a.shape.y_size());
  o.in(a.x, a.shape.x_size());
  o.out(a.dw, a.shape.w_size());
}
void stage(Operands& o, ColumnSumArgs& a) {
  o.in(a.x, a.rows * a.cols);
  o.out(a.sum, a.cols);
}

void stage(Operands& o, BatchNormStatsArgs& a) {
  o.in(a.x, a.rows * a.c);
  o.out(a.mean, a.c);
  o.out(a.variance, a.c);
}
template <typename Args>
void stage_scale(Operands& o, Args& a) {
  for (const float** of_channels : {&a.mean, &a.inverse_std, &a.gamma}) o.in(*of_channels, a.c);
}
void stage(Operands& o, BatchNormApplyArgs& a) {
  stage_scale(o, a);
  o.in(a.beta, a.c);
  o.in(a.x, a.rows * a.c);
  o.out(a.y, a.rows * a.c);
}
void stage(Operands& o, BatchNormActArgs& a) {
  stage_scale(o, a);
  o.in(a.beta, a.c);
  o.in(a.x, a.rows * a.c);
  o.in(a.residual, a.rows * a.c);
  o.out(a.y, a.rows * a.c);
  o.out(a.mask, (a.rows * a.c + 7) / 8);
}
template <typename Args>
void stage_norm_backward(Operands& o, Args& a) {
  o.in(a.x, a.rows * a.c);
  o.in(a.dy, a.rows * a.c);
  o.out(a.dx, a.rows * a.c);
  o.out(a.dgamma, a.c);
  o.out(a.dbeta, a.c);
}
void stage(Operands& o, BatchNormBackwardArgs& a) {
  stage_scale(o, a);
  stage_norm_backward(o, a);
}
void stage(Operands& o, BatchNormActBackwardArgs& a) {
  stage_scale(o, a);
  o.in(a.mask, (a.rows * a.c + 7) / 8);
  o.out(a.dresidual, a.rows * a.c);
  stage_norm_backward(o, a);
}
void stage(Operands& o, BatchNormFinishArgs& a) {
  o.in(a.mean, a.c);
  o.in(a.variance, a.c);
  o.out(a.inverse_std, a.c);
  o.out(a.running_mean, a.c, true);
  o.out(a.running_variance, a.c, true);
}
void stage(Operands& o, LayerNormArgs& a) {
  o.in(a.x, a.rows * a.c);
  o.in(a.gamma, a.c);
  o.in(a.beta, a.c);
  o.out(a.y, a.rows * a.c);
  o.out(a.mean, a.rows);
  o.out(a.inverse_std, a.rows);
}
void stage(Operands& o, LayerNormBackwardArgs& a) {
  o.in(a.mean, a.rows);
  o.in(a.inverse_std, a.rows);
  o.in(a.gamma, a.c);
  stage_norm_backward(o, a);
}

void stage(Operands& o, AttentionArgs& a) {
  const int64_t rows = a.n * a.tokens * a.heads;
  o.in(a.qkv, 3 * rows * a.head_dim);
  o.out(a.y, rows * a.head_dim);
  o.out(a.log_sum, rows);
}
void stage(Operands& o, AttentionBackwardArgs& a) {
  const int64_t rows = a.n * a.tokens * a.heads;
  o.in(a.qkv, 3 * rows * a.head_dim);
  o.in(a.y, rows * a.head_dim);
  o.in(a.log_sum, rows);
  o.in(a.dy, rows * a.head_dim);
  o.out(a.dqkv, 3 * rows * a.head_dim);
}

void stage(Operands& o, ReluArgs& a) {
  o.in(a.x, a.count);
  o.out(a.y, a.count);
  o.out(a.mask, (a.count + 7) / 8);
}
void stage(Operands& o, ReluBackwardArgs& a) {
  o.in(a.dy, a.count);
  o.in(a.mask, (a.count + 7) / 8);
  o.out(a.dx, a.count);
}
void stage(Operands& o, GeluArgs& a) {
  o.in(a.x, a.count);
  o.out(a.y, a.count);
}
void stage(Operands& o, GeluBackwardArgs& a) {
  o.in(a.x, a.count);
  o.in(a.dy, a.count);
  o.out(a.dx, a.count);
}
void stage(Operands& o, AddArgs& a) {
  o.in(a.a, a.count);
  o.in(a.b, a.count);
  o.out(a.y, a.count);
}
void stage(Operands& o, DropoutArgs& a) {
  o.in(a.x, a.count);
  o.out(a.y, a.count);
}
void stage(Operands& o, MovingAverageArgs& a) {
  o.in(a.value, a.count);
  o.out(a.average, a.count, true);
}
void stage(Operands& o, CopyRowsArgs& a) {
  const auto bytes = [&](int64_t stride) { return a.rows > 0 ? (a.rows - 1) * stride + a.bytes : 0; };
  o.in(a.from, bytes(a.from_stride));
  o.out(a.to, bytes(a.to_stride), true);
}

void stage(Operands& o, FinishImagesArgs& a) {
  o.in(a.x, a.n * a.h * a.w * a.c);
  const auto* edits = static_cast<const double*>(a.edits);  // which is how they are aligned
  o.in(edits, a.n * image_edit_bytes(a.c) / static_cast<int64_t>(sizeof(double)));
  a.edits = edits;
  o.out(a.y, a.count * a.h * a.w * a.c);
}

int64_t inputs(const PoolShape& s) { return s.n * s.h * s.w * s.c; }
int64_t outputs(const PoolShape& s) { return s.n * s.oh() * s.ow() * s.c; }
void stage(Operands& o, MaxPoolArgs& a) {
  o.in(a.x, inputs(a.shape));
  o.out(a.y, outputs(a.shape));
  o.out(a.index, outputs(a.shape));
}
void stage(Operands& o, MaxPoolBackwardArgs& a) {
  o.in(a.dy, outputs(a.shape));
  o.in(a.index, outputs(a.shape));
  o.out(a.dx, inputs(a.shape));
}
void stage(Operands& o, AvgPoolArgs& a) {
  o.in(a.x, inputs(a.shape));
  o.out(a.y, outputs(a.shape));
}
void stage(Operands& o, AvgPoolBackwardArgs& a) {
  o.in(a.dy, outputs(a.shape));
  o.out(a.dx, inputs(a.shape));
}
void stage(Operands& o, AdaptiveAvgPoolArgs& a) {
  o.in(a.x, a.n * a.h * a.w * a.c);
  o.out(a.y, a.n * a.oh * a.ow * a.c);
}
void stage(Operands& o, AdaptiveAvgPoolBackwardArgs& a) {
  o.in(a.dy, a.n * a.oh * a.ow * a.c);
  o.out(a.dx, a.n * a.h * a.w * a.c);
}

void stage(Operands& o, CrossEntropyArgs& a) {
  o.in(a.logits, a.rows * a.classes);
  o.in(a.labels, a.rows);
  o.in(a.other_labels, a.rows);
  o.in(a.label_weight, a.rows);
  o.out(a.loss, a.rows);
  o.out(a.dlogits, a.rows * a.classes);
}
void stage(Operands& o, SgdArgs& a) {
  o.in(a.gradient, a.count);
  o.out(a.w, a.count, true);
  o.out(a.velocity, a.count, true);
}
void stage(Operands& o, AdamWArgs& a) {
  o.in(a.gradient, a.count);
  for (float** both : {&a.w, &a.m, &a.v}) o.out(*both, a.count, true);
}

// ---- The table ------------------------------------------------------------------------------------------------------

struct Target {
  Kernels table;
  const DeviceMemory* memory = nullptr;
  std::map<std::string, int64_t> calls;
};
Target targets[kPlaces];

// What a device may have; the other entries are the host's.
#define LUQ_DEVICE_KERNEL_ENTRIES(X)                \
  LUQ_REQUIRED_KERNEL_ENTRIES(X)                    \
  X(stats_many, StatsManyArgs)                      \
  X(qconv_forward_moments, QConvForwardMomentsArgs) \
  X(batch_norm_act, BatchNormActArgs)               \
  X(batch_norm_act_backward, BatchNormActBackwardArgs)

#define LUQ_DEFINE_ADAPTER(name, Args)             \
  template <int kPlace, Alignment kAlignment>      \
  void run_##name(const Args& args) {              \
    Target& target = targets[kPlace];              \
    Args there = args;                             \
    Operands operands(*target.memory, kAlignment); \
    stage(operands, there);                        \
    target.table.name(there);                      \
    operands.bring_back();                         \
    ++target.calls[#name];                         \
  }
LUQ_DEVICE_KERNEL_ENTRIES(LUQ_DEFINE_ADAPTER)
#undef LUQ_DEFINE_ADAPTER

template <int kPlace, Alignment kAlignment>
Kernels adapters(const Kernels& table) {
  Kernels adapted;
#define LUQ_ADAPT(name, Args)                                \
  if (table.name) {                                          \
    adapted.name.run = run_##name<kPlace, kAlignment>;       \
    adapted.name.implementation = table.name.implementation; \
  }
  LUQ_DEVICE_KERNEL_ENTRIES(LUQ_ADAPT)
#undef LUQ_ADAPT
  return adapted;
}

int64_t most_elements() {
  const char* given = std::getenv("LUQ_TEST_WORK");
  return given != nullptr ? std::atoll(given) : INT64_MAX / 16;
}

}  // namespace

Kernels on_device(const Kernels& table, Device device, int place, Alignment alignment) {
  targets[place].table = table;
  targets[place].memory = luq::device_memory(device);
  const bool shifted = alignment == Alignment::shifted;
  const Kernels adapted =
      place == 0 ? (shifted ? adapters<0, Alignment::shifted>(table) : adapters<0, Alignment::of_host>(table))
                 : (shifted ? adapters<1, Alignment::shifted>(table) : adapters<1, Alignment::of_host>(table));
  if (describe(adapted) != describe(table)) {
    throw std::runtime_error("the device has an entry that tests/kernels/device_table.cc has no adapter for");
  }
  return adapted;
}

DeviceEmulation& device_emulation() {
  static DeviceEmulation emulation;
  return emulation;
}

std::vector<NamedKernels> device_tables(const Work& work) {
  constexpr Device kCuda{DeviceType::cuda, 0};
  static const bool there = is_available(kCuda);
  static const int64_t given = most_elements();
  const bool is_emulated = device_emulation().set_seed != nullptr;
  const int64_t elements = is_emulated ? std::min(kMostEmulated.elements, given) : given;
  const int64_t multiply_adds = is_emulated ? std::min(kMostEmulated.multiply_adds, 16 * given) : 16 * given;
  if (!there || work.elements > elements || work.multiply_adds > multiply_adds) return {};
  static const std::vector<NamedKernels> tables = [&] {
    static_cast<void>(kernels_for(kCuda));  // which opens the libraries
    std::vector<NamedKernels> made;
    int place = 0;
    for (const NamedKernels& table : cuda_kernel_tables()) {
      const std::string name =
          table.name + (is_emulated ? ", LUQ_CUDA_SEED=" + std::to_string(device_emulation().seed) : "");
      made.push_back({name, on_device(table.table, kCuda, place)});
      made.push_back({name + ", operands shifted", on_device(table.table, kCuda, place, Alignment::shifted)});
      ++place;
    }
    return made;
  }();
  order_device_threads(0);
  static size_t turn = 0;
  if (is_emulated) return {tables[turn++ % tables.size()]};
  return tables;
}

bool only_device_tables() {
  const char* given = std::getenv("LUQ_TEST_TABLES");
  if (given == nullptr) return false;
  if (std::string(given) != "cuda")
    throw std::runtime_error("LUQ_TEST_TABLES: expected cuda, got " + std::string(given));
  if (!is_available({DeviceType::cuda, 0})) throw std::runtime_error("LUQ_TEST_TABLES=cuda: there is no device");
  return true;
}

void order_device_threads(uint64_t order) {
  const DeviceEmulation& emulation = device_emulation();
  if (emulation.set_seed != nullptr) emulation.set_seed(emulation.seed + order);
}

std::vector<std::string> device_entries_not_run() {
  std::vector<std::string> missing;
  if (device_tables({}).empty()) return missing;
  for (const Target& target : targets) {
    for (const auto& [entry, implementation] : describe(target.table)) {
      if (target.memory != nullptr && implementation != "-" && target.calls.count(entry) == 0) missing.push_back(entry);
    }
  }
  return missing;
}

}  // namespace luq::test
