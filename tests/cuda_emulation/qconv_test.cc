// The 4-bit matmuls of kernels/cuda against the CPU's reference, with ==: sums, floats and bfloat16.
#include <string>

#include "kernels/cuda/int8_matmul.h"
#include "kernels/cuda/qconv_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/moments_by_ref.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

// A number that a test changes.
struct Restore {
  int64_t& number;
  int64_t before = number;
  ~Restore() { number = before; }
};

// Codes of (rows, cols); a third of them 0, code 8 only where it is a value.
std::vector<uint8_t> codes_of(Format format, int64_t rows, int64_t cols, std::mt19937& random) {
  std::vector<uint8_t> codes(static_cast<size_t>(rows * packed_row_bytes(cols)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      unsigned code = random() % 3 == 0 ? 0 : random() % 16;
      if (code == 8 && format != Format::uint4) code = 15;
      codes[static_cast<size_t>(row * packed_row_bytes(cols) + col / 2)] |= static_cast<uint8_t>(code << (col % 2 * 4));
    }
  }
  return codes;
}

std::string describe(const ConvShape& s) {
  const auto pair = [](int64_t a, int64_t b) { return std::to_string(a) + "x" + std::to_string(b); };
  return "n " + std::to_string(s.n) + ", x " + pair(s.h, s.w) + "x" + std::to_string(s.c) + ", w " +
         std::to_string(s.o) + "x" + pair(s.kh, s.kw) + ", stride " + pair(s.stride_h, s.stride_w) + ", pad " +
         pair(s.pad_h, s.pad_w) + ", dilation " + pair(s.dilation_h, s.dilation_w) + ", groups " +
         std::to_string(s.groups);
}

template <typename T>
void check_equal(const std::vector<T>& got, const std::vector<T>& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) == 0) continue;
    FAIL_CHECK("result " << i << " of " << got.size() << " differs");
    return;
  }
}

// One entry for sums, float32 and bfloat16. `give`(to_device, y, sums) makes the arguments.
template <typename Args, typename Give>
void check_entry(const char* name, const Kernel<Args>& kernel, const Kernel<Args>& ref, int64_t size, bool bfloat16,
                 std::mt19937& random, Give give) {
  INFO(name);
  std::vector<int64_t> sums(static_cast<size_t>(size));
  const OnDevice<int64_t> dsums(sums);
  ref(give(false, Floats(), sums.data()));
  kernel(give(true, Floats(), dsums.data()));
  check_equal(dsums.host(), sums);
  std::vector<float> y = gaussian(size, random);
  std::vector<BFloat16> y16 = rounded(y);
  const OnDevice<float> dy(y);
  ref(give(false, y.data(), nullptr));
  kernel(give(true, dy.data(), nullptr));
  check_equal(dy.host(), y);
  if (!bfloat16) return;
  const OnDevice<BFloat16> dy16(y16, random() % 2);
  ref(give(false, y16.data(), nullptr));
  kernel(give(true, dy16.data(), nullptr));
  check_equal(dy16.host(), y16);
}

// The moments of the exact sums, and the results of the entry without moments.
template <typename Give>
void check_moments(const ConvShape& s, const Kernels& table, const Kernels& ref, std::mt19937& random, Give give) {
  std::vector<float> mean(static_cast<size_t>(s.o)), variance(mean.size());
  moments_by_ref(ref, {give(false, Floats(), nullptr), mean.data(), variance.data()});
  std::vector<BFloat16> y(static_cast<size_t>(s.y_size()));
  ref.qconv_forward(give(false, y.data(), nullptr));
  const OnDevice<BFloat16> dy(std::vector<BFloat16>(y.size()), random() % 2);
  const OnDevice<float> dmean(std::vector<float>(mean.size())), dvariance(std::vector<float>(mean.size()));
  const QConvForwardMomentsArgs args{give(true, dy.data(), nullptr), dmean.data(), dvariance.data()};
  REQUIRE(args.fit());
  table.qconv_forward_moments(args);
  check_equal(dy.host(), y);
  check_equal(dmean.host(), mean);
  check_equal(dvariance.host(), variance);
}

struct Formats {
  Format x = Format::uint4, dy = Format::fp4;
};

Kernels own_kernels() {
  Kernels table;
  cuda::add_qconv_forward(table);
  cuda::add_qconv_backward_data(table);
  cuda::add_qconv_backward_weight(table);
  return table;
}

void check_shape(const ConvShape& s, Formats formats, std::mt19937& random, const Kernels& table = own_kernels()) {
  static const Kernels ref = cpu_kernel_tables().front().table;
  emulation::set_seed(random());
  const bool with_bias = random() % 2 != 0, accumulate = random() % 2 != 0;
  const size_t skip = random() % 4 == 0 ? 1 : 0;  // codes that are not aligned
  INFO(describe(s) << ", x " << to_string(formats.x) << ", dy " << to_string(formats.dy) << ", bias " << with_bias
                   << ", accumulate " << accumulate << ", skip " << skip);
  const auto x = codes_of(formats.x, s.n * s.h * s.w, s.c, random);
  const auto w = codes_of(Format::int4, s.o * s.kh * s.kw, s.c_group(), random);
  const auto dy = codes_of(formats.dy, s.n * s.oh() * s.ow(), s.o, random);
  const std::vector<float> bias = gaussian(s.o, random);
  const OnDevice<uint8_t> dx(x, skip), dw(w, skip), ddy(dy, skip);
  const OnDevice<float> dbias(bias);
  const float scale = 0.00123f;
  const auto give_forward = [&](bool device, Floats y, int64_t* sums) {
    return QConvForwardArgs{.shape = s,
                            .x = device ? dx.data() : x.data(),
                            .x_format = formats.x,
                            .w = device ? dw.data() : w.data(),
                            .w_format = Format::int4,
                            .scale = scale,
                            .bias = !with_bias ? nullptr
                                    : device   ? dbias.data()
                                               : bias.data(),
                            .y = y,
                            .sums = sums};
  };
  check_entry("forward", table.qconv_forward, ref.qconv_forward, s.y_size(), true, random, give_forward);
  const auto give_for_moments = [&](bool device, Floats y, int64_t* sums) {
    QConvForwardArgs args = give_forward(device, y, sums);
    args.bias = nullptr;
    return args;
  };
  if (table.qconv_forward_moments) check_moments(s, table, ref, random, give_for_moments);
  check_entry("backward_data", table.qconv_backward_data, ref.qconv_backward_data, s.x_size(), true, random,
              [&](bool device, Floats y, int64_t* sums) {
                return QConvBackwardDataArgs{.shape = s,
                                             .dy = device ? ddy.data() : dy.data(),
                                             .dy_format = formats.dy,
                                             .w = device ? dw.data() : w.data(),
                                             .w_format = Format::int4,
                                             .scale = scale,
                                             .accumulate = accumulate,
                                             .dx = y,
                                             .sums = sums};
              });
  check_entry("backward_weight", table.qconv_backward_weight, ref.qconv_backward_weight, s.w_size(), false, random,
              [&](bool device, Floats y, int64_t* sums) {
                return QConvBackwardWeightArgs{.shape = s,
                                               .dy = device ? ddy.data() : dy.data(),
                                               .dy_format = formats.dy,
                                               .x = device ? dx.data() : x.data(),
                                               .x_format = formats.x,
                                               .scale = scale,
                                               .dw = y.as<float>(),
                                               .sums = sums};
              });
}

ConvShape square(int64_t n, int64_t size, int64_t c, int64_t o, int64_t kernel, int64_t stride = 1, int64_t pad = 0,
                 int64_t dilation = 1, int64_t groups = 1) {
  return {.n = n,
          .h = size,
          .w = size,
          .c = c,
          .o = o,
          .kh = kernel,
          .kw = kernel,
          .stride_h = stride,
          .stride_w = stride,
          .pad_h = pad,
          .pad_w = pad,
          .dilation_h = dilation,
          .dilation_w = dilation,
          .groups = groups};
}

}  // namespace

TEST_CASE("cuda qconv: every tile, and parts of K", "[cuda][qconv]") {
  std::mt19937 random(7);
  for (const Formats formats : {Formats{}, Formats{Format::int4, Format::int4}, Formats{Format::uint4, Format::int4}}) {
    check_shape(square(3, 1, 1100, 33, 1), formats, random);   // of forward
    check_shape(square(3, 1, 40, 1200, 1), formats, random);   // of backward-data
    check_shape(square(1500, 1, 32, 34, 1), formats, random);  // of backward-weight
  }
  check_shape(square(3, 5, 9, 37, 3, 1, 1), {Format::fp4, Format::fp4}, random);  // decoded by tables
  const Restore restore{cuda::qconv::target_processors};
  for (const int64_t target : {1, 6, 100000}) {
    cuda::qconv::target_processors = target;
    check_shape(square(2, 7, 96, 160, 1), {}, random);
    check_shape(square(140, 1, 130, 100, 1), {Format::int4, Format::int4}, random);
    check_shape(square(1, 10, 64, 64, 3, 1, 1), {}, random);
    check_shape(square(1, 12, 80, 70, 3, 2, 1), {Format::int4, Format::fp4}, random);
    check_shape(square(1, 12, 32, 32, 3, 1, 1, 1, 8), {Format::int4, Format::fp4}, random);
    check_shape(square(1, 12, 192, 70, 3, 1, 1, 1, 2), {}, random);
  }
}

TEST_CASE("cuda qconv: the choice of tiles and parts", "[cuda][qconv]") {
  using namespace cuda::qconv;
  CHECK(choose_tile(1, 64 * 56 * 56, 64, false) == Tile::m128n64);
  CHECK(choose_tile(1, 64 * 56 * 56, 128, false) == Tile::m128n64);
  CHECK(choose_tile(1, 64 * 28 * 28, 32, false) == Tile::m128n32);
  CHECK(choose_tile(1, 64, 1000, false) == Tile::m64n64);
  CHECK(choose_tile(1, 8 * 7 * 7, 512, false) == Tile::m64n64);
  CHECK(choose_tile(100, 256, 1024, true) == Tile::m128n128);
  CHECK(choose_tile(1, 512, 512, true) == Tile::m64n64);
  for (const int64_t blocks : {int64_t{1}, int64_t{7}, int64_t{300}}) {
    for (const int64_t k_tiles : {int64_t{0}, int64_t{1}, int64_t{9}, int64_t{64}, int64_t{1000}, int64_t{123457}}) {
      for (const int64_t max_terms : {int64_t{100}, max_int32_terms(Format::fp4, Format::uint4)}) {
        const Split split = choose_split(Tile::m128n64, blocks, k_tiles, max_terms, 1000);
        CHECK(split.splits >= 1);
        CHECK(split.splits * split.tiles >= k_tiles);
        CHECK((split.splits - 1) * split.tiles <= k_tiles);
        CHECK(split.tiles * kTileK <= std::max<int64_t>(max_terms, kTileK));
        CHECK(divide_up(k_tiles, split.splits) == split.tiles);
      }
    }
  }
  // Every tap of every input belongs to one phase, and to the output that forward reads it for.
  for (int64_t stride = 1; stride <= 4; ++stride) {
    for (int64_t dilation = 1; dilation <= 4; ++dilation) {
      for (int64_t kernel = 1; kernel <= 5; ++kernel) {
        for (int64_t pad = 0; pad <= 3; ++pad) {
          const int64_t size = 17, out = (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
          std::vector<int> seen(static_cast<size_t>(size * kernel)), expected(seen.size());
          for (int64_t y = 0; y < out; ++y) {
            for (int64_t tap = 0; tap < kernel; ++tap) {
              const int64_t x = y * stride - pad + tap * dilation;
              if (x >= 0 && x < size) expected[static_cast<size_t>(x * kernel + tap)] = static_cast<int>(y) + 1;
            }
          }
          for (int64_t phase = 0; phase < stride; ++phase) {
            const Axis axis = backward_axis(size, out, kernel, stride, pad, dilation, phase);
            for (int row = 0; row < axis.rows; ++row) {
              for (int t = 0; t < axis.taps; ++t) {
                const int y = row * axis.step + axis.offset + t * axis.offset_step;
                const int tap = axis.tap_first + t * axis.tap_step, x = axis.out_first + row * axis.out_step;
                if (y >= 0 && y < axis.source) seen[static_cast<size_t>(x * kernel + tap)] += y + 1;
              }
            }
          }
          CHECK(seen == expected);
        }
      }
    }
  }
  CHECK(merged_groups(square(1, 1, 96, 96, 3, 1, 1, 1, 96)) == 32);
  CHECK(merged_groups(square(1, 1, 128, 128, 3, 1, 1, 1, 32)) == 8);
  CHECK(merged_groups(square(1, 1, 64, 64, 3, 1, 1, 1, 2)) == 1);
  CHECK(merged_groups(square(1, 1, 33, 33, 3, 1, 1, 1, 33)) == 11);
  CHECK(fits(square(256, 224, 64, 64, 3, 1, 1)));
  CHECK(!fits(square(20000, 224, 64, 64, 3, 1, 1)));
  CHECK(!fits(square(0, 224, 64, 64, 3, 1, 1)));
}

// The kernel tests have such sums for every entry and table; an emulated device takes too long for them but for this.
TEST_CASE("cuda qconv: a sum past int32 is added up from parts that int32 holds", "[cuda][qconv]") {
  Kernels table;
  cuda::add_qconv_backward_weight(table);
  const int64_t terms = max_int32_terms(Format::fp4, Format::uint4) + 1;
  const OnDevice<uint8_t> x(std::vector<uint8_t>(static_cast<size_t>(terms), 15)),
      dy(std::vector<uint8_t>(static_cast<size_t>(terms), 7));
  const OnDevice<int64_t> sums(std::vector<int64_t>{-1});
  table.qconv_backward_weight({.shape = square(terms, 1, 1, 1, 1),
                               .dy = dy.data(),
                               .dy_format = Format::fp4,
                               .x = x.data(),
                               .x_format = Format::uint4,
                               .scale = 1,
                               .dw = nullptr,
                               .sums = sums.data()});
  CHECK(sums.host() == std::vector<int64_t>{terms * 64 * 15});
}

TEST_CASE("cuda qconv: sums that int32 holds, but not 16 or 256 times them, as codes are decoded", "[cuda][qconv]") {
  const Restore restore{cuda::qconv::most_splits};
  cuda::qconv::most_splits = 1;  // parts of K for int32 alone
  const auto all = [](uint8_t codes, int64_t bytes) {
    return OnDevice<uint8_t>(std::vector<uint8_t>(static_cast<size_t>(bytes), codes));
  };
  const Kernels table = own_kernels();
  {
    constexpr int64_t kTerms = 150016;  // pixels; two channels, of which one is 16 times itself
    const auto dy = all(0x0f, kTerms), x = all(0xff, kTerms);
    const OnDevice<int64_t> sums(std::vector<int64_t>(2));
    table.qconv_backward_weight(
        {square(kTerms, 1, 2, 1, 1), dy.data(), Format::fp4, x.data(), Format::uint4, 1, nullptr, sums.data()});
    CHECK(sums.host() == std::vector<int64_t>(2, kTerms * 15 * -64));
  }
  {
    constexpr int64_t kTerms = 180032;  // channels
    const auto x = all(0x77, kTerms / 2), w = all(0x77, kTerms / 2);
    const OnDevice<int64_t> sums(std::vector<int64_t>(1));
    table.qconv_forward(
        {square(1, 1, kTerms, 1, 1), x.data(), Format::int4, w.data(), Format::int4, 1, nullptr, nullptr, sums.data()});
    CHECK(sums.host() == std::vector<int64_t>{kTerms * 49});
  }
  {
    constexpr int64_t kTerms = 300032;  // channels
    const auto dy = all(0x77, kTerms / 2), w = all(0x07, kTerms);
    const OnDevice<int64_t> sums(std::vector<int64_t>(1));
    table.qconv_backward_data({.shape = square(1, 1, 1, kTerms, 1),
                               .dy = dy.data(),
                               .dy_format = Format::fp4,
                               .w = w.data(),
                               .w_format = Format::int4,
                               .scale = 1,
                               .dx = nullptr,
                               .sums = sums.data()});
    CHECK(sums.host() == std::vector<int64_t>{kTerms * 64 * 7});
  }
}

TEST_CASE("cuda qconv: moments of the largest sums, which int32 holds 32 of, but not of 256 times them",
          "[cuda][qconv]") {
  constexpr int64_t kRows = 64, kTerms = 5400, kChannels = 8;
  const Restore restore{cuda::qconv::most_splits};
  cuda::qconv::most_splits = 1;
  const OnDevice<uint8_t> x(std::vector<uint8_t>(kRows * kTerms / 2, 0x77)),
      w(std::vector<uint8_t>(kChannels * kTerms / 2, 0x77));
  const std::vector<float> none(kChannels, -1.0f), results(kRows * kChannels);
  const OnDevice<float> y(results), mean(none), variance(none);
  const QConvForwardMomentsArgs args{.conv = {.shape = square(kRows, 1, kTerms, kChannels, 1),
                                              .x = x.data(),
                                              .x_format = Format::int4,
                                              .w = w.data(),
                                              .w_format = Format::int4,
                                              .scale = 0.5f,
                                              .bias = nullptr,
                                              .y = y.data(),
                                              .sums = nullptr},
                                     .mean = mean.data(),
                                     .variance = variance.data()};
  REQUIRE((args.fit() && !args.fit(8)));
  own_kernels().qconv_forward_moments(args);
  CHECK(mean.host() == std::vector<float>(kChannels, 0.5f * kTerms * 49));
  CHECK(variance.host() == std::vector<float>(kChannels, 0.0f));
  CHECK(y.host() == std::vector<float>(kRows * kChannels, 0.5f * kTerms * 49));
}

// A library's int8 product, one result a thread. It has its own idea of what it takes.
namespace {

int products = 0;
bool takes = true;

__global__ void multiply_int8(cuda::MatmulShape s, const int8_t* a, const int8_t* b, int* d) {
  const int64_t index = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (index >= s.m * s.n) return;
  int sum = 0;
  for (int64_t k = 0; k < s.k; ++k) sum += a[index % s.m * s.lda + k] * b[index / s.m * s.ldb + k];
  d[index % s.m + index / s.m * s.ldd] = sum;
}

bool takes_product(const cuda::MatmulShape&) { return takes; }

void int8_product(const cuda::MatmulShape& s, const int8_t* a, const int8_t* b, int* d, void* workspace) {
  for (const int64_t extent : {s.m, s.n, s.k, s.lda, s.ldb, s.ldd}) REQUIRE(extent % cuda::kInt8Unit == 0);
  for (const void* pointer : {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(d)}) {
    REQUIRE(reinterpret_cast<uintptr_t>(pointer) % 16 == 0);
  }
  REQUIRE((s.transpose_a && !s.transpose_b && workspace != nullptr));
  ++products;
  cuda::launch("int8 product", multiply_int8, {.blocks = cuda::blocks_for(s.m * s.n, 256), .threads = 256}, s, a, b, d);
}

}  // namespace

TEST_CASE("cuda qconv: plain products by a library's int8, others by our own kernels", "[cuda][qconv]") {
  std::mt19937 random(11);
  Kernels table = own_kernels();
  cuda::add_int8_matmuls(
      table, {.takes = takes_product, .multiply = int8_product, .workspace_bytes = 1000, .name = "stand-in"});
  CHECK(!table.qconv_forward_moments);
  const auto products_of = [&](const ConvShape& s, Formats formats) {
    products = 0;
    check_shape(s, formats, random, table);
    return products;
  };
  for (const Formats formats : {Formats{}, Formats{Format::int4, Format::int4}, Formats{Format::uint4, Format::int4}}) {
    CHECK(products_of(square(2, 3, 35, 17, 1), formats) == 8);  // three entries, for each kind of result
    CHECK(products_of(square(7, 1, 16, 32, 1), formats) == 8);
    CHECK(products_of(square(1, 1, 1, 1, 1), formats) == 8);
    CHECK(products_of(square(0, 3, 8, 8, 1), formats) == 0);
    CHECK(products_of(square(1, 4, 8, 8, 1, 2), formats) == 0);
    CHECK(products_of(square(1, 4, 8, 8, 3, 1, 1), formats) == 0);
    CHECK(products_of(square(1, 3, 8, 8, 1, 1, 0, 1, 2), formats) == 0);
  }
  takes = false;
  CHECK(products_of(square(2, 3, 35, 17, 1), {}) == 0);
  takes = true;
}
