// A library that does not look whether it got memory writes to a null pointer, which ends a program by SIGSEGV.
#pragma once

namespace luq::kernels {

// Calls action(context). False when it wrote or read near address 0 on this thread: it was left there and then, without
// destructors, so whatever it used must not be used again. One thread at a time.
bool without_null_writes(void (*action)(void*), void* context);

// The same for something that takes no argument and throws nothing.
template <typename Action>
bool without_null_writes(Action& action) {
  return without_null_writes([](void* of) { (*static_cast<Action*>(of))(); }, &action);
}

}  // namespace luq::kernels
