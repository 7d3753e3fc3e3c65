// Memory that a thread keeps from call to call, aligned to cache lines; contents undefined.
//
// An ISA file includes this file in an anonymous namespace, and <stdlib.h> before it.

struct Scratch {
  void* memory = nullptr;
  int64_t size = 0;
  template <typename T>
  T* get(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
    if (bytes > size) {
      free(memory);
      size = bytes;
      memory = aligned_alloc(64, static_cast<size_t>(bytes));
      if (memory == nullptr) abort();
    }
    return static_cast<T*>(memory);
  }
  ~Scratch() { free(memory); }
};
