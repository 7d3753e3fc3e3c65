// What tests/kernels knows of the emulation.
#include "tests/cuda_emulation/emulation.h"
#include "tests/kernels/device_table.h"

namespace {

[[maybe_unused]] const bool kKnown = [] {
  luq::test::device_emulation() = {luq::emulation::seed(), luq::emulation::set_seed};
  return true;
}();

}  // namespace
