// CUDA kernels on the CPU: one fiber for each CUDA thread, one block after the other.
//
// The scheduler is hostile. It runs one warp, chosen at random, as far ahead as barriers allow, or changes between
// warps at every warp-wide operation; lanes run in random order between two such operations, blocks in random order.
// Shared and device memory begin poisoned, asynchronous copies to shared memory arrive at the wait and not before, and
// what is queued on a stream happens when somebody waits for it, in any order that streams and events allow.
//
// What is found: reads of memory that was never written and missing barriers or waits (wrong results, for some seed), a
// barrier or a warp-wide operation that not all threads reach, accesses outside of device and shared memory, device
// memory touched by the host, host memory handed to a kernel, and work queued on different streams without an event.
// An error is sticky, as on a device: every later call returns it, and cudaGetErrorString gives the whole message.
#pragma once

#include <cstdint>
#include <string>

namespace luq::emulation {

// Of the scheduler; LUQ_CUDA_SEED in the environment sets the first one.
void set_seed(uint64_t seed);
uint64_t seed();

// LUQ_CUDA_EMULATED_BYTES in the environment is the size of the device's memory (8 GiB); with 0 there is no device.

// Forgets a sticky error, as a new process would, with all streams' work. Device memory stays.
void reset();

// Bytes of device memory that are allocated.
int64_t allocated_bytes();

}  // namespace luq::emulation
