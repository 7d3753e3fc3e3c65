#include "luq/ops/accuracy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "luq/core/convert.h"
#include "luq/core/error.h"
#include "luq/ops/loss.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

namespace luq {

using test::make_ctx;
using test::random_tensor;
using test::tensor_of;

TEST_CASE("count_top_k: as sorting the classes counts", "[accuracy]") {
  Ctx ctx = make_ctx();
  constexpr int64_t rows = 64, classes = 12;
  Tensor logits = random_tensor({rows, classes}, "logits");
  for (int64_t i = 0; i < rows * classes; ++i) {  // few values, so that many are equal
    logits.data<float>()[i] = std::round(logits.data<float>()[i] * 4);
  }
  std::vector<int32_t> labels;
  for (int64_t row = 0; row < rows; ++row) labels.push_back(static_cast<int32_t>(row * 7 % classes));
  const Tensor label_tensor = Tensor::from({rows}, labels.data());
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const Tensor values = convert(*ctx.kernels, logits, dtype);
    int64_t before = 0;
    for (int64_t k = 1; k <= classes; ++k) {
      int64_t expected = 0;
      for (int64_t row = 0; row < rows; ++row) {
        std::vector<int32_t> order(classes);
        std::iota(order.begin(), order.end(), 0);
        const float* x = logits.data<float>() + row * classes;
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
        expected += std::find(order.begin(), order.begin() + k, labels[static_cast<size_t>(row)]) != order.begin() + k;
      }
      CHECK(count_top_k(ctx, values, label_tensor, k) == expected);
      CHECK(expected >= before);
      before = expected;
    }
    CHECK(before == rows);
  }
  CHECK(count_top_k(ctx, logits, label_tensor, 1) == softmax_cross_entropy(ctx, Var(logits), label_tensor).correct);
}

TEST_CASE("count_top_k: NaN counts against the label", "[accuracy]") {
  Ctx ctx = make_ctx();
  const int32_t labels[] = {1, 1};
  const Tensor label_tensor = Tensor::from({2}, labels);
  const float nan = std::nanf("");
  CHECK(count_top_k(ctx, tensor_of({2, 3}, {nan, 2, 1, 0, 2, nan}), label_tensor, 1) == 0);
  CHECK(count_top_k(ctx, tensor_of({2, 3}, {nan, 2, 1, 0, nan, 1}), label_tensor, 2) == 1);
}

TEST_CASE("count_top_k: what does not fit is refused", "[accuracy]") {
  Ctx ctx = make_ctx();
  const Tensor logits = Tensor::zeros({2, 3});
  const int32_t good[] = {0, 2}, bad[] = {0, 3};
  CHECK_THROWS_WITH(count_top_k(ctx, logits, Tensor::from({2}, good), 4), contains_text("k in 1..3"));
  CHECK_THROWS_WITH(count_top_k(ctx, logits, Tensor::from({2}, good), 0), contains_text("k in 1..3"));
  CHECK_THROWS_WITH(count_top_k(ctx, logits, Tensor::from({2}, bad), 1), contains_text("labels in 0..2"));
  CHECK_THROWS_WITH(count_top_k(ctx, logits, Tensor::zeros({2}), 1), contains_text("int32"));
}

}  // namespace luq
