// Pooling: every table against ref.

#include <cmath>

#include "kernels/kernels.h"
#include "kernels/ref/float_ops.h"
#include "tests/kernels/floats.h"

namespace luq::test {

using namespace luq::kernels;

TEST_CASE("Pooling equals ref in every table", "[kernels][pool]") {
  std::mt19937 rng(test_seed("pool"));
  for (const PoolShape& s :
       {PoolShape{2, 8, 9, 16, 2, 2, 2, 2, 0, 0, false}, PoolShape{3, 7, 7, 5, 3, 3, 2, 2, 1, 1, false},
        PoolShape{1, 6, 5, 33, 3, 2, 2, 1, 1, 1, true}, PoolShape{2, 5, 5, 1, 5, 5, 1, 1, 0, 0, false},
        PoolShape{20, 14, 14, 17, 3, 3, 2, 2, 0, 0, true}, PoolShape{1, 9, 8, 8, 2, 3, 3, 4, 0, 0, false},
        PoolShape{0, 5, 5, 8, 3, 3, 2, 2, 1, 1, false}, PoolShape{2, 7, 6, 24, 3, 3, 2, 2, 1, 1, true}}) {
    INFO(s.h << "x" << s.w << "x" << s.c << " window " << s.kh << "x" << s.kw);
    const int64_t in = s.n * s.h * s.w * s.c, out = s.n * s.oh() * s.ow() * s.c;
    const Work elements{.elements = in};
    Random x(in, rng);
    for (int64_t i = 0; i < in; i += 7) x[i] = 0.5f;  // ties
    for (int64_t i = 3; i < in; i += 41) x[i] = -INFINITY;
    if (in > 0) x[in / 2] = NAN;
    const Random dy(out, rng);
    Guarded<float> expected(out);
    Guarded<int32_t> expected_index(out);
    ref::max_pool<float>(s, x.data(), expected.data(), expected_index.data());
    for_each_table({.elements = in}, [&](const Kernels& table) {
      Guarded<float> y(out), plain(out);
      Guarded<int32_t> index(out);
      table.max_pool({s, x.data(), y.data(), index.data()});
      table.max_pool({s, x.data(), plain.data(), nullptr});
      REQUIRE(index.first_difference(expected_index) == -1);
      REQUIRE(y.first_difference(expected) == -1);
      REQUIRE(plain.first_difference(expected) == -1);
    });
    for (int64_t i = 0; i < in; ++i) x[i] = std::isfinite(x[i]) ? x[i] : 0.0f;
    compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
      table.max_pool_backward({s, dy.data(), expected_index.data(), dx.data()});
    });
    for (const bool include_pad : {false, true}) {
      compare(elements, out, 1e-6, 10, [&](const Kernels& table, Guarded<float>& y) {
        table.avg_pool({s, x.data(), y.data(), include_pad});
      });
      compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
        table.avg_pool_backward({s, dy.data(), dx.data(), include_pad});
      });
    }
    for (const int64_t size : {1, 3, 7}) {
      const int64_t columns = size + 1, pooled = s.n * size * columns * s.c;
      const Random gradient(pooled, rng);
      compare(elements, pooled, 1e-6, 10, [&](const Kernels& table, Guarded<float>& y) {
        table.adaptive_avg_pool({s.n, s.h, s.w, s.c, size, columns, x.data(), y.data()});
      });
      compare(elements, in, 1e-6, 10, [&](const Kernels& table, Guarded<float>& dx) {
        table.adaptive_avg_pool_backward({s.n, s.h, s.w, s.c, size, columns, gradient.data(), dx.data()});
      });
    }
  }
}

}  // namespace luq::test
