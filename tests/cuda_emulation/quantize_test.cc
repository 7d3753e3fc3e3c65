// kernels/cuda/quantize.cu against the CPU's reference, with ==.
#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

TEST_CASE("cuda: statistics, encoders and decoder equal ref", "[cuda][quantize]") {
  Kernels table;
  cuda::add_quantize(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(3);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {7, 64}, {2, 4096}, {1, 4098}, {5, 2000}, {33, 300}, {1, 0}}) {
    const std::vector<float> x = gaussian(rows * cols, random);
    for (const bool half : {false, true}) {
      const std::vector<BFloat16> x16 = rounded(x);
      for (const size_t skip : {size_t{0}, size_t{1}}) {
        const OnDevice<float> dx(x, skip);
        const OnDevice<BFloat16> dx16(x16, skip);
        const ConstFloats on_device = half ? ConstFloats(dx16.data()) : ConstFloats(dx.data());
        const ConstFloats on_host = half ? ConstFloats(x16.data()) : ConstFloats(x.data());
        INFO(rows << " x " << cols << (half ? " bfloat16" : " float32") << ", skip " << skip);
        Stats got, expected;
        table.stats({.x = on_device, .count = rows * cols, .stats = &got});
        ref.stats({.x = on_host, .count = rows * cols, .stats = &expected});
        CHECK(got.sum_abs == expected.sum_abs);
        CHECK(got.sum_sq == expected.sum_sq);
        CHECK(got.nonzero == expected.nonzero);
        CHECK(got.count == expected.count);
        CHECK(got.abs_bits_max == expected.abs_bits_max);

        const auto bytes = static_cast<size_t>(rows * packed_row_bytes(cols));
        const RngKey key = make_rng_key(7, "test", 5);
        for (const Rounding rounding : {Rounding::nearest, Rounding::stochastic}) {
          for (const Format format : {Format::int4, Format::uint4, Format::fp4}) {
            std::vector<uint8_t> codes(bytes), zeros(bytes);
            const OnDevice<uint8_t> dcodes(zeros);
            if (format == Format::fp4) {
              EncodeFp4Args a{.x = on_host,
                              .rows = rows,
                              .cols = cols,
                              .inverse_alpha = 30,
                              .rounding = rounding,
                              .key = key,
                              .codes = codes.data()};
              ref.encode_fp4(a);
              a.x = on_device;
              a.codes = dcodes.data();
              table.encode_fp4(a);
            } else {
              EncodeIntArgs a{.x = on_host,
                              .rows = rows,
                              .cols = cols,
                              .inverse_scale = 4,
                              .format = format,
                              .rounding = rounding,
                              .key = key,
                              .codes = codes.data()};
              ref.encode_int(a);
              a.x = on_device;
              a.codes = dcodes.data();
              table.encode_int(a);
            }
            CHECK(dcodes.host() == codes);
            std::vector<float> y(x.size());
            const OnDevice<float> dy(y);
            ref.decode(
                {.codes = codes.data(), .rows = rows, .cols = cols, .format = format, .scale = 0.3f, .x = y.data()});
            table.decode(
                {.codes = dcodes.data(), .rows = rows, .cols = cols, .format = format, .scale = 0.3f, .x = dy.data()});
            CHECK(dy.host() == y);
          }
        }
      }
    }
  }
}
