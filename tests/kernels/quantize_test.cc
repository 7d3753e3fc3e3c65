// Statistics, encoders and decoder: every table against ref, bit for bit, and ref against the definitions.

#include <cmath>
#include <deque>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernels/harness.h"
#include "tests/kernels/test_formats.h"

namespace luq::test {
namespace {

using namespace luq::kernels;

enum class Content { gaussian, relu, wide, grid, denormal, zero, outlier, kinds };

void fill(Guarded<float>& x, Content content, std::mt19937& rng) {
  std::normal_distribution<float> gaussian;
  for (int64_t i = 0; i < x.size(); ++i) {
    float value = gaussian(rng);
    if (content == Content::relu) value = std::max(value, 0.0f);
    if (content == Content::wide) value = std::ldexp(value, static_cast<int>(rng() % 60) - 30);
    if (content == Content::grid) value = 0.5f * static_cast<float>(static_cast<int>(rng() % 33) - 16);
    if (content == Content::denormal) value *= 1e-41f;
    if (content == Content::zero) value = rng() % 2 == 0 ? 0.0f : -0.0f;
    if (content == Content::outlier) value *= i == 0 ? 1e6f : 1e-3f;
    x[i] = value;
  }
}

bool same(const Stats& a, const Stats& b) {
  return std::memcmp(&a.sum_abs, &b.sum_abs, sizeof(double)) == 0 &&
         std::memcmp(&a.sum_sq, &b.sum_sq, sizeof(double)) == 0 && a.count == b.count && a.nonzero == b.nonzero &&
         a.abs_bits_max == b.abs_bits_max;
}

// The order of docs/numerics.md, written down once more.
Stats stats_by_definition(const Guarded<float>& x) {
  Stats stats;
  stats.count = x.size();
  std::vector<double> abs_results, sq_results;
  for (int64_t begin = 0; begin < x.size(); begin += 4096) {
    std::vector<float> abs_lane(64), sq_lane(64);
    for (int64_t i = begin; i < std::min<int64_t>(begin + 4096, x.size()); ++i) {
      abs_lane[static_cast<size_t>((i - begin) % 64)] += std::fabs(x[i]);
      sq_lane[static_cast<size_t>((i - begin) % 64)] += x[i] * x[i];
      stats.nonzero += x[i] != 0;
      stats.abs_bits_max = std::max(stats.abs_bits_max, float_bits(std::fabs(x[i])));
    }
    for (size_t lanes = 32; lanes > 0; lanes /= 2) {
      for (size_t lane = 0; lane < lanes; ++lane) {
        abs_lane[lane] += abs_lane[lane + lanes];
        sq_lane[lane] += sq_lane[lane + lanes];
      }
    }
    abs_results.push_back(static_cast<double>(abs_lane[0]));
    sq_results.push_back(static_cast<double>(sq_lane[0]));
  }
  const auto total = [](std::vector<double> results) {
    do {
      results.resize((results.size() + 255) / 256 * 256);
      std::vector<double> folded;
      for (size_t begin = 0; begin < results.size(); begin += 256) {
        for (size_t half = 128; half > 0; half /= 2) {
          for (size_t i = begin; i < begin + half; ++i) results[i] += results[i + half];
        }
        folded.push_back(results[begin]);
      }
      results = folded;
    } while (results.size() > 1);
    return results.empty() ? 0.0 : results[0];
  };
  stats.sum_abs = total(abs_results);
  stats.sum_sq = total(sq_results);
  return stats;
}

// The definition of docs/numerics.md, in double where the text has real numbers: the code of x on a grid.
uint32_t code_by_definition(const Grid& grid, Rounding rounding, float x, float inverse, uint32_t random) {
  const bool stochastic = rounding == Rounding::stochastic;
  if (grid.kind == GridKind::uniform) {
    const float scaled = std::min(std::max(x * inverse, static_cast<float>(grid.low)), static_cast<float>(grid.high));
    double value = std::nearbyint(scaled);
    if (stochastic) {
      value = std::floor(scaled) + ((scaled - std::floor(scaled)) * 65536.0 > random ? 1 : 0);
    }
    return static_cast<uint32_t>(static_cast<int>(value)) & 15u;
  }
  const float r = std::fabs(x * inverse);
  int code = 0;
  while (code < grid.magnitudes && r >= grid.level[code + 1]) ++code;
  if (code < grid.magnitudes) {
    const float low = grid.level[code], fraction = (r - low) / (grid.level[code + 1] - low);
    bool up = stochastic ? fraction * 65536.0 > random : fraction >= 0.5;
    // Between powers of 2: where the fraction, rounded to 16 bits, and the random bits add up to 1.
    if (grid.kind == GridKind::powers_of_2) {
      const double gap = code == 0 ? 1 : static_cast<double>(low);
      up = std::floor((static_cast<double>(r) - low) / gap * 65536.0 + 0.5) + (stochastic ? random : 0x8000) >= 65536.0;
    }
    if (up) ++code;
  }
  return code == 0 ? 0u : (std::signbit(x) ? 8u : 0u) + static_cast<uint32_t>(code);
}

constexpr Rounding kRoundings[] = {Rounding::nearest, Rounding::stochastic};

}  // namespace

TEST_CASE("Philox 4x32 with 7 rounds gives the known answers", "[kernels][rng]") {
  // An independent implementation gave these, for the all-zero and all-one vectors and for one of digits of pi.
  const auto words = [](const RngKey& key, uint64_t block) { return philox(key, block); };
  const PhiloxBlock zero = words({0, 0, 0, 0}, 0);
  const PhiloxBlock ones = words({~0u, ~0u, ~0u, ~0u}, ~uint64_t{0});
  const PhiloxBlock pi = words({0xa4093822u, 0x299f31d0u, 0x13198a2eu, 0x03707344u}, 0x85a308d3243f6a88u);
  const uint32_t expected[3][4] = {{0x5f6fb709u, 0x0d893f64u, 0x4f121f81u, 0x4f730a48u},
                                   {0x5207ddc2u, 0x45165e59u, 0x4d8ee751u, 0x8c52f662u},
                                   {0x4dfccaba, 0x190a87f0u, 0xc47362bau, 0xb6b5242au}};
  for (int i = 0; i < 4; ++i) {
    CHECK(zero.word[i] == expected[0][i]);
    CHECK(ones.word[i] == expected[1][i]);
    CHECK(pi.word[i] == expected[2][i]);
  }
}

TEST_CASE("Statistics follow the written order in every table, with any number of threads", "[kernels][stats]") {
  std::mt19937 rng(test_seed("stats"));
  for (const int64_t count : {0, 1, 15, 16, 17, 63, 64, 65, 127, 4095, 4096, 4097, 8200, 70001, 4096 * 1030 + 5}) {
    for (int content = 0; content < static_cast<int>(Content::kinds); ++content) {
      if (count > 100000 && content > 1) continue;
      Guarded<float> x(count);
      fill(x, static_cast<Content>(content), rng);
      const Stats expected = stats_by_definition(x);
      for_each_table({.elements = count}, [&](const Kernels& table) {
        for (const int threads : {1, 2, 3}) {
          const Threads scope(threads);
          Stats stats;
          table.stats({x.data(), count, &stats});
          INFO("count " << count << ", content " << content << ", " << threads << " threads");
          REQUIRE(same(stats, expected));
        }
      });
    }
  }
}

TEST_CASE("Statistics of many tensors are those of each", "[kernels][stats]") {
  std::mt19937 rng(test_seed("many stats"));
  for (const bool large : {false, true}) {
    std::vector<int64_t> counts{0, 5, 4096, 0, 4097, 12001};
    for (int i = 0; i < 140; ++i) counts.push_back(static_cast<int64_t>(rng() % 400));  // more than one launch takes
    if (large) counts.push_back(4096 * 300 + 7);
    std::deque<Guarded<float>> x;
    std::vector<Stats> expected;
    for (const int64_t count : counts) {
      x.emplace_back(count);
      fill(x.back(), Content::gaussian, rng);
      expected.push_back(stats_by_definition(x.back()));
    }
    for_each_table({.elements = large ? 4096 * 300 : 60000}, [&](const Kernels& table) {
      if (!table.stats_many) return;
      std::vector<Stats> stats(counts.size());
      std::vector<kernels::StatsArgs> tensors;
      for (size_t i = 0; i < counts.size(); ++i) tensors.push_back({x[i].data(), counts[i], &stats[i]});
      table.stats_many({.tensors = tensors.data(), .count = static_cast<int64_t>(tensors.size())});
      for (size_t i = 0; i < counts.size(); ++i) {
        INFO("tensor " << i << " of " << counts[i]);
        REQUIRE(same(stats[i], expected[i]));
      }
    });
  }
}
TEST_CASE("Statistics see one NaN or infinity anywhere", "[kernels][stats]") {
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const int64_t at : {0, 15, 63, 64, 4095, 4096, 9998}) {
      Guarded<float> x(9999, 1.0f);
      x[at] = bad;
      for_each_table({.elements = x.size()}, [&](const Kernels& table) {
        Stats stats;
        table.stats({x.data(), x.size(), &stats});
        REQUIRE_FALSE(stats_finite(stats));
      });
    }
  }
}

TEST_CASE("Codes follow the definition in every table, with any number of threads", "[kernels][encode]") {
  std::mt19937 rng(test_seed("encode"));
  std::vector<std::pair<int64_t, int64_t>> shapes{{0, 4},   {4, 0},   {1, 1},    {1, 2},   {3, 1},     {1, 127},
                                                  {1, 128}, {1, 129}, {5, 16},   {7, 17},  {1, 65537}, {900, 64},
                                                  {2, 63},  {33, 6},  {1, 8191}, {1, 8192}};
  for (int i = 0; i < 40; ++i) {
    shapes.emplace_back(1 + static_cast<int64_t>(rng() % 40), 1 + static_cast<int64_t>(rng() % 300));
  }
  for (const auto& [rows, cols] : shapes) {
    const auto content = static_cast<Content>(rng() % static_cast<unsigned>(Content::kinds));
    Guarded<float> x(rows * cols);
    fill(x, content, rng);
    float largest = 0;
    for (int64_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::fabs(x[i]));
    const RngKey key{static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng()), static_cast<uint32_t>(rng()),
                     static_cast<uint32_t>(rng())};
    for (const FormatRow& format : kTestFormats) {
      // Half of the time some values lie beyond the grid.
      const float scale = (rng() % 2 != 0 ? largest : 0.8f * largest) / format.grid.highest();
      const float inverse = invert_scale(scale);
      for (const Rounding rounding : kRoundings) {
        Guarded<uint8_t> expected(rows * packed_row_bytes(cols));
        for (int64_t i = 0; i < rows * cols; ++i) {
          const uint32_t random = random16(philox(key, static_cast<uint64_t>(i / 8)), static_cast<int>(i % 8));
          const uint32_t code = code_by_definition(format.grid, rounding, x[i], inverse, random);
          const int64_t row = i / cols, col = i % cols;
          expected[row * packed_row_bytes(cols) + col / 2] |= static_cast<uint8_t>(code << (col % 2 * 4));
        }
        for_each_table({.elements = x.size()}, [&, rows = rows, cols = cols](const Kernels& table) {
          for (const int threads : {1, 3}) {
            const Threads scope(threads);
            Guarded<uint8_t> codes(expected.size(), 0xee);
            table.encode({x.data(), rows, cols, format.grid, inverse, rounding, key, codes.data()});
            INFO(rows << "x" << cols << ", " << format.name << ", " << to_string(rounding) << ", content "
                      << static_cast<int>(content));
            REQUIRE(codes.first_difference(expected) == -1);
            REQUIRE(codes.intact());
          }
        });
      }
    }
  }
}

TEST_CASE("An inverse scale of 0 gives codes of 0", "[kernels][encode]") {
  const Guarded<float> x(333, -3.0f);
  for_each_table({.elements = x.size()}, [&](const Kernels& table) {
    for (const FormatRow& format : kTestFormats) {
      for (const Rounding rounding : kRoundings) {
        Guarded<uint8_t> codes(167, 0xee);
        table.encode({x.data(), 1, 333, format.grid, 0.0f, rounding, {1, 2, 3, 4}, codes.data()});
        for (int64_t i = 0; i < codes.size(); ++i) REQUIRE(codes[i] == 0);
      }
    }
  });
}

TEST_CASE("Stochastic rounding is unbiased on every grid", "[kernels][encode]") {
  const auto value_of = [](const FormatRow& format, uint32_t code) {
    double value = 0;
    for (int plane = 0; plane < format.planes; ++plane) {
      value += static_cast<double>(format.plane[plane].factor) * decode(format.plane[plane].table, code);
    }
    return value;
  };
  std::mt19937 rng(test_seed("unbiased"));
  for (const FormatRow& format : kTestFormats) {
    const float highest = format.grid.highest();
    for (int i = 0; i < 12; ++i) {
      const bool can_be_negative = format.grid.kind != GridKind::uniform || format.grid.low < 0;
      const float x = std::exp2(static_cast<float>(rng() % 4096) / 4096 * std::log2(2 * highest)) / 2 *
                      (can_be_negative && rng() % 2 != 0 ? -1.0f : 1.0f);
      // The two values around x; with every random number one of them, and x on average.
      double low = -HUGE_VAL, high = HUGE_VAL, sum = 0;
      for (uint32_t code = 0; code < 16; ++code) {
        const double value = value_of(format, code);
        if (value <= static_cast<double>(x)) low = std::max(low, value);
        if (value >= static_cast<double>(x)) high = std::min(high, value);
      }
      INFO(format.name << ": " << x << " between " << low << " and " << high);
      int64_t others = 0;
      for (uint32_t random = 0; random < 65536; ++random) {
        const double value = value_of(format, grid_code(format.grid, x, 1.0f, Rounding::stochastic, random));
        others += value != low && value != high ? 1 : 0;
        sum += value;
      }
      REQUIRE(others == 0);
      REQUIRE(std::fabs(sum / 65536 - static_cast<double>(x)) <= (high - low) * 0x1p-16);
      // The random bits of the tables: within six standard deviations.
      if (i > 0) continue;
      constexpr int64_t kCount = 20'001;
      const Guarded<float> many(kCount, x);
      for_each_table({.elements = kCount}, [&](const Kernels& table) {
        Guarded<uint8_t> codes(packed_row_bytes(kCount));
        table.encode({many.data(), 1, kCount, format.grid, 1.0f, Rounding::stochastic, {5, 6, 7, 8}, codes.data()});
        double total = 0;
        for (int64_t k = 0; k < kCount; ++k) total += value_of(format, load_code(codes.data(), k));
        REQUIRE(std::fabs(total / kCount - static_cast<double>(x)) <=
                3 * (high - low) / std::sqrt(static_cast<double>(kCount)));
      });
    }
  }
}

TEST_CASE("Decoding gives scale times the value of the code, in every table", "[kernels][decode]") {
  std::mt19937 rng(test_seed("decode"));
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 3}, {1, 1}, {1, 15}, {1, 16}, {1, 17}, {3, 33}, {70, 64}, {2, 20001}, {1, 40000}}) {
    Guarded<uint8_t> codes(rows * packed_row_bytes(cols));
    for (int64_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(rng());
    for (const CodeTable& values : test_tables()) {
      for (const bool accumulate : {false, true}) {
        Guarded<float> expected(rows * cols, 3.5f);
        for (int64_t i = 0; i < expected.size(); ++i) {
          const uint32_t code = load_code(codes.data() + i / cols * packed_row_bytes(cols), i % cols);
          expected[i] = 0.37f * static_cast<float>(values.value[code]) + (accumulate ? expected[i] : 0.0f);
        }
        for_each_table({.elements = rows * cols}, [&, rows = rows, cols = cols](const Kernels& table) {
          Guarded<float> x(rows * cols, 3.5f);
          table.decode({codes.data(), rows, cols, values, 0.37f, accumulate, x.data()});
          REQUIRE(x.first_difference(expected) == -1);
          REQUIRE(x.intact());
        });
      }
    }
  }
}

TEST_CASE("Codes decode to the values of the formats", "[kernels][decode]") {
  const int int4[] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
  const int fp4[] = {0, 1, 2, 4, 8, 16, 32, 64, 0, -1, -2, -4, -8, -16, -32, -64};
  for (uint32_t code = 0; code < 16; ++code) {
    CHECK(decode(kInt4Table, code) == int4[code]);
    CHECK(decode(kUint4Table, code) == static_cast<int>(code));
    CHECK(decode(kFp4Table, code) == fp4[code]);
  }
}

TEST_CASE("Random bits alone are those of the generator", "[kernels][quantize]") {
  const RngKey key{11, 12, 13, 14};
  for (const int64_t count : {0, 1, 7, 128, 8191, 8193, 100'003}) {
    uint32_t expected = 0;
    for (int64_t i = 0; i < count; ++i) {
      expected ^= static_cast<uint32_t>(random16(philox(key, static_cast<uint64_t>(i / 8)), static_cast<int>(i % 8)))
                  << (16 * (i % 2));
    }
    for_each_cpu_table([&](const Kernels& table) {
      if (!table.random_bits) return;
      uint32_t all = 1;
      table.random_bits({.key = key, .count = count, .all = &all});
      CHECK(all == expected);
    });
  }
}

}  // namespace luq::test
