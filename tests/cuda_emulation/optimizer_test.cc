// kernels/cuda/optimizer.cu against the CPU's reference, with ==.
#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

TEST_CASE("cuda: SGD equals ref", "[cuda][optimizer]") {
  Kernels table;
  cuda::add_optimizer(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(9);
  for (const int64_t count : {0, 1, 5, 1023, 1024, 2051}) {
    const std::vector<float> start = gaussian(count, random), gradient = gaussian(count, random),
                             v0 = gaussian(count, random);
    for (int flags = 0; flags < 16; ++flags) {
      const bool nesterov = flags & 1, first_step = flags & 2, with_velocity = flags & 4;
      const size_t skip = flags & 8 ? 1 : 0;
      INFO(count << ", flags " << flags);
      emulation::set_seed(static_cast<uint64_t>(flags));
      std::vector<float> w = start, v = v0;
      const OnDevice<float> device_w(w, skip), device_v(v, skip), device_gradient(gradient, skip);
      SgdArgs a{.w = w.data(),
                .gradient = gradient.data(),
                .velocity = with_velocity ? v.data() : nullptr,
                .count = count,
                .lr = 0.1f,
                .momentum = 0.9f,
                .weight_decay = 5e-4f,
                .nesterov = nesterov,
                .first_step = first_step,
                .gradient_scale = with_velocity ? 0.3f : 1.0f};
      ref.sgd(a);
      a.w = device_w.data();
      a.gradient = device_gradient.data();
      a.velocity = with_velocity ? device_v.data() : nullptr;
      table.sgd(a);
      CHECK(device_w.host() == w);
      CHECK(device_v.host() == v);
    }
  }
}

TEST_CASE("cuda: AdamW equals ref", "[cuda][optimizer]") {
  Kernels table;
  cuda::add_optimizer(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(10);
  for (const int64_t count : {0, 1, 5, 1023, 1024, 2051}) {
    const std::vector<float> start = gaussian(count, random), gradient = gaussian(count, random),
                             m0 = gaussian(count, random);
    std::vector<float> v0 = gaussian(count, random);
    for (float& value : v0) value = std::fabs(value);
    for (const int64_t step : {1, 2, 100000}) {
      for (const size_t skip : {0, 1}) {
        INFO(count << ", step " << step << ", skip " << skip);
        emulation::set_seed(static_cast<uint64_t>(step));
        std::vector<float> w = start, m = m0, v = v0;
        const OnDevice<float> device_w(w, skip), device_m(m, skip), device_v(v, skip), device_gradient(gradient, skip);
        AdamWArgs a{.w = w.data(),
                    .gradient = gradient.data(),
                    .m = m.data(),
                    .v = v.data(),
                    .count = count,
                    .lr = 1e-3f,
                    .beta1 = 0.9f,
                    .beta2 = 0.999f,
                    .eps = 1e-8f,
                    .weight_decay = 0.05f,
                    .step = step,
                    .gradient_scale = 0.7f};
        ref.adamw(a);
        a.w = device_w.data();
        a.gradient = device_gradient.data();
        a.m = device_m.data();
        a.v = device_v.data();
        table.adamw(a);
        CHECK(device_w.host() == w);
        CHECK(device_m.host() == m);
        CHECK(device_v.host() == v);
      }
    }
  }
}
