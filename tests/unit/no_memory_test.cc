#include "src/core/no_memory.h"

#include <cstring>
#include <new>
#include <string>

#include "kernels/cpu/null_write.h"
#include "kernels/kernels.h"
#include "luq/core/error.h"
#include "luq/core/stand_in_kernels.h"
#include "tests/catch.h"

namespace luq {
namespace {

template <typename Action>
std::string out_of_memory(Action action) {
  try {
    action();
  } catch (const OutOfMemory& error) {
    return error.what();
  }
  return "nothing";
}

bool begins(const std::string& text, const std::string& with) { return text.rfind(with, 0) == 0; }

TEST_CASE("what has no memory says so in one way", "[no_memory]") {
  CHECK(begins(out_of_memory([] { fail_out_of_memory("[here] a thing is made:", 12); }),
               "[here] a thing is made: out of memory: 12 bytes wanted, "));
  CHECK(begins(out_of_memory([] { or_out_of_memory("[here]", [] { throw std::bad_alloc(); }); }),
               "[here] out of memory: "));
  const auto of_the_system = [] { throw std::system_error(std::make_error_code(std::errc::not_enough_memory), "a"); };
  CHECK(begins(out_of_memory([&] { or_out_of_memory("[here]", of_the_system); }), "[here] a: "));
  const auto other = [] { throw std::system_error(std::make_error_code(std::errc::io_error), "a"); };
  CHECK_THROWS_AS(or_out_of_memory("[here]", other), std::system_error);
  CHECK(or_out_of_memory("[here]", [] { return 3; }) == 3);
}

TEST_CASE("a kernel that has no memory for itself is an error of the call, once", "[no_memory]") {
  const kernels::AddArgs args{};
  const Kernel<kernels::AddArgs> notes{[](const kernels::AddArgs&) { kernels::note_no_memory(640); }, "test"};
  CHECK(begins(out_of_memory([&] { notes(args); }), "[kernel] test: out of memory: 640 bytes wanted, "));
  const Kernel<kernels::AddArgs> throws{[](const kernels::AddArgs&) { throw std::bad_alloc(); }, "test"};
  CHECK(begins(out_of_memory([&] { throws(args); }), "[kernel] test: out of memory: "));
  const Kernel<kernels::AddArgs> sound{[](const kernels::AddArgs&) {}, "test"};
  CHECK(out_of_memory([&] { sound(args); }) == "nothing");
}

TEST_CASE("kernels that stand in prepare or do nothing, and write no result", "[no_memory]") {
  Kernels kernels = kernels_for({});
  static int prepared, ran;
  prepared = ran = 0;
  kernels.add = {[](const kernels::AddArgs&) { ++ran; }, "test", [](const kernels::AddArgs&) { ++prepared; }};
  const StandInKernels preparing(kernels, StandIn::preparing), idle(kernels, StandIn::idle);
  float x = 1, y = 2;
  preparing.kernels().add({&x, &x, 1, &y});
  idle.kernels().add({&x, &x, 1, &y});
  CHECK((prepared == 1 && ran == 0));
  preparing.kernels().relu({.x = &x, .count = 1, .y = &y, .mask = nullptr});
  CHECK(y == 2);
  CHECK(std::strcmp(idle.kernels().add.implementation, "test") == 0);
}

TEST_CASE("a write to a null pointer is left, and what is sound is not disturbed", "[no_memory]") {
  volatile uintptr_t address = 64;
  auto broken = [&] { *reinterpret_cast<volatile char*>(address) = 1; };
  int done = 0;
  auto sound = [&] { ++done; };
  CHECK_FALSE(kernels::without_null_writes(broken));
  CHECK(kernels::without_null_writes(sound));
  CHECK_FALSE(kernels::without_null_writes(broken));
  CHECK(done == 1);
}

}  // namespace
}  // namespace luq
