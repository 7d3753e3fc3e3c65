// Memory that kernels keep for themselves from call to call, and how they report that there is none left.
//
// A kernel throws nothing. One that gets no memory notes so, on the thread that called it, and returns, its results
// undefined; Kernel::operator() looks after every call and throws OutOfMemory. So the calling thread asks for all that
// a call needs before a parallel region begins, for all of its threads: nothing inside can fail.
#pragma once

#include <cstdint>

namespace luq::kernels {

// A kernel of this thread wanted `bytes` and did not get them; 0 where it does not know how many.
void note_no_memory(int64_t bytes);
// As was noted since the last call, which it takes away: the bytes, or -1 where nothing was noted.
int64_t take_noted_bytes();

constexpr int64_t kSlack = 256;  // bytes behind every scratch buffer that whole-vector accesses may touch

// A buffer that grows and is kept: pages are touched for the first time once, not once a call. Large ones ask for huge
// pages, which miss the address cache less. ISA files use it too: nothing here may be compiled out of line in them.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch();

  // `count` values of T and kSlack bytes behind them, at a multiple of kSlack, uninitialised; what was there before is
  // lost. Null, which is noted, where there is no memory.
  template <typename T>
  [[gnu::always_inline]] T* get(int64_t count) {
    return static_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // The same once for each of `threads` threads: thread i has it from i * share<T>(count) on.
  template <typename T>
  [[gnu::always_inline]] T* get(int64_t count, int64_t threads) {
    return get<T>(threads * share<T>(count));
  }
  template <typename T>
  [[gnu::always_inline]] static int64_t share(int64_t count) {
    constexpr int64_t size = sizeof(T);
    return (count * size + 2 * kSlack - 1) / kSlack * kSlack / size;
  }

 private:
  void* bytes(int64_t wanted);

  void* data_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace luq::kernels
