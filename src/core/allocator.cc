#include "luq/core/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "luq/core/error.h"
#include "src/core/no_memory.h"

// There in a program with AddressSanitizer.
extern "C" [[gnu::weak]] void* __asan_region_is_poisoned(void* begin, size_t size);

namespace luq {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSlab = 8 * kHugePage;
// Bytes of a block that has memory of its own; for AddressSanitizer every block, so that it sees where one ends.
int64_t large_bytes() { return __asan_region_is_poisoned != nullptr ? 0 : 2 * kHugePage; }

// Blocks come in few sizes so that a freed one fits the next request: multiples of 64 below 4 KiB, else four steps per
// power of two.
int64_t rounded(int64_t bytes) {
  if (bytes <= 4096) return std::max<int64_t>((bytes + kAlignment - 1) / kAlignment, 1) * kAlignment;
  int64_t step = 1024;
  while (step * 8 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// Memory in huge pages: fewer page faults at first touch, fewer misses of the address cache ever after.
void* obtain(int64_t size) {
  const bool huge = size >= 2 * kHugePage;
  void* block = nullptr;  // posix_memalign: aligned_alloc wants a size that is a multiple of the alignment
  const auto alignment = static_cast<size_t>(huge ? kHugePage : kAlignment);
  if (posix_memalign(&block, alignment, static_cast<size_t>(size)) != 0) return nullptr;
  if (huge) madvise(block, static_cast<size_t>(size), MADV_HUGEPAGE);
  return block;
}

struct Pool {
  std::mutex mutex;
  std::unordered_map<int64_t, std::vector<void*>> free_blocks;
  char* slab = nullptr;  // what is left of the newest
  int64_t slab_bytes = 0;
  MemoryStats stats;

  // Small blocks are cut from slabs, which are never given back.
  void* cut(int64_t size) {
    if (size >= large_bytes()) return obtain(size);
    if (size > slab_bytes) {
      void* fresh = obtain(kSlab);
      if (fresh == nullptr) return obtain(size);  // little is left, perhaps enough
      slab = static_cast<char*>(fresh);
      slab_bytes = kSlab;
    }
    char* block = slab;
    slab += size;
    slab_bytes -= size;
    return block;
  }
};

// Never destroyed: tensors with static storage may be freed after any destructor here.
Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

void release(Pool& p) {
  for (auto& [bytes, blocks] : p.free_blocks) {
    if (bytes < large_bytes()) continue;
    for (void* block : blocks) std::free(block);
    p.stats.cached_bytes -= bytes * static_cast<int64_t>(blocks.size());
    blocks.clear();
  }
}

// Blocks that are pinned stay so: pinning takes longer than most copies.
struct PinnedPool {
  std::mutex mutex;
  std::unordered_map<int64_t, std::vector<void*>> free_blocks;
  int64_t bytes = 0;  // in use and free
};

PinnedPool& pinned_pool() {
  static PinnedPool* instance = new PinnedPool;
  return *instance;
}

[[noreturn]] void fail_out_of_memory(std::string_view where, int64_t bytes, int64_t in_use) {
  const std::string wanted = bytes > 0 ? fmt::format("{} bytes wanted, ", bytes) : "";
  throw OutOfMemory(fmt::format("{} out of memory: {}{} in use", where, wanted, in_use));
}

// A device is used by one thread.
MemoryStats device_stats;

void* allocate_on(Device device, int64_t bytes) {
  void* pointer = device_memory(device)->allocate(bytes);
  if (pointer == nullptr) {
    throw OutOfMemory(
        fmt::format("[allocate] {}: out of memory: {} bytes wanted, {} in tensors, {} at most so far, {} in scratch "
                    "memory of kernels",
                    to_string(device), bytes, device_stats.live_bytes, device_stats.peak_bytes,
                    memory_stats(device).scratch_bytes));
  }
  device_stats.live_bytes += bytes;
  device_stats.peak_bytes = std::max(device_stats.peak_bytes, device_stats.live_bytes);
  return pointer;
}

void deallocate_on(Device device, void* pointer, int64_t bytes) noexcept {
  device_memory(device)->deallocate(pointer);
  device_stats.live_bytes -= bytes;
}

}  // namespace

void* allocate(int64_t bytes, Device device) {
  if (device.type != DeviceType::cpu) return allocate_on(device, bytes);
  const int64_t size = rounded(bytes);
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  void* block = nullptr;
  if (const auto found = p.free_blocks.find(size); found != p.free_blocks.end() && !found->second.empty()) {
    block = found->second.back();
    found->second.pop_back();
    p.stats.cached_bytes -= size;
  } else {
    block = p.cut(size);
    if (block == nullptr) {
      release(p);
      block = p.cut(size);
    }
    if (block == nullptr) fail_out_of_memory("[allocate]", size, p.stats.live_bytes);
  }
  p.stats.live_bytes += size;
  p.stats.peak_bytes = std::max(p.stats.peak_bytes, p.stats.live_bytes);
  return block;
}

void deallocate(void* pointer, int64_t bytes, Device device) noexcept {
  if (device.type != DeviceType::cpu) return deallocate_on(device, pointer, bytes);
  const int64_t size = rounded(bytes);
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  p.stats.live_bytes -= size;
  try {
    p.free_blocks[size].push_back(pointer);
    p.stats.cached_bytes += size;
  } catch (const std::bad_alloc&) {  // no memory to remember the block by; a piece of a slab is lost
    if (size >= large_bytes()) std::free(pointer);
  }
}

void* allocate_pinned(int64_t bytes, Device device) {
  if (device.type == DeviceType::cpu) return allocate(bytes);
  const int64_t size = rounded(bytes);
  PinnedPool& p = pinned_pool();
  const std::lock_guard lock(p.mutex);
  if (std::vector<void*>& blocks = p.free_blocks[size]; !blocks.empty()) {
    void* block = blocks.back();
    blocks.pop_back();
    return block;
  }
  void* block = device_memory(device)->allocate_pinned(size);
  if (block == nullptr) {
    fail(
        "[allocate] no pinned memory left for copies to {}: {} bytes wanted, {} in use or kept; lower data.prefetch or "
        "train.batch_size",
        to_string(device), size, p.bytes);
  }
  p.bytes += size;
  return block;
}

void deallocate_pinned(void* pointer, int64_t bytes, Device device) noexcept {
  if (device.type == DeviceType::cpu) return deallocate(pointer, bytes);
  PinnedPool& p = pinned_pool();
  const std::lock_guard lock(p.mutex);
  try {
    p.free_blocks[rounded(bytes)].push_back(pointer);
  } catch (const std::bad_alloc&) {  // no memory to remember the block by, which is lost
  }
}

MemoryStats memory_stats(Device device) {
  if (device.type != DeviceType::cpu) {
    MemoryStats stats = device_stats;
    stats.scratch_bytes = device_memory(device)->scratch_bytes();
    return stats;
  }
  const std::lock_guard lock(pool().mutex);
  return pool().stats;
}

void fail_out_of_memory(std::string_view where, int64_t bytes) {
  fail_out_of_memory(where, bytes, memory_stats().live_bytes);
}

void reset_peak_memory(Device device) {
  if (device.type != DeviceType::cpu) {
    device_stats.peak_bytes = device_stats.live_bytes;
    return;
  }
  const std::lock_guard lock(pool().mutex);
  pool().stats.peak_bytes = pool().stats.live_bytes;
}

void release_cached_memory() {
  const std::lock_guard lock(pool().mutex);
  release(pool());
}

}  // namespace luq
