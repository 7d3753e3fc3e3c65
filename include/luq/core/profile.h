// Timing every kernel call: a table of kernels that does what another does, and keeps a record.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "luq/core/device.h"

namespace luq {

struct Kernels;

// This bounds a kernel from below: the multipliers of one kind, or memory alone.
enum class ComputeUnit : uint8_t { none, int8, float32, bfloat16 };

// Calls of one kernel on one shape in one phase, added up.
struct KernelRecord {
  std::string phase;           // as set_phase() gave it
  std::string kernel;          // entry of the table: "qconv_forward", "stats", ...
  std::string implementation;  // "avx512vnni", ...
  std::string shape;           // of a convolution: "64x56x56x64 -> 64, 3x3"; else the number of elements
  ComputeUnit unit = ComputeUnit::none;
  int64_t calls = 0;
  double seconds = 0;     // wall clock
  double operations = 0;  // on `unit`; a multiply-accumulate is two
  double bytes = 0;       // that calls read and write, each as often as they do
};

// While it lives, calls through kernels() are recorded, from any one thread at a time. Only one may live. Each call to
// a device is waited for, so that its time is what the device spends, not what it takes to ask.
class KernelProfile {
 public:
  KernelProfile(const Kernels& kernels, Device device);
  ~KernelProfile();
  KernelProfile(const KernelProfile&) = delete;
  KernelProfile& operator=(const KernelProfile&) = delete;

  const Kernels& kernels() const;
  // Says what calls from here on belong to: "forward", "backward", "update".
  void set_phase(std::string phase);
  std::vector<KernelRecord> records() const;  // slowest first
  void clear();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace luq
