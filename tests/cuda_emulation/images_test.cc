// kernels/cuda/images.cu against the CPU's reference, to the bit: every edit and mix, whole and incomplete units of
// eight values, aligned or not, several seeds of the scheduler.
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

namespace luq::test {
namespace {

struct Images {
  kernels::FinishImagesArgs args{};
  std::vector<uint8_t> x, edits;

  Images(int64_t n, int64_t h, int64_t w, int64_t c, ImageMix::Kind kind, std::mt19937& random)
      : x(static_cast<size_t>(n * h * w * c)), edits(static_cast<size_t>(n * image_edit_bytes(c))) {
    const auto below = [&](int64_t bound) { return static_cast<int32_t>(random() % static_cast<uint32_t>(bound)); };
    for (uint8_t& byte : x) byte = static_cast<uint8_t>(below(256));
    for (int64_t i = 0; i < n; ++i) {
      ImageEdit edit{.flip = below(2), .top = below(h), .left = below(w)};
      edit.height = below(h - edit.top + 1);
      edit.width = below(w - edit.left + 1);
      uint8_t* to = edits.data() + i * image_edit_bytes(c);
      std::memcpy(to, &edit, sizeof edit);
      for (int64_t k = 0; k < 2 * c; ++k) {
        const double value = k < c ? 1.0 / (50 + below(20)) : -2 + 0.01 * below(200);
        std::memcpy(to + sizeof edit + static_cast<size_t>(k) * sizeof value, &value, sizeof value);
      }
    }
    args.n = n;
    args.h = h;
    args.w = w;
    args.c = c;
    args.mix = {.kind = kind, .own = 0.3f, .others = 0.7f, .top = below(h), .left = below(w)};
    args.mix.height = below(h - args.mix.top + 1);
    args.mix.width = below(w - args.mix.left + 1);
    args.first = below(n);
    args.count = n - args.first;
  }
  size_t values() const { return static_cast<size_t>(args.count * args.h * args.w * args.c); }
};

template <typename T>
std::vector<T> on_host(const Images& images) {
  std::vector<T> y(images.values());
  kernels::FinishImagesArgs args = images.args;
  args.x = images.x.data();
  args.edits = images.edits.data();
  args.y = y.data();
  cpu_kernel_tables().front().table.finish_images(args);
  return y;
}

template <typename T>
std::vector<T> on_device(const Images& images, size_t skip) {
  const OnDevice<uint8_t> x(images.x, skip), edits(images.edits);
  const OnDevice<T> y(std::vector<T>(images.values()), skip);
  kernels::FinishImagesArgs args = images.args;
  args.x = x.data();
  args.edits = edits.data();
  args.y = y.data();
  kernels_for({DeviceType::cuda, 0}).finish_images(args);
  return y.host();
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("cuda: images from bytes to floats equal ref to the bit", "[cuda]") {
  std::mt19937 random(11);
  uint64_t seed = 0;
  for (const auto& [h, w, c] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 7, 3}, {8, 8, 3}, {28, 28, 1}, {6, 40, 4}, {32, 32, 3}, {4, 6, 5}}) {
    for (const auto kind : {ImageMix::Kind::none, ImageMix::Kind::mixup, ImageMix::Kind::cutmix}) {
      for (const size_t skip : {0, 1}) {
        emulation::set_seed(++seed);
        INFO(h << " x " << w << " x " << c << ", mix " << static_cast<int>(kind) << ", skip " << skip << ", seed "
               << seed);
        const Images images(3, h, w, c, kind, random);
        CHECK(same(on_device<float>(images, skip), on_host<float>(images)));
        CHECK(same(on_device<BFloat16>(images, skip), on_host<BFloat16>(images)));
      }
    }
  }
}

}  // namespace luq::test
