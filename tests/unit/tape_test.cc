// The tape: order, sharing and adding of gradients, lifetime of closures.

#include "luq/autograd/tape.h"

#include <memory>

#include "luq/core/error.h"
#include "luq/ops/pointwise.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

TEST_CASE("a residual add hands one gradient to both inputs without aliasing", "[tape]") {
  // y = relu(x); loss = sum(dy * (y + x)): x gets dy twice, and the two paths must not write into each other's.
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({4}, {1, -2, 3, -4}), true);
  const Var y = add(ctx, relu(ctx, x), x);
  tape.backward(weighted_sum(ctx, y, tensor_of({4}, {10, 20, 30, 40})));
  CHECK(values(x.grad()) == std::vector<float>{20, 20, 60, 40});
}

TEST_CASE("both inputs of an add keep the whole gradient", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var a(tensor_of({2}, {1, 2}), true), b(tensor_of({2}, {-3, 4}), true);
  // a's gradient passes one relu, b's another; the shared buffer must not be masked in place by the first.
  const Var y = add(ctx, relu(ctx, a), relu(ctx, b));
  tape.backward(weighted_sum(ctx, y, tensor_of({2}, {5, 6})));
  CHECK(values(a.grad()) == std::vector<float>{5, 6});
  CHECK(values(b.grad()) == std::vector<float>{0, 6});
}

TEST_CASE("x + x has gradient 2", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({2}, {1, 2}), true);
  tape.backward(weighted_sum(ctx, add(ctx, x, x), tensor_of({2}, {5, 6})));
  CHECK(values(x.grad()) == std::vector<float>{10, 12});
}

TEST_CASE("gradients of several backward passes add up until they are dropped", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({2}, {1, 2}), true);
  for (int pass = 1; pass <= 3; ++pass) {
    tape.backward(weighted_sum(ctx, relu(ctx, x), tensor_of({2}, {5, 6})));
    CHECK(tape.size() == 0);
    CHECK(values(x.grad()) == std::vector<float>{5.0f * static_cast<float>(pass), 6.0f * static_cast<float>(pass)});
  }
  x.slot()->grad = Tensor();
  tape.backward(weighted_sum(ctx, relu(ctx, x), tensor_of({2}, {5, 6})));
  CHECK(values(x.grad()) == std::vector<float>{5, 6});
}

TEST_CASE("a loss is differentiated once", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({1}, {1}), true);
  const Var loss = weighted_sum(ctx, relu(ctx, x), tensor_of({1}, {1}));
  tape.backward(loss);
  CHECK_THROWS_WITH(tape.backward(loss), contains_text("[backward] expected a loss that was recorded"));
  CHECK_THROWS_WITH(tape.backward(Var(Tensor::zeros({1}))), contains_text("depends on a parameter"));
  CHECK_THROWS_WITH(tape.backward(Var(Tensor::zeros({2}), true)), contains_text("one element, got (2)"));
}

TEST_CASE("the seed scales the gradient", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({1}, {3}), true);
  Var loss(Tensor::full({1}, 3.0f), true);
  tape.record(loss, [kernels = ctx.kernels, slot = x.slot()](Tensor dy) { add_gradient(*kernels, *slot, dy); });
  tape.backward(loss, 0.25f);
  CHECK(values(x.grad()) == std::vector<float>{0.25f});
}

TEST_CASE("a branch that no gradient reaches is skipped", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({1}, {1}), true), unused(tensor_of({1}, {1}), true);
  const Var side = relu(ctx, unused);
  tape.backward(weighted_sum(ctx, relu(ctx, x), tensor_of({1}, {1})));
  CHECK_FALSE(unused.grad().defined());
  CHECK(tape.size() == 0);
}

TEST_CASE("add_gradient writes in place only where nothing else holds the buffer", "[tape]") {
  const Kernels& kernels = kernels_for({});
  GradSlot slot;
  Tensor first = tensor_of({2}, {1, 2});
  add_gradient(kernels, slot, first);
  CHECK(slot.grad.shares_buffer_with(first));

  SECTION("the slot's buffer is shared: the contribution's own is used") {
    Tensor second = tensor_of({2}, {10, 20});
    const void* buffer = second.raw();
    add_gradient(kernels, slot, std::move(second));
    CHECK(slot.grad.raw() == buffer);
  }
  SECTION("both are shared: a new one") {
    const Tensor second = tensor_of({2}, {10, 20});
    add_gradient(kernels, slot, second);
    CHECK_FALSE(slot.grad.shares_buffer_with(first));
    CHECK_FALSE(slot.grad.shares_buffer_with(second));
    CHECK(values(second) == std::vector<float>{10, 20});
  }
  SECTION("the slot's buffer is its own: it is written") {
    slot.grad = first.clone();
    const void* buffer = slot.grad.raw();
    const Tensor second = tensor_of({2}, {10, 20});
    add_gradient(kernels, slot, second);
    CHECK(slot.grad.raw() == buffer);
  }
  CHECK(values(slot.grad) == std::vector<float>{11, 22});
  CHECK(values(first) == std::vector<float>{1, 2});
}

TEST_CASE("contributions of different shapes or dtypes are refused", "[tape]") {
  GradSlot slot;
  add_gradient(kernels_for({}), slot, Tensor::zeros({2}));
  CHECK_THROWS_WITH(add_gradient(kernels_for({}), slot, Tensor::zeros({3})), contains_text("got float32 (3)"));
  CHECK_THROWS_WITH(add_gradient(kernels_for({}), slot, Tensor::zeros({2}, DType::int32)),
                    contains_text("got int32 (2)"));
}

TEST_CASE("a closure and what it holds is destroyed before the next one runs", "[tape]") {
  Tape tape;
  auto held = std::make_shared<int>(1);
  const Var a(Tensor::full({1}, 0.0f), true), b(Tensor::full({1}, 0.0f), true);
  const Kernels& kernels = kernels_for({});
  std::vector<long> holders;
  tape.record(a, [&holders, weak = std::weak_ptr<int>(held)](const Tensor&) { holders.push_back(weak.use_count()); });
  tape.record(b, [held, slot = a.slot(), &kernels](Tensor dy) { add_gradient(kernels, *slot, std::move(dy)); });
  held.reset();
  tape.backward(b);
  CHECK(holders == std::vector<long>{0});
}

TEST_CASE("backward calls after each closure, when it is gone", "[tape]") {
  Tape tape;
  Ctx ctx = make_ctx(&tape);
  const Var x(tensor_of({2}, {1, 2}), true), w(tensor_of({2}, {3, 4}), true);
  const Var y = add(ctx, relu(ctx, x), w);
  const Var loss = weighted_sum(ctx, y, tensor_of({2}, {5, 6}));
  std::vector<long> holders;
  tape.backward(loss, 1.0f, [&] { holders.push_back(w.slot().use_count()); });
  CHECK(holders == std::vector<long>{2, 1, 1});  // of the sum, of the addition that reads w, of the relu
  CHECK(values(w.grad()) == std::vector<float>{5, 6});
}
