// The 4-bit matmuls on tables of other values than the library's formats have, and what they do beside their sums.

#include <vector>

#include "tests/kernels/qconv_cases.h"

namespace luq::test {

TEST_CASE("qconv: any tables, with a single product, odd numbers of them, groups and strides", "[qconv][tables]") {
  std::mt19937 random(20);
  const std::vector<CodeTable>& tables = test_tables();
  const ConvShape shapes[] = {
      square(1, 1, 1, 1, 1),              // one product in each result of all three
      square(3, 1, 1, 5, 1),              // and in those of forward
      square(2, 3, 6, 6, 1, 1, 0, 1, 6),  // and of backward-data
      square(2, 5, 7, 9, 3, 2, 1),
      square(37, 1, 33, 17, 1),
      square(2, 5, 9, 6, 3, 1, 1, 1, 3),
      square(1, 6, 64, 48, 3, 1, 1),
      {.n = 3, .h = 9, .w = 6, .c = 5, .o = 19, .kh = 3, .kw = 2, .stride_h = 2, .pad_w = 1, .dilation_h = 2}};
  size_t turn = 0;
  for (const ConvShape& s : shapes) {
    for (const CodeTable& x : tables) {
      const CodeTable &w = tables[(turn * 5 + 1) % tables.size()], &dy = tables[turn * 3 % tables.size()];
      const QConvCase of(s, {.x = x, .dy = dy, .w = w}, random);
      for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) { of.check(table, {}); });
      ++turn;
    }
    ++turn;
  }
}

// Sums of int16 that are added up before they are widened are longest where they hold one product.
TEST_CASE("qconv: the largest values of any sign", "[qconv][tables]") {
  std::mt19937 random(21);
  for (const Fill fill : {Fill::largest, Fill::smallest}) {
    for (const CodeTable& x : {kWideTable, kNegativeTable, kFp4Table}) {
      for (const ConvShape& s : {square(1, 7, 33, 17, 3, 2, 1), square(66, 1, 259, 70, 1)}) {
        const QConvCase of(s, {.x = x, .dy = kWideTable, .w = kWideTable}, random, fill);
        for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) { of.check(table, {}); });
      }
    }
  }
}

TEST_CASE("qconv: results with scales, bias and what was there, in float32 and bfloat16", "[qconv][tables]") {
  std::mt19937 random(22);
  const ConvShape shapes[] = {square(1, 9, 10, 37, 3, 1, 1),         // one image
                              square(2, 12, 16, 20, 3, 1, 1),        // few images, each in parts
                              square(5, 3, 33, 18, 1),               // pixels of images as rows of a matrix
                              square(40, 1, 33, 50, 1),              // a linear layer
                              square(300, 1, 7, 3, 1),               // with many rows
                              square(70, 5, 3, 17, 3, 1, 1),         // few weights, many images
                              square(3, 6, 8, 12, 3, 2, 1, 1, 4),    // groups and strides
                              square(4, 7, 6, 10, 1, 2),             // a stride without a kernel
                              square(3, 6, 40, 40, 3, 1, 1, 1, 40),  // depthwise
                              square(2, 5, 34, 51, 3, 1, 1, 2, 17)};
  for (const ConvShape& s : shapes) {
    const QConvCase of(s, {.x = kLevels3Table, .w = kWideTable}, random);
    const QConvCase of_usual(s, {}, random);
    for (const bool bias : {false, true}) {
      for (const bool scales : {false, true}) {
        for (const bool accumulate : {false, true}) {
          const QConvFinish finish{bias, scales, accumulate, true};
          for (const int threads : {1, 3}) {
            const Threads scope(threads);
            for_each_table({.multiply_adds = s.macs()},
                           [&](const Kernels& table) { (threads == 1 ? of_usual : of).check(table, finish); });
          }
        }
      }
    }
  }
}

// Both planes have the same codes: the second call adds 64 times its sums to the first's.
TEST_CASE("qconv: an operand of two planes is the sum of two calls", "[qconv][tables]") {
  std::mt19937 random(23);
  const ConvShape s = square(2, 4, 5, 7, 3, 1, 1);
  const FormatRow& format = kTestFormats[std::size(kTestFormats) - 1];
  REQUIRE(format.planes == 2);
  const FormatPlane &low = format.plane[0], &high = format.plane[1];
  const Operand x(kInt4Table, s.n * s.h * s.w, s.c, Fill::random, random),
      w(kInt4Table, s.o * s.kh * s.kw, s.c, Fill::random, random),
      dy(low.table, s.n * s.oh() * s.ow(), s.o, Fill::random, random);
  Ints values;
  for (int64_t i = 0; i < s.y_size(); ++i) {
    const uint32_t code = kernels::load_code(dy.codes.data() + i / s.o * packed_row_bytes(s.o), i % s.o);
    const int64_t magnitude = (code & 7) == 0 ? 0 : int64_t{1} << 2 * ((code & 7) - 1);
    values.push_back(code < 8 ? magnitude : -magnitude);
    REQUIRE(values.back() == low.table.value[code] + static_cast<int64_t>(high.factor) * high.table.value[code]);
  }
  const QConvSums sums = sums_by_definition(s, x.values, w.values, values);
  for_each_table({.multiply_adds = s.macs()}, [&](const Kernels& table) {
    Guarded<float> dx(s.x_size()), dw(s.w_size());
    for (const FormatPlane& plane : {low, high}) {
      const bool accumulate = plane.factor != 1;
      table.qconv_backward_data({.shape = s,
                                 .dy = dy.codes.data(),
                                 .dy_table = plane.table,
                                 .w = w.codes.data(),
                                 .w_table = kInt4Table,
                                 .scale = 0.25f * plane.factor,
                                 .accumulate = accumulate,
                                 .dx = dx.data(),
                                 .sums = nullptr});
      table.qconv_backward_weight({.shape = s,
                                   .dy = dy.codes.data(),
                                   .dy_table = plane.table,
                                   .x = x.codes.data(),
                                   .x_table = kInt4Table,
                                   .scale = 0.25f * plane.factor,
                                   .accumulate = accumulate,
                                   .dw = dw.data(),
                                   .sums = nullptr});
    }
    for (int64_t i = 0; i < dx.size(); ++i) REQUIRE(dx[i] == 0.25f * static_cast<float>(sums.dx[i]));
    for (int64_t i = 0; i < dw.size(); ++i) REQUIRE(dw[i] == 0.25f * static_cast<float>(sums.dw[i]));
  });
}

}  // namespace luq::test
