// kernels/cuda/pool.cu against the CPU's reference, with ==.
#include <cmath>
#include <cstring>

#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

template <typename T>
std::vector<T> values_of(const std::vector<float>& x);
template <>
std::vector<float> values_of(const std::vector<float>& x) {
  return x;
}
template <>
std::vector<BFloat16> values_of(const std::vector<float>& x) {
  return rounded(x);
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

const std::vector<PoolShape>& shapes() {
  static const std::vector<PoolShape> all{
      {2, 8, 9, 16, 2, 2, 2, 2, 0, 0, false}, {2, 7, 7, 5, 3, 3, 2, 2, 1, 1, false},
      {1, 6, 5, 33, 3, 2, 2, 1, 1, 1, true},  {2, 5, 5, 1, 5, 5, 1, 1, 0, 0, false},
      {2, 9, 9, 12, 3, 3, 2, 2, 0, 0, true},  {1, 9, 8, 8, 2, 3, 3, 4, 0, 0, false},
      {0, 5, 5, 8, 3, 3, 2, 2, 1, 1, false},  {2, 7, 6, 24, 3, 3, 2, 2, 1, 1, true},
  };
  return all;
}

template <typename T>
void test_max_pool(const PoolShape& s, size_t skip, std::mt19937& random) {
  INFO(s.h << "x" << s.w << "x" << s.c << " window " << s.kh << "x" << s.kw << (sizeof(T) == 2 ? " bfloat16" : "")
           << ", skip " << skip);
  Kernels table;
  cuda::add_pool(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  const int64_t in = s.n * s.h * s.w * s.c, out = s.n * s.oh() * s.ow() * s.c;
  std::vector<float> values = gaussian(in, random);
  for (size_t i = 0; i < values.size(); i += 7) values[i] = 0.5f;  // ties
  for (size_t i = 5; i < values.size(); i += 61) values[i] = NAN;
  for (size_t i = 3; i < values.size(); i += 41) values[i] = -INFINITY;
  const std::vector<T> x = values_of<T>(values), dy = values_of<T>(gaussian(out, random));
  std::vector<T> y(dy.size()), dx(x.size());
  std::vector<int32_t> index(dy.size());
  ref.max_pool({s, x.data(), y.data(), index.data()});
  ref.max_pool_backward({s, dy.data(), index.data(), dx.data()});
  const OnDevice<T> device_x(x, skip), device_dy(dy, skip), to_y(dy, skip), plain(dy, skip), to_dx(x, skip);
  const OnDevice<int32_t> to_index(index, skip);
  table.max_pool({s, device_x.data(), to_y.data(), to_index.data()});
  table.max_pool({s, device_x.data(), plain.data(), nullptr});
  table.max_pool_backward({s, device_dy.data(), to_index.data(), to_dx.data()});
  CHECK(same(to_y.host(), y));
  CHECK(same(plain.host(), y));
  CHECK(to_index.host() == index);
  CHECK(same(to_dx.host(), dx));
}

}  // namespace

TEST_CASE("cuda: maximum pooling equals ref", "[cuda][pool]") {
  std::mt19937 random(11);
  for (const uint64_t seed : {1, 2, 3}) {
    emulation::set_seed(seed);
    for (const PoolShape& s : shapes()) {
      for (const size_t skip : {0, 1}) {
        test_max_pool<float>(s, skip, random);
        test_max_pool<BFloat16>(s, skip, random);
      }
    }
  }
}

TEST_CASE("cuda: average pooling equals ref", "[cuda][pool]") {
  Kernels table;
  cuda::add_pool(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(12);
  for (const uint64_t seed : {1, 2}) {
    emulation::set_seed(seed);
    for (const PoolShape& s : shapes()) {
      for (const size_t skip : {0, 1}) {
        INFO(s.h << "x" << s.w << "x" << s.c << " window " << s.kh << "x" << s.kw << ", skip " << skip);
        const std::vector<float> x = gaussian(s.n * s.h * s.w * s.c, random);
        const OnDevice<float> device_x(x, skip), to_dx(x, skip);
        const auto check = [&](int64_t out, auto forward, auto backward) {
          const std::vector<float> dy = gaussian(out, random);
          std::vector<float> y(dy.size()), dx(x.size());
          const OnDevice<float> device_dy(dy, skip), to_y(dy, skip);
          forward(ref, x.data(), y.data());
          backward(ref, dy.data(), dx.data());
          forward(table, device_x.data(), to_y.data());
          backward(table, device_dy.data(), to_dx.data());
          CHECK(to_y.host() == y);
          CHECK(to_dx.host() == dx);
        };
        for (const bool include_pad : {false, true}) {
          check(
              s.n * s.oh() * s.ow() * s.c,
              [&](const Kernels& t, const float* from, float* to) {
                t.avg_pool({s, from, to, include_pad});
              },
              [&](const Kernels& t, const float* from, float* to) {
                t.avg_pool_backward({s, from, to, include_pad});
              });
        }
        for (const int64_t size : {1, 3, 7}) {
          check(
              s.n * size * (size + 1) * s.c,
              [&](const Kernels& t, const float* from, float* to) {
                t.adaptive_avg_pool({s.n, s.h, s.w, s.c, size, size + 1, from, to});
              },
              [&](const Kernels& t, const float* from, float* to) {
                t.adaptive_avg_pool_backward({s.n, s.h, s.w, s.c, size, size + 1, from, to});
              });
        }
      }
    }
  }
}
