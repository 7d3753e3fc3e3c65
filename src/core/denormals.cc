#include "luq/core/denormals.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace luq {
namespace {

constexpr int64_t kRun = 32;
constexpr int64_t kLeast = 16;

struct Seen {
  int64_t nonzero = 0, denormal = 0;

  void add(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffffff;
    nonzero += magnitude != 0 ? 1 : 0;
    denormal += magnitude != 0 && magnitude < 0x00800000 ? 1 : 0;
  }
};

uint32_t bits_at(const void* values, DType dtype, int64_t i) {
  if (dtype == DType::float32) {
    uint32_t bits = 0;
    std::memcpy(&bits, static_cast<const char*>(values) + 4 * i, 4);
    return bits;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, static_cast<const char*>(values) + 2 * i, 2);
  return uint32_t{bits} << 16;
}

}  // namespace

void DenormalWatch::look(std::string_view kind, std::string_view name, const Tensor& tensor) {
  const bool floats = tensor.dtype() == DType::float32 || tensor.dtype() == DType::bfloat16;
  if (found() || !tensor.defined() || !floats || tensor.device().type != DeviceType::cpu) return;
  const int64_t count = tensor.numel(), runs = std::min(kMostValues / kRun, (count + kRun - 1) / kRun);
  Seen seen;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t begin = runs == 1 ? 0 : (count - kRun) * run / (runs - 1);
    for (int64_t i = begin; i < std::min(begin + kRun, count); ++i) seen.add(bits_at(tensor.raw(), tensor.dtype(), i));
  }
  if (seen.denormal >= kLeast && 4 * seen.denormal >= seen.nonzero) what_ = fmt::format("{} {}", kind, name);
}

}  // namespace luq
