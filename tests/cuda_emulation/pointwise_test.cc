// kernels/cuda/pointwise.cu against the CPU's reference: with ==, but for GELU and sums of columns.
#include <bit>
#include <cmath>

#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

void put(float& to, float value) { to = value; }
void put(BFloat16& to, float value) { to = to_bfloat16(value); }
float get(float x) { return x; }
float get(BFloat16 x) { return to_float(x); }

template <typename T>
std::vector<T> values_of(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) put(y[i], x[i]);
  return y;
}

// The same bits, or a NaN both.
template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(get(a[i])) != std::bit_cast<uint32_t>(get(b[i])) &&
        !(std::isnan(get(a[i])) && std::isnan(get(b[i]))))
      return false;
  }
  return a.size() == b.size();
}

std::vector<float> with_specials(int64_t count, std::mt19937& random) {
  std::vector<float> x = gaussian(count, random);
  for (size_t i = 3; i < x.size(); i += 11) x[i] = i % 2 == 0 ? 1.5f : std::nextafter(1.5f, i % 3 == 0 ? 0.0f : 2.0f);
  if (count > 16) x[1] = NAN, x[5] = -0.0f, x[9] = INFINITY, x[10] = -INFINITY, x[11] = -NAN;
  return x;
}

template <typename T>
void test_pointwise(int64_t count, size_t skip, bool in_place, std::mt19937& random) {
  INFO(count << (sizeof(T) == 2 ? " bfloat16" : " float32") << ", skip " << skip << (in_place ? ", in place" : ""));
  Kernels table;
  cuda::add_pointwise(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  const std::vector<T> x = values_of<T>(with_specials(count, random)), other = values_of<T>(gaussian(count, random));
  const std::vector<T> nothing(x.size());
  const auto bytes = static_cast<size_t>(count + 7) / 8;
  // run(table, operand, result): the result of the device, with the operand in the result's place where in_place.
  const auto check = [&](const std::vector<T>& operand, auto run) {
    std::vector<T> expected(x.size());
    run(ref, operand.data(), expected.data(), other.data());
    const OnDevice<T> from(operand, skip), to(in_place ? operand : nothing, skip), b(other, skip);
    run(table, in_place ? to.data() : from.data(), to.data(), b.data());
    CHECK(same(to.host(), expected));
  };
  for (const float ceiling : {0.0f, 1.5f}) {
    std::vector<uint8_t> mask(bytes, 0xff);
    const OnDevice<uint8_t> device_mask(mask, skip);
    check(x, [&](const Kernels& t, const T* from, T* to, const T*) {
      const bool host = to != nullptr && &t == &ref;
      t.relu({from, count, to, host ? mask.data() : device_mask.data(), ceiling});
    });
    CHECK(device_mask.host() == mask);
    check(x, [&](const Kernels& t, const T* from, T* to, const T*) { t.relu({from, count, to, nullptr, ceiling}); });
    check(other, [&](const Kernels& t, const T* from, T* to, const T*) {
      t.relu_backward({from, &t == &ref ? mask.data() : device_mask.data(), count, to});
    });
  }
  check(x, [&](const Kernels& t, const T* from, T* to, const T* b) { t.add({from, b, count, to}); });
  check(x, [&](const Kernels& t, const T* from, T* to, const T* b) { t.add({b, from, count, to}); });
}

}  // namespace

TEST_CASE("cuda: pointwise kernels equal ref", "[cuda][pointwise]") {
  std::mt19937 random(5);
  for (const uint64_t seed : {1, 2, 3}) {
    emulation::set_seed(seed);
    for (const int64_t count : {0, 1, 7, 8, 9, 17, 33, 2048, 2049, 5003}) {
      for (const bool in_place : {false, true}) {
        test_pointwise<float>(count, (count + static_cast<int64_t>(seed)) % 2, in_place, random);
        test_pointwise<BFloat16>(count, (count + static_cast<int64_t>(seed)) % 2, in_place, random);
      }
    }
  }
}

TEST_CASE("cuda: conversions and dropout equal ref", "[cuda][pointwise]") {
  Kernels table;
  cuda::add_pointwise(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(6);
  for (const int64_t count : {0, 1, 8, 17, 2049, 4096}) {
    for (const size_t skip : {0, 1}) {
      INFO(count << ", skip " << skip);
      const std::vector<float> x = with_specials(count, random);
      const std::vector<BFloat16> x16 = rounded(x);
      std::vector<BFloat16> y16(x.size());
      std::vector<float> y(x.size());
      ref.convert({x.data(), count, y16.data()});
      ref.convert({x16.data(), count, y.data()});
      const OnDevice<float> dx(x, skip), dy(std::vector<float>(x.size()), skip);
      const OnDevice<BFloat16> dx16(x16, skip), dy16(std::vector<BFloat16>(x.size()), skip);
      table.convert({dx.data(), count, dy16.data()});
      table.convert({dx16.data(), count, dy.data()});
      CHECK(same(dy16.host(), y16));
      CHECK(same(dy.host(), y));
      for (const float probability : {0.0f, 0.3f, 0.999f}) {
        const RngKey key = make_rng_key(7, "dropout", 5);
        ref.dropout({x.data(), count, probability, key, y.data()});
        table.dropout({dx.data(), count, probability, key, dy.data()});
        CHECK(same(dy.host(), y));
        const OnDevice<float> in_place(x, skip);
        table.dropout({in_place.data(), count, probability, key, in_place.data()});
        CHECK(same(in_place.host(), y));
      }
    }
  }
}

TEST_CASE("cuda: GELU is within the bounds of the CPU's tables", "[cuda][pointwise][gelu]") {
  constexpr double kEpsilon = 0x1p-24;
  Kernels table;
  cuda::add_pointwise(table);
  std::mt19937 random(7);
  std::uniform_real_distribution<float> draw(-14, 14);
  std::vector<float> x(6001), dy(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = i < 1000 ? std::ldexp(draw(random), -static_cast<int>(i % 140)) : draw(random);
    dy[i] = draw(random);
  }
  const float special[] = {0.0f, -0.0f, 1e30f, -1e30f, INFINITY, -20.0f, 20.0f, 13.0f, -13.1f, NAN};
  for (size_t i = 0; i < 10; ++i) x[i] = special[i];
  const auto count = static_cast<int64_t>(x.size());
  for (const size_t skip : {0, 1}) {
    const OnDevice<float> device_x(x, skip), device_dy(dy, skip), to_y(x, skip), to_dx(dy, skip);
    table.gelu({to_y.data(), count, to_y.data()});
    table.gelu_backward({device_x.data(), to_dx.data(), count, to_dx.data()});
    const std::vector<float> y = to_y.host(), dx = to_dx.host();
    bool close = true;
    for (size_t i = 0; i < x.size(); ++i) {
      const double value = static_cast<double>(x[i]), gradient = static_cast<double>(dy[i]);
      if (std::isinf(value)) {
        CHECK(y[i] == INFINITY);
        continue;
      }
      if (std::isnan(value)) {
        CHECK((std::isnan(y[i]) && std::isnan(dx[i])));
        continue;
      }
      const double cumulative = 0.5 * std::erfc(-value * std::sqrt(0.5));
      const double density = std::exp(-0.5 * value * value) / std::sqrt(8 * std::atan(1.0));
      const double tail = 5e-7 + value * value * kEpsilon;
      close = close &&
              std::fabs(static_cast<double>(y[i]) - value * cumulative) <=
                  std::fabs(value) * std::min(2.5e-7, cumulative * tail + 1e-37) +
                      std::fabs(value * cumulative) * kEpsilon + 0x1p-149 &&
              std::fabs(static_cast<double>(dx[i]) - gradient * (cumulative + value * density)) <=
                  std::fabs(gradient) * 4e-7;
    }
    CHECK(close);
  }
}

TEST_CASE("cuda: GELU of every bfloat16 is ref's, rounded", "[cuda][pointwise][gelu]") {
  Kernels table;
  cuda::add_pointwise(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::vector<BFloat16> x(65536), ones(x.size()), y(x.size()), dx(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i].bits = static_cast<uint16_t>(i);
    ones[i] = to_bfloat16(1.0f);
  }
  const int64_t count = 65536;
  ref.gelu({x.data(), count, y.data()});
  ref.gelu_backward({x.data(), ones.data(), count, dx.data()});
  const OnDevice<BFloat16> device_x(x), device_ones(ones), to_y(x), to_dx(x);
  table.gelu({device_x.data(), count, to_y.data()});
  table.gelu_backward({device_x.data(), device_ones.data(), count, to_dx.data()});
  const std::vector<BFloat16> other_y = to_y.host(), other_dx = to_dx.host();
  int64_t wrong = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float value = to_float(x[i]);
    if (std::isinf(value)) continue;
    if (std::isnan(value)) {
      wrong += !std::isnan(to_float(other_y[i])) || !std::isnan(to_float(other_dx[i]));
      continue;
    }
    const auto near = [](BFloat16 a, BFloat16 b, double absolute) {
      const double want = static_cast<double>(to_float(b));
      return std::fabs(static_cast<double>(to_float(a)) - want) <= std::fabs(want) * 0x1p-7 + absolute;
    };
    wrong += !near(other_y[i], y[i], 1e-36) || !near(other_dx[i], dx[i], 4e-7);
  }
  CHECK(wrong == 0);
}

TEST_CASE("cuda: sums of columns are ref's", "[cuda][pointwise]") {
  Kernels table;
  cuda::add_pointwise(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(8);
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{{0, 5},
                                                                           {5, 0},
                                                                           {1, 1},
                                                                           {3, 16},
                                                                           {255, 17},
                                                                           {1000, 3},
                                                                           {5, 1000},
                                                                           {2100, 8},
                                                                           {700, 64},
                                                                           {70, 140},
                                                                           {64, 132}}) {
    const std::vector<float> x = gaussian(rows * cols, random);
    std::vector<float> expected(static_cast<size_t>(cols));
    ref.column_sum({x.data(), rows, cols, expected.data()});
    std::vector<float> first;
    for (const uint64_t seed : {1, 2, 3}) {
      emulation::set_seed(seed);
      for (const size_t skip : {0, 1}) {
        INFO(rows << "x" << cols << ", skip " << skip);
        const OnDevice<float> dx(x, skip), sum(std::vector<float>(expected.size(), NAN));
        table.column_sum({dx.data(), rows, cols, sum.data()});
        const std::vector<float> got = sum.host();
        bool close = true;
        for (size_t i = 0; i < got.size(); ++i) {
          close = close && std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i])) <=
                               1e-6 * (std::sqrt(static_cast<double>(rows)) + 1);
        }
        CHECK(close);
        if (skip == 0 && first.empty()) first = got;
        if (skip == 0) CHECK(same(got, first));
      }
    }
  }
}
