// Tensors, shapes and the reusing allocator.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/tensor.h"
#include "tests/catch.h"
#include "tests/unit/op_test.h"

using namespace luq;
using namespace luq::test;

TEST_CASE("shapes index from both ends and print", "[tensor]") {
  const Shape shape{8, 56, 32};
  CHECK(shape.rank() == 3);
  CHECK(shape[0] == 8);
  CHECK(shape[-1] == 32);
  CHECK(shape.numel() == 8 * 56 * 32);
  CHECK(to_string(shape) == "(8,56,32)");
  CHECK(to_string(Shape{}) == "()");
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{3, 0, 2}.numel() == 0);
}

TEST_CASE("copies share the buffer, clones do not", "[tensor]") {
  Tensor a = tensor_of({2, 2}, {1, 2, 3, 4});
  CHECK(a.unique());
  Tensor copy = a;
  const Tensor clone = a.clone();
  CHECK_FALSE(a.unique());
  CHECK(copy.shares_buffer_with(a));
  CHECK_FALSE(clone.shares_buffer_with(a));
  copy.data<float>()[0] = 9;
  CHECK(a.data<float>()[0] == 9);
  CHECK(clone.data<float>()[0] == 1);
  copy = Tensor();
  CHECK(a.unique());
  CHECK_FALSE(copy.defined());
}

TEST_CASE("reshape is a view of the same numel", "[tensor]") {
  const Tensor a = tensor_of({2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor b = a.reshape({6});
  CHECK(b.shares_buffer_with(a));
  CHECK(b.shape() == Shape{6});
  CHECK_THROWS_WITH(a.reshape({4}), contains_text("[reshape] expected 6 elements"));
}

TEST_CASE("dtypes are checked and sized", "[tensor]") {
  Tensor bytes = Tensor::zeros({5}, DType::uint8);
  CHECK(bytes.bytes() == 5);
  CHECK(Tensor::zeros({5}, DType::int64).bytes() == 40);
  CHECK(bytes.data<uint8_t>()[4] == 0);
  CHECK_THROWS_WITH(bytes.data<float>(), contains_text("expected dtype float32, got uint8"));
  CHECK_THROWS_AS(Tensor::empty({2, -1}), Error);
}

TEST_CASE("an empty tensor is defined and has no elements", "[tensor]") {
  const Tensor none = Tensor::zeros({0, 3});
  CHECK(none.defined());
  CHECK(none.numel() == 0);
  CHECK(none.clone().defined());
}

TEST_CASE("blocks are aligned, counted, and reused after free", "[allocator]") {
  release_cached_memory();
  const MemoryStats before = memory_stats();
  for (const int64_t bytes : {0, 1, 63, 64, 65, 4095, 4097, 100000, 1 << 20, (1 << 20) + 1, 5 << 20}) {
    void* block = allocate(bytes);
    CHECK(reinterpret_cast<uintptr_t>(block) % 64 == 0);
    const int64_t counted = memory_stats().live_bytes - before.live_bytes;
    CHECK(counted >= bytes);
    CHECK(counted <= bytes + bytes / 4 + 64);
    deallocate(block, bytes);
    CHECK(memory_stats().live_bytes == before.live_bytes);
    CHECK(memory_stats().cached_bytes >= counted);
    void* again = allocate(bytes);
    CHECK(again == block);
    deallocate(again, bytes);
  }
}

TEST_CASE("blocks cut from one piece of memory do not overlap", "[allocator]") {
  std::vector<std::pair<unsigned char*, int64_t>> blocks;
  for (int64_t i = 0; i < 200; ++i) {
    const int64_t bytes = 1 + i * i * 37;
    blocks.emplace_back(static_cast<unsigned char*>(allocate(bytes)), bytes);
    std::memset(blocks.back().first, static_cast<int>(i), static_cast<size_t>(bytes));
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto [block, bytes] = blocks[i];
    CHECK(std::all_of(block, block + bytes, [i](unsigned char value) { return value == i; }));
    deallocate(block, bytes);
  }
}

TEST_CASE("release gives large blocks back", "[allocator]") {
  release_cached_memory();
  const int64_t cached = memory_stats().cached_bytes;
  deallocate(allocate(5 << 20), 5 << 20);
  CHECK(memory_stats().cached_bytes >= cached + (5 << 20));
  release_cached_memory();
  CHECK(memory_stats().cached_bytes == cached);
}

TEST_CASE("the peak is the most that was live since the last reset", "[allocator]") {
  reset_peak_memory();
  const int64_t start = memory_stats().live_bytes;
  { const Tensor a = Tensor::empty({1 << 16}), b = Tensor::empty({1 << 16}); }
  CHECK(memory_stats().live_bytes == start);
  CHECK(memory_stats().peak_bytes - start == 2 * 4 * (1 << 16));
  reset_peak_memory();
  CHECK(memory_stats().peak_bytes == start);
}

TEST_CASE("the allocator serves threads at once", "[allocator]") {
  const int64_t start = memory_stats().live_bytes;
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &wrong] {
      for (int i = 0; i < 500; ++i) {
        const float mark = static_cast<float>(t * 1000 + i);
        const Tensor a = Tensor::full({64 + i % 7}, mark);
        std::this_thread::yield();
        for (int64_t k = 0; k < a.numel(); ++k) wrong[static_cast<size_t>(t)] += a.data<float>()[k] != mark;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
  CHECK(memory_stats().live_bytes == start);
}

TEST_CASE("memory that the system does not have is an error with its size", "[allocator]") {
#ifdef __SANITIZE_ADDRESS__
  WARN("skipped: AddressSanitizer ends the program at such a request");
#else
  CHECK_THROWS_WITH(allocate(int64_t{1} << 60), contains_text("out of memory"));
#endif
}
