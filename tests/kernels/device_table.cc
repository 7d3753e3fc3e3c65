#include "tests/kernels/device_table.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <stdexcept>

#include "kernels/operands.h"

namespace luq::test {
namespace {

// The arrays of one call in device memory. The same host pointer becomes the same device pointer.
class InDeviceMemory final : public kernels::KernelArrays {
 public:
  InDeviceMemory(const DeviceMemory& memory, Alignment alignment) : memory_(memory), alignment_(alignment) {}
  ~InDeviceMemory() {
    if (std::uncaught_exceptions() > 0) return;  // after an error the device refuses everything
    for (const Array& array : arrays_) memory_.deallocate(array.begin);
  }

  // Copies what was written to the host. Throws where something was written that the list does not say.
  void bring_back() const {
    for (const Array& array : arrays_) {
      if (array.read && !array.written) continue;
      std::vector<uint8_t> all(static_cast<size_t>(array.skip + array.bytes));
      memory_.to_host(all.data(), array.begin, array.skip + array.bytes);
      const int64_t untouched = array.skip + (array.written ? 0 : array.bytes);
      for (int64_t i = 0; i < untouched; ++i) {
        if (all[static_cast<size_t>(i)] != kFill)
          throw std::runtime_error("an entry wrote before an array, or to one of no use to the call");
      }
      if (array.written && array.bytes > 0)
        std::memcpy(array.host, all.data() + array.skip, static_cast<size_t>(array.bytes));
    }
  }

 private:
  static constexpr uint8_t kFill = 0xa5;

  struct Array {
    void* host;
    int64_t bytes, skip;
    uint8_t* begin;  // of the allocation
    bool read, written;
  };

  void* array(void* host, const kernels::KernelArray& of) override {
    const int64_t bytes = of.bytes();
    for (Array& array : arrays_) {
      if (array.host != host) continue;
      if (array.bytes != bytes) throw std::runtime_error("an array of two sizes");
      if (of.read) memory_.to_device(array.begin + array.skip, host, bytes);
      array.read = array.read || of.read;
      array.written = array.written || of.written;
      return array.begin + array.skip;
    }
    const auto of_host = static_cast<int64_t>(reinterpret_cast<uintptr_t>(host) % 16);
    const int64_t skip = alignment_ == Alignment::shifted ? (of_host + of.element_bytes) % 16 : of_host;
    auto* begin = static_cast<uint8_t*>(memory_.allocate(skip + bytes));
    if (begin == nullptr) throw std::runtime_error("no device memory left");
    std::vector<uint8_t> all(static_cast<size_t>(skip + bytes), kFill);
    if (of.read && bytes > 0) std::memcpy(all.data() + skip, host, static_cast<size_t>(bytes));
    memory_.to_device(begin, all.data(), skip + bytes);
    arrays_.push_back({host, bytes, skip, begin, of.read, of.written});
    return begin + skip;
  }

  const DeviceMemory& memory_;
  Alignment alignment_;
  std::vector<Array> arrays_;
};

struct Target {
  Kernels table;
  const DeviceMemory* memory = nullptr;
  std::map<std::string, int64_t> calls;
};
Target targets[kPlaces];

#define LUQ_DEFINE_ADAPTER(name, Args)                 \
  template <int kPlace, Alignment kAlignment>          \
  void run_##name(const kernels::Args& args) {         \
    Target& target = targets[kPlace];                  \
    kernels::Args there = args;                        \
    InDeviceMemory arrays(*target.memory, kAlignment); \
    arrays.visit(there);                               \
    target.table.name(there);                          \
    arrays.bring_back();                               \
    ++target.calls[#name];                             \
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
  const auto in_place = [&](auto number) {
    constexpr int kPlace = decltype(number)::value;
    return shifted ? adapters<kPlace, Alignment::shifted>(table) : adapters<kPlace, Alignment::of_host>(table);
  };
  static_assert(kPlaces == 3);
  const Kernels adapted = place == 0   ? in_place(std::integral_constant<int, 0>{})
                          : place == 1 ? in_place(std::integral_constant<int, 1>{})
                                       : in_place(std::integral_constant<int, 2>{});
  if (describe(adapted) != describe(table)) {
    throw std::runtime_error(
        "the device has an entry that LUQ_DEVICE_KERNEL_ENTRIES of kernels/operands.h does not list");
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
