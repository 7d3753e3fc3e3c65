// The 4-bit matmuls of kernels/cuda against the CPU's reference, with ==: sums, floats and bfloat16.
#include <string>

#include "kernels/cuda/int8_matmul.h"
#include "kernels/cuda/qconv_plan.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/moments_by_ref.h"
#include "tests/kernels/qconv_cases.h"

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

Kernels own_kernels() {
  Kernels table;
  cuda::add_qconv_forward(table);
  cuda::add_qconv_backward_data(table);
  cuda::add_qconv_backward_weight(table);
  return table;
}

// Gives the entries for operands in host memory.
Kernels for_host(const Kernels& table, Alignment alignment = Alignment::of_host) {
  return on_device(table, {DeviceType::cuda, 0}, 0, alignment);
}

// Compares with the moments of the exact sums, and with the results of the entry without moments.
void check_moments(const QConvCase& of, const Kernels& table, bool scales) {
  static const Kernels ref = cpu_kernel_tables().front().table;
  QConvForwardMomentsArgs args{of.forward({.scales = scales}), nullptr, nullptr};
  const ConvShape& s = args.conv.shape;
  Guarded<float> mean(s.o), variance(s.o), expected_mean(s.o), expected_variance(s.o);
  Guarded<BFloat16> y(s.y_size()), expected(s.y_size());
  REQUIRE(args.fit());
  args.mean = expected_mean.data();
  args.variance = expected_variance.data();
  args.conv.y = expected.data();
  moments_by_ref(ref, args);
  ref.qconv_forward(args.conv);
  args.mean = mean.data();
  args.variance = variance.data();
  args.conv.y = y.data();
  table.qconv_forward_moments(args);
  CHECK(y.first_difference(expected) == -1);
  CHECK(mean.first_difference(expected_mean) == -1);
  CHECK(variance.first_difference(expected_variance) == -1);
}

void check_shape(const ConvShape& s, const QConvTables& tables, std::mt19937& random,
                 const Kernels& table = own_kernels()) {
  emulation::set_seed(random());
  // A sixteenth of the small scale, which a product of int4 would take for itself, is no normal number any more.
  const QConvFinish finish{.bias = random() % 2 != 0,
                           .scales = random() % 2 != 0,
                           .accumulate = random() % 2 != 0,
                           .bfloat16 = true,
                           .scale = random() % 4 == 0 ? 0x1.3p-122f : 0.001234f};
  const QConvCase of(s, tables, random);
  const Kernels entries = for_host(table, random() % 4 == 0 ? Alignment::shifted : Alignment::of_host);
  of.check(entries, finish);
  if (table.qconv_forward_moments) check_moments(of, entries, finish.scales);
}

}  // namespace

TEST_CASE("cuda qconv: every tile, and parts of K", "[cuda][qconv]") {
  std::mt19937 random(7);
  for (const QConvTables& tables :
       {QConvTables{}, QConvTables{kInt4Table, kInt4Table}, QConvTables{kUint4Table, kInt4Table},
        QConvTables{kLevels3Table, kWideTable, kWideTable}}) {
    check_shape(square(3, 1, 1100, 33, 1), tables, random);   // of forward
    check_shape(square(3, 1, 40, 1200, 1), tables, random);   // of backward-data
    check_shape(square(1500, 1, 32, 34, 1), tables, random);  // of backward-weight
  }
  check_shape(square(3, 5, 9, 37, 3, 1, 1), {kFp4Table, kFp4Table}, random);  // decoded by tables
  const Restore restore{cuda::qconv::target_processors};
  for (const int64_t target : {1, 6, 100000}) {
    cuda::qconv::target_processors = target;
    check_shape(square(2, 7, 96, 160, 1), {}, random);
    check_shape(square(140, 1, 130, 100, 1), {kInt4Table, kInt4Table}, random);
    check_shape(square(1, 10, 64, 64, 3, 1, 1), {}, random);
    check_shape(square(1, 12, 80, 70, 3, 2, 1), {kInt4Table, kFp4Table}, random);
    check_shape(square(1, 12, 32, 32, 3, 1, 1, 1, 8), {kInt4Table, kFp4Table}, random);
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
      for (const int64_t max_terms : {int64_t{100}, max_int32_terms(kFp4Table, kUint4Table)}) {
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

// The kernel tests have more such sums for every entry and table; an emulated device takes too long for them.
TEST_CASE("cuda qconv: a sum past int32 is added up from parts that int32 holds", "[cuda][qconv]") {
  const Kernels table = for_host(own_kernels());
  const Extremes extremes{.a = kWideTable, .b = kWideTable, .floats = false};
  for (const int64_t terms : {524'287, 524'288}) {  // the latter's sum is 2^31
    extremes.check_forward(table, terms);
    extremes.check_backward_data(table, terms);
    extremes.check_backward_weight(table, square(terms, 1, 1, 1, 1));
  }
}

TEST_CASE("cuda qconv: sums that int32 holds, but not 16 or 256 times them, as codes are decoded", "[cuda][qconv]") {
  const Restore restore{cuda::qconv::most_splits};
  cuda::qconv::most_splits = 1;  // parts of K for int32 alone
  const Kernels table = for_host(own_kernels());
  constexpr int64_t kTerms = 150016;  // pixels; two channels, of which one is 16 times itself
  const Guarded<uint8_t> dy(kTerms, 0x0f), x(kTerms, 0xff);
  Guarded<int64_t> sums(2);
  table.qconv_backward_weight({.shape = square(kTerms, 1, 2, 1, 1),
                               .dy = dy.data(),
                               .dy_table = kFp4Table,
                               .x = x.data(),
                               .x_table = kUint4Table,
                               .scale = 1,
                               .dw = nullptr,
                               .sums = sums.data()});
  for (int64_t i = 0; i < 2; ++i) CHECK(sums[i] == kTerms * 15 * -64);
  Extremes{.a = kInt4Table, .b = kInt4Table, .floats = false}.check_forward(table, 180032);
  Extremes{.a = kFp4Table, .b = kInt4Table, .floats = false}.check_backward_data(table, 300032);
}

TEST_CASE("cuda qconv: moments of the largest sums, which int32 holds 32 of, but not of 256 times them",
          "[cuda][qconv]") {
  constexpr int64_t kRows = 64, kTerms = 5400, kChannels = 8;
  const Restore restore{cuda::qconv::most_splits};
  cuda::qconv::most_splits = 1;
  const Guarded<uint8_t> x(kRows * kTerms / 2, 0x77), w(kChannels * kTerms / 2, 0x77);
  Guarded<float> y(kRows * kChannels), mean(kChannels), variance(kChannels, -1.0f);
  const QConvForwardMomentsArgs args{.conv = {.shape = square(kRows, 1, kTerms, kChannels, 1),
                                              .x = x.data(),
                                              .x_table = kInt4Table,
                                              .w = w.data(),
                                              .w_table = kInt4Table,
                                              .scale = 0.5f,
                                              .bias = nullptr,
                                              .y = y.data(),
                                              .sums = nullptr},
                                     .mean = mean.data(),
                                     .variance = variance.data()};
  REQUIRE((args.fit() && !args.fit(8)));
  for_host(own_kernels()).qconv_forward_moments(args);
  CHECK(mean.first_difference(Guarded<float>(kChannels, 0.5f * kTerms * 49)) == -1);
  CHECK(variance.first_difference(Guarded<float>(kChannels)) == -1);
  CHECK(y.first_difference(Guarded<float>(kRows * kChannels, 0.5f * kTerms * 49)) == -1);
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
  const auto products_of = [&](const ConvShape& s, const QConvTables& tables) {
    products = 0;
    check_shape(s, tables, random, table);
    return products;
  };
  for (const QConvTables& tables :
       {QConvTables{}, QConvTables{kInt4Table, kInt4Table}, QConvTables{kUint4Table, kInt4Table},
        QConvTables{kLevels3Table, kWideTable, kWideTable}}) {
    CHECK(products_of(square(2, 3, 35, 17, 1), tables) == 8);  // three entries, for each kind of result
    CHECK(products_of(square(7, 1, 16, 32, 1), tables) == 8);
    CHECK(products_of(square(1, 1, 1, 1, 1), tables) == 8);
    CHECK(products_of(square(0, 3, 8, 8, 1), tables) == 0);
    CHECK(products_of(square(1, 4, 8, 8, 1, 2), tables) == 0);
    CHECK(products_of(square(1, 4, 8, 8, 3, 1, 1), tables) == 0);
    CHECK(products_of(square(1, 3, 8, 8, 1, 1, 0, 1, 2), tables) == 0);
  }
  takes = false;
  CHECK(products_of(square(2, 3, 35, 17, 1), {}) == 0);
  takes = true;
}
