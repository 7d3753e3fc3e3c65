// Memory for tensors. The host's: 64-byte aligned blocks, kept for reuse when freed, because the first touch of fresh
// pages costs more than most passes over them; thread-safe. A device's: its own allocator's.
#pragma once

#include <cstdint>

#include "luq/core/device.h"

namespace luq {

struct MemoryStats {
  int64_t live_bytes = 0;    // in tensors now
  int64_t peak_bytes = 0;    // most that was live at once since the last reset_peak
  int64_t cached_bytes = 0;  // freed and kept
  // Of a device: beside tensors, for kernels and the libraries behind them. It grows, and is not given back.
  int64_t scratch_bytes = 0;
};

// bytes >= 0; throws OutOfMemory naming the size when there is none left.
void* allocate(int64_t bytes, Device device = {});
void deallocate(void* pointer, int64_t bytes, Device device = {}) noexcept;

// Memory of the host that a device's uploads may come from (DeviceMemory::start_upload), kept for reuse when freed;
// thread-safe. For the CPU any memory is. Throws Error when there is none left.
void* allocate_pinned(int64_t bytes, Device device);
void deallocate_pinned(void* pointer, int64_t bytes, Device device) noexcept;

MemoryStats memory_stats(Device device = {});
void reset_peak_memory(Device device = {});
// Gives freed blocks of 4 MiB and more back to the system; smaller ones stay cached.
void release_cached_memory();

}  // namespace luq
