// The three 4-bit matmuls of every table against a 64-bit reference: sums and floats are equal, to the bit.

#include <vector>

#include "tests/kernels/qconv_cases.h"

namespace luq::test {
namespace {

using kernels::QConvForwardArgs;

// Each entry for sums and floats, with what else it may do at random.
void check_shape(const ConvShape& s, const QConvTables& tables, std::mt19937& random, Fill fill = Fill::random) {
  const QConvCase of(s, tables, random, fill);
  const QConvFinish finish{.bias = random() % 2 != 0, .scales = random() % 4 == 0, .accumulate = random() % 2 != 0};
  for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) { of.check(table, finish); });
}

void check_formats(const ConvShape& s, std::mt19937& random) {
  check_shape(s, {kUint4Table, kFp4Table}, random);
  check_shape(s, {kInt4Table, kInt4Table}, random);
}

}  // namespace

TEST_CASE("qconv: channel counts around the vector widths", "[qconv]") {
  std::mt19937 random(1);
  for (const int64_t c : {1, 3, 4, 5, 15, 16, 17, 33, 64, 65}) {
    for (const int64_t o : {1, 15, 16, 17, 33, 64}) {
      check_formats(square(1, 4, c, o, 3, 1, 1), random);
      check_formats(square(2, 3, c, o, 1), random);
    }
  }
}

TEST_CASE("qconv: few channels in many images, where every thread has sums of its own", "[qconv]") {
  std::mt19937 random(12);
  for (const int64_t c : {3, 16}) {
    check_formats(square(70, 5, c, 17, 3, 1, 1), random);
    check_formats(square(70, 5, c, 17, 2, 2), random);
  }
  check_formats(square(70, 4, 24, 24, 3, 1, 1, 1, 24), random);
}

TEST_CASE("qconv: widths around the tile", "[qconv]") {
  std::mt19937 random(2);
  for (const int64_t width : {1, 2, 3, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 27, 28, 29, 31, 33}) {
    ConvShape s = square(2, 3, 5, 18, 3, 1, 1);
    s.w = width;
    check_formats(s, random);
    s.stride_w = s.stride_h = 2;
    check_formats(s, random);
    std::swap(s.h, s.w);
    check_formats(s, random);
  }
}

TEST_CASE("qconv: stride, padding and dilation", "[qconv]") {
  std::mt19937 random(3);
  for (int64_t kernel = 1; kernel <= 4; ++kernel) {
    for (int64_t stride = 1; stride <= 3; ++stride) {
      for (int64_t pad = 0; pad <= 3; ++pad) {
        for (int64_t dilation = 1; dilation <= 3; ++dilation) {
          const int64_t reach = dilation * (kernel - 1) + 1;
          for (const int64_t size : {int64_t{1}, int64_t{6}, int64_t{9}}) {
            if (size + 2 * pad < reach) continue;
            check_shape(square(2, size, 3, 5, kernel, stride, pad, dilation),
                        {random() % 2 != 0 ? kUint4Table : kInt4Table, kFp4Table}, random);
          }
        }
      }
    }
  }
}

TEST_CASE("qconv: rows and columns that differ in everything", "[qconv]") {
  std::mt19937 random(4);
  check_formats({.n = 3,
                 .h = 9,
                 .w = 20,
                 .c = 6,
                 .o = 19,
                 .kh = 3,
                 .kw = 1,
                 .stride_h = 2,
                 .stride_w = 1,
                 .pad_h = 0,
                 .pad_w = 2,
                 .dilation_h = 2,
                 .dilation_w = 1,
                 .groups = 1},
                random);
  check_formats({.n = 2,
                 .h = 5,
                 .w = 31,
                 .c = 17,
                 .o = 7,
                 .kh = 1,
                 .kw = 5,
                 .stride_h = 1,
                 .stride_w = 3,
                 .pad_h = 2,
                 .pad_w = 0,
                 .dilation_h = 1,
                 .dilation_w = 2,
                 .groups = 1},
                random);
  check_formats({.n = 1,
                 .h = 1,
                 .w = 70,
                 .c = 2,
                 .o = 3,
                 .kh = 1,
                 .kw = 7,
                 .stride_h = 1,
                 .stride_w = 5,
                 .pad_h = 0,
                 .pad_w = 3,
                 .dilation_h = 1,
                 .dilation_w = 3,
                 .groups = 1},
                random);
  check_formats({.n = 1,
                 .h = 40,
                 .w = 2,
                 .c = 4,
                 .o = 16,
                 .kh = 11,
                 .kw = 2,
                 .stride_h = 4,
                 .stride_w = 7,
                 .pad_h = 5,
                 .pad_w = 1,
                 .dilation_h = 1,
                 .dilation_w = 2,
                 .groups = 1},
                random);
}

TEST_CASE("qconv: the layers of ResNets", "[qconv]") {
  std::mt19937 random(5);
  check_formats(square(2, 28, 16, 16, 3, 1, 1), random);
  check_formats(square(2, 28, 16, 32, 3, 2, 1), random);
  check_formats(square(2, 28, 16, 32, 1, 2), random);
  check_formats(square(2, 14, 32, 32, 3, 1, 1), random);
  check_formats(square(3, 7, 64, 64, 3, 1, 1), random);
  check_formats(square(1, 32, 3, 16, 7, 2, 3), random);
  check_formats(square(20, 2, 24, 40, 3, 1, 1), random);
  check_formats(square(1, 7, 96, 200, 1), random);
}

TEST_CASE("qconv: groups and depthwise", "[qconv]") {
  std::mt19937 random(6);
  for (const int64_t groups : {2, 3, 5, 8, 16, 17, 33}) {
    for (const auto& [cg, og] : {std::pair<int64_t, int64_t>{1, 1}, {1, 3}, {3, 1}, {4, 4}, {5, 18}, {17, 2}}) {
      check_formats(square(1, 4, cg * groups, og * groups, 3, 1, 1, 1, groups), random);
      check_formats(square(2, 5, cg * groups, og * groups, 3, 2, 1, 1, groups), random);
      check_formats(square(2, 2, cg * groups, og * groups, 1, 1, 0, 1, groups), random);
    }
  }
}

TEST_CASE("qconv: linear layers", "[qconv]") {
  std::mt19937 random(7);
  for (const int64_t rows : {1, 2, 3, 4, 5, 13, 14, 15, 28, 64, 127, 128, 129, 300}) {
    for (const auto& [c, o] : {std::pair<int64_t, int64_t>{1, 1}, {1, 10}, {64, 10}, {63, 65}, {100, 33}}) {
      check_formats(square(rows, 1, c, o, 1), random);
    }
  }
}

TEST_CASE("qconv: sizes of zero", "[qconv]") {
  std::mt19937 random(8);
  check_formats(square(0, 4, 5, 6, 3, 1, 1), random);
  check_formats(square(0, 1, 5, 6, 1), random);
  check_formats(square(2, 4, 0, 6, 3, 1, 1), random);
  check_formats(square(2, 4, 5, 0, 3, 1, 1), random);
  check_formats(square(2, 1, 0, 6, 1), random);
  check_formats(square(2, 1, 5, 0, 1), random);
}

TEST_CASE("qconv: extreme codes", "[qconv]") {
  std::mt19937 random(9);
  for (const Fill fill : {Fill::largest, Fill::smallest}) {
    for (const CodeTable& x : {kUint4Table, kInt4Table}) {
      check_shape(square(2, 14, 64, 32, 3, 1, 1), {x, kFp4Table}, random, fill);
      check_shape(square(1, 7, 33, 17, 3, 2, 1), {x, kInt4Table}, random, fill);
      check_shape(square(130, 1, 515, 130, 1), {x, kFp4Table}, random, fill);
    }
  }
}

TEST_CASE("qconv: random shapes", "[qconv]") {
  std::mt19937 random(test_seed("qconv: random shapes"));
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(random() % static_cast<uint64_t>(bound)); };
  for (int made = 0; made < 100;) {
    ConvShape s;
    s.groups = below(3) == 0 ? 1 + below(20) : 1;
    s.n = 1 + below(below(4) == 0 ? 40 : 3);
    s.h = 1 + below(20);
    s.w = 1 + below(40);
    s.c = s.groups * (1 + below(s.groups > 1 ? 9 : 70));
    s.o = s.groups * (1 + below(s.groups > 1 ? 9 : 70));
    s.kh = 1 + below(5);
    s.kw = 1 + below(5);
    s.stride_h = 1 + below(3);
    s.stride_w = 1 + below(3);
    s.pad_h = below(4);
    s.pad_w = below(4);
    s.dilation_h = 1 + below(3);
    s.dilation_w = 1 + below(3);
    if (s.h + 2 * s.pad_h < s.dilation_h * (s.kh - 1) + 1 || s.w + 2 * s.pad_w < s.dilation_w * (s.kw - 1) + 1)
      continue;
    if (s.macs() > 500'000) continue;
    ++made;
    check_shape(s, {below(2) == 0 ? kUint4Table : kInt4Table, below(3) == 0 ? kInt4Table : kFp4Table}, random);
  }
}

// Products of two vectors of the largest values, as long as asked: their sums are known, and close to or past int32.
TEST_CASE("qconv: sums at and past the int32 bound", "[qconv]") {
  const CodeTable& wide = kWideTable;
  CHECK(kernels::max_int32_terms(wide, wide) == 524'287);
  CHECK(kernels::max_int32_terms(kInt4Table, kInt4Table) == 0x7fffffff / 64);  // code 8 is -8
  struct Case {
    CodeTable a, b;
    int sign;  // of the extremes of a
  };
  SECTION("forward: channels") {
    for (const Extremes& e :
         {Extremes{kUint4Table, kInt4Table}, {wide, wide}, {wide, wide, -1}, {kFp4Table, wide, -1}}) {
      const int64_t bound = kernels::max_int32_terms(e.a, e.b);
      for (const int64_t terms : {bound, bound + 1, bound + 2048}) {
        for_each_table({.multiply_adds = terms}, [&](const Kernels& table) { e.check_forward(table, terms); });
      }
    }
  }
  SECTION("backward-data: channels") {
    for (const Extremes& e : {Extremes{kFp4Table, kInt4Table, -1}, {wide, wide}, {wide, wide, -1}, {kFp4Table, wide}}) {
      const int64_t bound = kernels::max_int32_terms(e.a, e.b);
      for (const int64_t terms : {bound, bound + 1, bound + 2048}) {
        for_each_table({.multiply_adds = terms}, [&](const Kernels& table) { e.check_backward_data(table, terms); });
      }
    }
  }
  SECTION("backward-weight: pixels of a linear layer and of convolutions") {
    for (const Extremes& e : {Extremes{kUint4Table, kFp4Table}, {wide, wide}, {wide, wide, -1}}) {
      const int64_t bound = kernels::max_int32_terms(e.a, e.b), images = bound / 9900 + 2;
      std::vector<ConvShape> shapes;
      for (const int64_t rows : {bound, bound + 1, bound + 70000}) shapes.push_back(square(rows, 1, 1, 1, 1));
      shapes.push_back(square(images, 100, 1, 1, 1, 1, 0));
      shapes.push_back({.n = images, .h = 101, .w = 99, .c = 1, .o = 1, .kh = 2, .kw = 1});
      shapes.push_back({.n = 1, .h = 1500, .w = bound / 1500 + 5, .c = 1, .o = 1, .kh = 1, .kw = 2});
      shapes.push_back({.n = 2, .h = 3, .w = bound / 2 + 80001, .c = 1, .o = 1, .kh = 3, .kw = 2});
      for (const ConvShape& s : shapes) {
        for_each_table({.multiply_adds = s.n * s.oh() * s.ow()},
                       [&](const Kernels& table) { e.check_backward_weight(table, s); });
      }
    }
  }
  SECTION("backward-weight: signed activations, several channels") {
    std::mt19937 random(10);
    const int64_t rows = kernels::max_int32_terms(kUint4Table, kFp4Table) + 1000;
    const QConvCase of(square(rows, 1, 2, 3, 1), {kInt4Table, kFp4Table}, random);
    for_each_table({.multiply_adds = 6 * rows}, [&](const Kernels& table) { of.check(table, {}); });
  }
}

TEST_CASE("qconv: any number of threads", "[qconv]") {
  for (const int threads : {1, 2, 3, 5}) {
    const Threads scope(threads);
    INFO(threads << " threads");
    std::mt19937 random(11);
    check_formats(square(9, 12, 16, 32, 3, 1, 1), random);
    check_formats(square(9, 12, 16, 32, 3, 2, 1), random);
    check_formats(square(1, 3, 40, 300, 3, 1, 1), random);
    check_formats(square(1, 3, 300, 40, 3, 1, 1), random);
    check_formats(square(2, 6, 34, 34, 3, 1, 1, 1, 17), random);
    check_formats(square(600, 1, 70, 80, 1), random);
    check_formats(square(1, 1, 70, 80, 1), random);
  }
}

// Scratch memory is kept between calls: a small problem after a large one must not see the large one's contents.
TEST_CASE("qconv: nothing remains from one call to the next", "[qconv]") {
  std::mt19937 random(12);
  check_shape(square(2, 14, 64, 32, 3, 1, 1), {kUint4Table, kFp4Table}, random, Fill::largest);
  check_formats(square(1, 5, 3, 7, 3, 1, 1), random);
  check_shape(square(200, 1, 515, 65, 1), {kInt4Table, kFp4Table}, random, Fill::smallest);
  check_formats(square(3, 1, 9, 7, 1), random);
}

TEST_CASE("qconv: moments on the way are those of the results, for every table and number of threads", "[qconv]") {
  std::mt19937 random(test_seed("moments"));
  for (const ConvShape& s :
       {ConvShape{.n = 5, .h = 9, .w = 17, .c = 10, .o = 37, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
        ConvShape{.n = 33, .h = 3, .w = 3, .c = 64, .o = 48}, ConvShape{.n = 40, .h = 1, .w = 1, .c = 7, .o = 1},
        ConvShape{.n = 3, .h = 8, .w = 7, .c = 12, .o = 18, .kh = 3, .kw = 2, .stride_h = 2, .groups = 6},
        ConvShape{.n = 4, .h = 6, .w = 6, .c = 40, .o = 40, .kh = 3, .kw = 3, .pad_h = 1, .groups = 40},
        ConvShape{.n = 2, .h = 2, .w = 2, .c = 2304, .o = 16, .kh = 2, .kw = 1}}) {
    INFO(describe(s));
    for (const auto& [x_table, fill] : {std::pair{kUint4Table, Fill::random},
                                        {kInt4Table, Fill::random},
                                        {kUint4Table, Fill::largest},
                                        {kLevels3Table, Fill::random}}) {
      const QConvCase of(s, {.x = x_table}, random, fill);
      const Ints& sums = of.sums().y;
      const bool scaled = random() % 2 != 0;
      const int64_t rows = s.n * s.oh() * s.ow();
      Guarded<float> first_mean(s.o), first_variance(s.o);
      bool first = true;
      for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) {
        if (!table.qconv_forward_moments) return;
        for (const int threads : {1, 2, 3}) {
          const Threads scope(threads);
          Guarded<float> y(s.y_size(), -1.0f), plain(s.y_size(), -1.0f), mean(s.o), variance(s.o);
          Guarded<BFloat16> narrow(s.y_size());
          const auto args = [&](kernels::Floats to) {
            QConvForwardArgs args = of.forward({.scales = scaled});
            args.y = to;
            return args;
          };
          const kernels::QConvForwardMomentsArgs with{args(y.data()), mean.data(), variance.data()};
          REQUIRE(with.fit());
          table.qconv_forward_moments(with);
          table.qconv_forward(args(plain.data()));
          REQUIRE(y.first_difference(plain) == -1);
          REQUIRE((mean.intact() && variance.intact()));
          if (first) {
            std::memcpy(first_mean.data(), mean.data(), static_cast<size_t>(s.o) * sizeof(float));
            std::memcpy(first_variance.data(), variance.data(), static_cast<size_t>(s.o) * sizeof(float));
            first = false;
          }
          REQUIRE((mean.first_difference(first_mean) == -1 && variance.first_difference(first_variance) == -1));
          Guarded<float> narrow_mean(s.o), narrow_variance(s.o);
          table.qconv_forward_moments({args(narrow.data()), narrow_mean.data(), narrow_variance.data()});
          for (int64_t i = 0; i < s.y_size(); ++i) REQUIRE(narrow[i].bits == to_bfloat16(plain[i]).bits);
          REQUIRE(narrow_mean.first_difference(mean) == -1);
          REQUIRE(narrow_variance.first_difference(variance) == -1);
          for (int64_t o = 0; o < s.o; ++o) {
            double sum = 0, spread = 0;
            for (int64_t row = 0; row < rows; ++row) sum += static_cast<double>(sums[row * s.o + o]);
            const double average = sum / static_cast<double>(rows);
            for (int64_t row = 0; row < rows; ++row) {
              const double d = static_cast<double>(sums[row * s.o + o]) - average;
              spread += d * d / static_cast<double>(rows);
            }
            const double scale = kernels::result_scale(with.conv.scale, with.conv.scales, o);
            REQUIRE(mean[o] == Approx(scale * average).epsilon(1e-6).margin(1e-6));
            REQUIRE(variance[o] == Approx(scale * scale * spread).epsilon(1e-6).margin(1e-12));
          }
        }
      });
    }
  }
}

// Sixteen groups of five channels in sets of three: the last set has one. AddressSanitizer sees a tile that reads past
// them, where no larger case went before.
TEST_CASE("qconv: a last set of groups that is a part of one", "[qconv]") {
  std::mt19937 random(test_seed("part of a set"));
  check_shape(square(1, 32, 80, 80, 1, 1, 0, 1, 16), {kUint4Table, kFp4Table}, random);
}

TEST_CASE("qconv: the spread of moments, of up to 127 bits, is rounded once", "[qconv]") {
  std::mt19937 random(test_seed("128 bits"));
  const auto check = [](unsigned __int128 whole) {
    CAPTURE(static_cast<uint64_t>(whole >> 64), static_cast<uint64_t>(whole));
    REQUIRE(kernels::nearest_double(whole) == static_cast<double>(whole));
  };
  for (int bits = 0; bits < 127; ++bits) {
    const unsigned __int128 power = static_cast<unsigned __int128>(1) << bits;
    for (const unsigned __int128 whole : {power - 1, power, power + 1, power | power >> 53, (power | power >> 53) + 1,
                                          power | power >> 52 | power >> 53, power | power >> 53 | power >> 64}) {
      check(whole);
    }
    for (int i = 0; i < 100; ++i) {
      unsigned __int128 whole = 0;
      for (int word = 0; word < 4; ++word) whole = whole << 32 | static_cast<uint32_t>(random());
      check(power | (whole & (power - 1)));
    }
  }
}

TEST_CASE("qconv: moments that integers might not hold are refused", "[qconv]") {
  const auto fit = [](int64_t n, int64_t c) {
    const QConvForwardArgs conv{.shape = {.n = n, .c = c, .o = 4},
                                .x = nullptr,
                                .x_table = kUint4Table,
                                .w = nullptr,
                                .w_table = kInt4Table,
                                .scale = 1,
                                .bias = nullptr,
                                .y = nullptr,
                                .sums = nullptr};
    return kernels::QConvForwardMomentsArgs{conv, nullptr, nullptr}.fit();
  };
  CHECK(fit(1 << 20, 4608));
  CHECK_FALSE(fit(1, 0x7fffffff / 32 / 120 + 1));  // sums of a tile in int32
  CHECK_FALSE(fit(int64_t{1} << 32, 4608));        // squares in int64
  CHECK_FALSE(fit(0, 64));
}

}  // namespace luq::test
