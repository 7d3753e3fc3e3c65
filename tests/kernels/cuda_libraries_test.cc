// What cuDNN and cublasLt are told of a convolution, carried out on the CPU as they would, equals ref's result.
#include <random>
#include <vector>

#include "kernels/cuda/library_shapes.h"
#include "kernels/kernels.h"
#include "tests/catch.h"

using namespace luq;
using namespace luq::kernels::cuda;

namespace {

// Small integers: sums are exact in any order.
std::vector<float> integers(int64_t count, std::mt19937& random) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 7) - 3);
  return values;
}

std::vector<float> zeros(int64_t count) { return std::vector<float>(static_cast<size_t>(count)); }

struct Results {
  std::vector<float> y, dx, dw;
  bool operator==(const Results&) const = default;
};

struct Data {
  explicit Data(const ConvShape& shape) : s(shape) {
    std::mt19937 random(7);
    x = integers(s.x_size(), random);
    w = integers(s.w_size(), random);
    dy = integers(s.y_size(), random);
  }
  Results empty() const { return {zeros(s.y_size()), zeros(s.x_size()), zeros(s.w_size())}; }
  Results by_ref() const {
    const Kernels ref = cpu_kernel_tables().front().table;
    Results r = empty();
    ref.conv_forward({s, x.data(), w.data(), nullptr, r.y.data()});
    ref.conv_backward_data({s, dy.data(), w.data(), r.dx.data()});
    ref.conv_backward_weight({s, dy.data(), x.data(), r.dw.data()});
    return r;
  }
  ConvShape s;
  std::vector<float> x, w, dy;
};

void multiply(const MatmulShape& p, const std::vector<float>& a, const std::vector<float>& b, std::vector<float>& d) {
  REQUIRE(p.lda >= p.rows_a());
  REQUIRE(p.ldb >= p.rows_b());
  REQUIRE(p.ldd >= p.m);
  for (int64_t j = 0; j < p.n; ++j) {
    for (int64_t i = 0; i < p.m; ++i) {
      float sum = 0;
      for (int64_t l = 0; l < p.k; ++l) {
        const int64_t at_a = p.transpose_a ? l + i * p.lda : i + l * p.lda;
        const int64_t at_b = p.transpose_b ? j + l * p.ldb : l + j * p.ldb;
        sum += a.at(static_cast<size_t>(at_a)) * b.at(static_cast<size_t>(at_b));
      }
      d.at(static_cast<size_t>(i + j * p.ldd)) = sum;
    }
  }
}

size_t place(const TensorLayout& t, int64_t a, int64_t c, int64_t h, int64_t w) {
  return static_cast<size_t>(a * t.strides[0] + c * t.strides[1] + h * t.strides[2] + w * t.strides[3]);
}

// A cross-correlation of any strides, in all three passes.
Results convolve(const ConvLayout& l, const Data& data) {
  Results r = data.empty();
  const auto& [n, o, oh, ow] = l.y.extents;
  const auto [unused_n, c, h, w] = l.x.extents;
  const auto [unused_o, c_group, kh, kw] = l.w.extents;
  REQUIRE(unused_n == n);
  REQUIRE(unused_o == o);
  const int64_t groups = c / c_group;
  for (int64_t image = 0; image < n; ++image) {
    for (int64_t out = 0; out < o; ++out) {
      for (int64_t y = 0; y < oh * ow; ++y) {
        for (int64_t k = 0; k < kh * kw * c_group; ++k) {
          const int64_t row = y / ow * l.strides[0] - l.pads[0] + k / c_group / kw * l.dilations[0];
          const int64_t column = y % ow * l.strides[1] - l.pads[1] + k / c_group % kw * l.dilations[1];
          if (row < 0 || row >= h || column < 0 || column >= w) continue;
          const int64_t channel = out / (o / groups) * c_group + k % c_group;
          const size_t at_x = place(l.x, image, channel, row, column), at_y = place(l.y, image, out, y / ow, y % ow);
          const size_t at_w = place(l.w, out, k % c_group, k / c_group / kw, k / c_group % kw);
          r.y.at(at_y) += data.x.at(at_x) * data.w.at(at_w);
          r.dx.at(at_x) += data.dy.at(at_y) * data.w.at(at_w);
          r.dw.at(at_w) += data.dy.at(at_y) * data.x.at(at_x);
        }
      }
    }
  }
  return r;
}

}  // namespace

TEST_CASE("cublasLt's matrix products are the convolutions they stand for", "[cuda_libraries]") {
  for (const ConvShape& s : {ConvShape{.n = 5, .c = 7, .o = 3}, ConvShape{.n = 2, .h = 3, .w = 4, .c = 8, .o = 6}}) {
    REQUIRE(is_matmul(s));
    const Data data(s);
    Results r = data.empty();
    multiply(matmul_shape(ConvPass::forward, s), data.w, data.x, r.y);
    multiply(matmul_shape(ConvPass::backward_data, s), data.w, data.dy, r.dx);
    multiply(matmul_shape(ConvPass::backward_weight, s), data.x, data.dy, r.dw);
    CHECK(r == data.by_ref());
  }
}

TEST_CASE("What is no matrix product is not taken for one", "[cuda_libraries]") {
  const ConvShape s{.n = 2, .h = 4, .w = 4, .c = 4, .o = 4};
  for (const auto change :
       {+[](ConvShape& t) { t.kh = 2; }, +[](ConvShape& t) { t.kw = 2; }, +[](ConvShape& t) { t.stride_h = 2; },
        +[](ConvShape& t) { t.stride_w = 2; }, +[](ConvShape& t) { t.pad_h = 1; }, +[](ConvShape& t) { t.pad_w = 1; },
        +[](ConvShape& t) { t.groups = 2; }}) {
    ConvShape changed = s;
    change(changed);
    CHECK(!is_matmul(changed));
  }
}

TEST_CASE("cuDNN's layouts are the convolutions they stand for", "[cuda_libraries]") {
  for (const ConvShape& s :
       {ConvShape{.n = 2, .h = 5, .w = 6, .c = 3, .o = 4, .kh = 3, .kw = 2, .pad_h = 1},
        ConvShape{.n = 1,
        .h = 7,
        .w = 9,
        .c = 4,
        .o = 6,
        .kh = 3,
        .kw = 3,
        .stride_h = 2,
        .stride_w = 3,
        .pad_h = 1,
        .pad_w = 2,
        .dilation_h = 2,
        .dilation_w = 1,
        .groups = 2},
        ConvShape{.n = 2, .h = 4, .w = 4, .c = 5, .o = 5, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 5}}) {
    const Data data(s);
    CHECK(convolve(conv_layout(s), data) == data.by_ref());
  }
}
