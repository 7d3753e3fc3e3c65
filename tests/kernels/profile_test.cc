// The bytes that the profile counts, by the list of arrays of kernels/operands.h.
#include "luq/core/profile.h"

#include <vector>

#include "kernels/kernels.h"
#include "tests/catch.h"
#include "tests/kernels/test_formats.h"

namespace luq::test {

TEST_CASE("The profile counts what a call reads and writes of its arrays, as often as it does", "[kernels][profile]") {
  KernelProfile profile(cpu_kernel_tables().front().table, {});
  const Kernels& table = profile.kernels();
  const auto check = [&](const char* shape, double bytes) {
    const std::vector<KernelRecord> records = profile.records();
    REQUIRE(records.size() == 1);
    INFO(records[0].kernel);
    CHECK(records[0].shape == shape);
    CHECK(records[0].bytes == bytes);
    profile.clear();
  };
  std::vector<float> a(100), b(100), c(100), small(10), results(100);
  std::vector<BFloat16> narrow(100);
  std::vector<uint8_t> codes(100), more(100);
  std::vector<int64_t> sums(100);

  table.encode({a.data(), 3, 5, Format::int4.grid(), 1.0f, Rounding::nearest, {}, codes.data()});
  check("15", 15 * 4 + 3 * 3);  // a row of 5 codes has 3 bytes
  for (const bool accumulate : {false, true}) {
    table.decode({codes.data(), 3, 5, kInt4Table, 1.0f, accumulate, a.data()});
    check("15", 3 * 3 + (accumulate ? 2 : 1) * 15 * 4);
  }

  const ConvShape s{.n = 2, .h = 2, .w = 2, .c = 4, .o = 3};
  const double code_bytes = 8 * 2 + 3 * 2;  // of x and w
  kernels::QConvForwardArgs forward{.shape = s,
                                    .x = codes.data(),
                                    .x_table = kInt4Table,
                                    .w = more.data(),
                                    .w_table = kInt4Table,
                                    .scale = 1,
                                    .bias = nullptr,
                                    .y = narrow.data(),
                                    .sums = nullptr};
  table.qconv_forward(forward);
  check("2x2x2x4 -> 3, 1x1", code_bytes + 24 * 2);
  forward.accumulate = true;
  forward.bias = small.data();
  forward.scales = small.data();
  table.qconv_forward(forward);
  check("2x2x2x4 -> 3, 1x1", code_bytes + 2 * 24 * 2 + 2 * 3 * 4);
  forward.sums = sums.data();  // the floats are left as they are
  table.qconv_forward(forward);
  check("2x2x2x4 -> 3, 1x1", code_bytes + 24 * 8 + 2 * 3 * 4);

  // x and dy are read twice.
  table.batch_norm_backward({narrow.data(), narrow.data() + 30, 10, 3, small.data(), small.data(), small.data(), true,
                             narrow.data() + 60, b.data(), b.data() + 3});
  check("30", 5 * 30 * 2 + 5 * 3 * 4);
  for (float* running : {static_cast<float*>(nullptr), c.data()}) {
    table.batch_norm_finish({.mean = small.data(),
                             .variance = a.data(),
                             .c = 7,
                             .eps = 1,
                             .inverse_std = b.data(),
                             .running_mean = running,
                             .running_variance = running == nullptr ? nullptr : running + 7});
    check("7", running == nullptr ? 7 * 8 : 7 * 28);  // the mean is of use to the running one alone
  }
  for (const bool first : {true, false}) {
    table.sgd({a.data(), b.data(), c.data(), 50, 0.1f, 0.9f, 0.0f, false, first});
    check("50", first ? 50 * 16 : 50 * 20);
  }
  table.copy_rows({a.data(), 40, 5, 12, 16, results.data()});
  check("60", 2 * 60);
  std::vector<uint8_t> mask(4);
  table.relu({a.data(), 30, b.data(), mask.data()});
  check("30", 2 * 30 * 4 + 4);
}

}  // namespace luq::test
