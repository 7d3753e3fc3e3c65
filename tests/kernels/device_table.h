// A device's kernels for tests whose operands lie in host memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace luq::test {

// The device's entries for host pointers: each call copies what it reads to the device and what it writes back. There,
// arrays have the host's alignment to 16 bytes, or begin one element after that, and end where an allocation ends;
// what is only written begins with other bytes than the host's. Throws where something wrote before an array, or to one
// that kernels/operands.h says the call does not touch. Place: where the table is kept, one in each.
enum class Alignment { of_host, shifted };
constexpr int kPlaces = 3;
Kernels on_device(const Kernels& device_table, Device device, int place = 0, Alignment alignment = Alignment::of_host);

// How the tests run on an emulated device; set where the build has one.
struct DeviceEmulation {
  uint64_t seed = 0;                          // LUQ_CUDA_SEED
  void (*set_seed)(uint64_t seed) = nullptr;  // of the order of threads
};
DeviceEmulation& device_emulation();

// This is how much one call of the largest kernel of a case has to do.
struct Work {
  int64_t elements = 0, multiply_adds = 0;
};
// An emulated device runs the cases with no more than this, and each with one alignment, in turns.
constexpr Work kMostEmulated{.elements = 1 << 16, .multiply_adds = 1 << 17};

// The tables of this machine's device for host pointers, with and without libraries, each with both alignments; none
// where there is no device, or where the case is too large for it. LUQ_TEST_WORK=N, for checkers that slow a device
// down: cases of no more than N elements and 16 N multiply-adds.
std::vector<NamedKernels> device_tables(const Work& work);
// LUQ_TEST_TABLES=cuda: the tests run the device's tables and not the CPU's. Throws where there is no device.
bool only_device_tables();

// On an emulated device, threads run in another order for every `order` from here on.
void order_device_threads(uint64_t order);

// Entries of this machine's device that no call has reached, by any of its tables.
std::vector<std::string> device_entries_not_run();

}  // namespace luq::test
