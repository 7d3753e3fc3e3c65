#include "luq/core/denormals.h"

#include <cmath>

#include "luq/core/bfloat16.h"
#include "tests/catch.h"

namespace luq {
namespace {

Tensor filled(int64_t count, float even, float odd) {
  Tensor tensor = Tensor::empty({count});
  for (int64_t i = 0; i < count; ++i) tensor.data<float>()[i] = i % 2 == 0 ? even : odd;
  return tensor;
}

bool is_found(const Tensor& tensor) {
  DenormalWatch watch;
  watch.look("the gradient of layer", "conv1", tensor);
  return watch.found();
}

TEST_CASE("tensors of denormal values are noticed, and no others", "[denormals]") {
  const float denormal = 1e-40f, smallest = 0x1p-126f;
  CHECK(is_found(filled(100000, denormal, -denormal)));
  CHECK(is_found(filled(100000, denormal, 1)));
  CHECK(is_found(filled(100000, 0, denormal)));  // zeros cost nothing
  CHECK(is_found(filled(33, denormal, denormal)));
  CHECK_FALSE(is_found(filled(15, denormal, denormal)));
  CHECK_FALSE(is_found(filled(100000, smallest, -smallest)));
  CHECK_FALSE(is_found(filled(100000, 0, -0.0f)));
  CHECK_FALSE(is_found(filled(100000, NAN, INFINITY)));
  CHECK_FALSE(is_found(Tensor()));
  CHECK_FALSE(is_found(Tensor::zeros({40}, DType::int32)));
  Tensor few = filled(100000, 1, 2);
  for (int64_t i = 0; i < 100000; i += 10) few.data<float>()[i] = denormal;
  CHECK_FALSE(is_found(few));
  Tensor narrow = Tensor::empty({64}, DType::bfloat16);
  for (int64_t i = 0; i < 64; ++i) narrow.data<BFloat16>()[i] = to_bfloat16(denormal);
  CHECK(is_found(narrow));
}

TEST_CASE("the first tensor that is found keeps its name", "[denormals]") {
  DenormalWatch watch;
  watch.look("the gradient of layer", "a", filled(64, 1, 1));
  watch.look("the gradient of layer", "b", filled(64, 1e-40f, 1e-40f));
  watch.look("the gradient of layer", "c", filled(64, 1e-40f, 1e-40f));
  CHECK(watch.what() == "the gradient of layer b");
}

}  // namespace
}  // namespace luq
