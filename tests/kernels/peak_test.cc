// The loops that find what a machine can do.

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"

namespace luq::test {

TEST_CASE("Peak loops count what they do", "[kernels][peak]") {
  for_each_cpu_table([&](const Kernels& table) {
    for (const auto entry : {&Kernels::peak_int8, &Kernels::peak_float32, &Kernels::peak_bfloat16}) {
      if (!(table.*entry)) continue;
      double few = 0, many = 0;
      (table.*entry)({.iterations = 1, .operations = &few});
      (table.*entry)({.iterations = 1000, .operations = &many});
      CHECK(few >= 12 * 16);  // twelve instructions of at least 8 lanes
      CHECK(many == 1000 * few);
    }
    if (!table.peak_read) return;
    Guarded<uint8_t> memory(8192);
    for (int64_t i = 0; i < memory.size(); i += 64) memory[i] = i == 4096 ? 5 : 0;
    uint8_t all = 0;
    table.peak_read({.x = memory.data(), .bytes = memory.size(), .all = &all});
    CHECK(all == 5);
  });
}

}  // namespace luq::test
