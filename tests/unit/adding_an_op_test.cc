// The op of docs/adding_an_op.md, built and checked; the document shows the lines between the two markers.

#include <cmath>
#include <fstream>
#include <sstream>

#include "tests/catch.h"
#include "tests/places.h"

// [squared_relu]
#include "luq/autograd/ctx.h"
#include "luq/core/error.h"

namespace example {

// max(x, 0)^2, elementwise; the result is known to be non-negative. Throws Error when x is not float32.
luq::Var squared_relu(luq::Ctx& ctx, const luq::Var& x) {
  const int64_t count = x.value().numel();
  luq::Var y(luq::Tensor::empty(x.shape()), ctx.records(x));
  y.set_non_negative(true);  // so that a quantised layer that reads y uses unsigned codes
  for (int64_t i = 0; i < count; ++i) {
    const float positive = std::max(x.value().data<float>()[i], 0.0f);
    y.value().data<float>()[i] = positive * positive;
  }
  if (!y.needs_grad()) return y;

  // The closure keeps what backward needs and nothing else: the input's values and its gradient slot.
  ctx.tape->record(y, [kernels = ctx.kernels, values = x.value(), slot = x.slot(), count](luq::Tensor dy) {
    luq::Tensor dx = luq::Tensor::empty(values.shape());
    for (int64_t i = 0; i < count; ++i) {
      dx.data<float>()[i] = 2 * std::max(values.data<float>()[i], 0.0f) * std::as_const(dy).data<float>()[i];
    }
    luq::add_gradient(*kernels, *slot, std::move(dx));
  });
  return y;
}

}  // namespace example
// [squared_relu]

namespace luq {

TEST_CASE("The op of the tutorial and its gradient", "[docs]") {
  const std::vector<float> values{-2.0f, 0.0f, 0.5f, 3.0f};
  Tape tape;
  Ctx ctx;
  ctx.kernels = &kernels_for({});
  ctx.tape = &tape;
  const Var x(Tensor::from({4}, values.data()), true);
  const Var y = example::squared_relu(ctx, x);
  CHECK(y.non_negative());
  const float expected[] = {0.0f, 0.0f, 0.25f, 9.0f};
  for (int i = 0; i < 4; ++i) CHECK(y.value().data<float>()[i] == expected[i]);
  for (int64_t element = 0; element < 4; ++element) {
    Tape one;
    ctx.tape = &one;
    const Var input(Tensor::from({1}, &values[static_cast<size_t>(element)]), true);
    one.backward(example::squared_relu(ctx, input));
    CHECK(input.grad().data<float>()[0] == 2 * std::max(values[static_cast<size_t>(element)], 0.0f));
  }
}

TEST_CASE("docs/adding_an_op.md shows the op that is tested", "[docs]") {
  const auto read = [](const std::string& file) {
    std::ifstream stream(source_folder() + "/" + file);
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
  };
  const std::string source = read("tests/unit/adding_an_op_test.cc");
  const std::string marker = "// [squared_relu]\n";
  const size_t begin = source.find(marker) + marker.size(), end = source.find(marker, begin);
  REQUIRE(end != std::string::npos);
  CHECK(read("docs/adding_an_op.md").find("```cpp\n" + source.substr(begin, end - begin) + "```") != std::string::npos);
}

}  // namespace luq
