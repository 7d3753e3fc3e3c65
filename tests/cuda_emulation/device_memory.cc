#include "tests/cuda_emulation/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "tests/cuda_emulation/emulation.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(address)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(address)
#endif

namespace luq::emulation {
namespace {

constexpr size_t kReserved = size_t{64} << 30, kAlignment = 256;
constexpr unsigned char kPoison = 0xcb, kCanary = 0xa5;

struct Allocation {
  size_t bytes = 0;
  uint8_t* pages = nullptr;  // where its pages begin; the last one is closed
  size_t page_bytes = 0;     // without the last one
};

struct Memory {
  uint8_t* base = nullptr;
  size_t used = 0;  // addresses are not used again, so that a stale pointer is found
  std::map<const uint8_t*, Allocation> live;
  int64_t bytes = 0;
  int opened = 0;
};

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

Memory& memory();

void write_error(const char* text) {
  const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
  static_cast<void>(ignored);
}

struct sigaction handler_before {};

void explain(int number, siginfo_t* info, void*) {
  const Memory& m = memory();
  const auto* address = static_cast<const uint8_t*>(info->si_addr);
  if (address >= m.base && address < m.base + kReserved) {
    write_error(m.opened > 0 ? "emulated CUDA: an access outside of every allocation of device memory\n"
                             : "emulated CUDA: the host touched device memory\n");
  }
  sigaction(number, &handler_before, nullptr);  // which the access meets when it is tried again
}

Memory& memory() {
  static Memory* the_memory = [] {
    auto* m = new Memory;
    void* base = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      std::perror("emulated CUDA: mmap");
      std::abort();
    }
    m->base = static_cast<uint8_t*>(base);
    return m;
  }();
  return *the_memory;
}

// Others (Catch, sanitizers) set handlers too: ours is the last, and leads to theirs.
void watch_accesses() {
  struct sigaction action {
  }, now{};
  sigaction(SIGSEGV, nullptr, &now);
  if (now.sa_sigaction == explain) return;
  handler_before = now;
  action.sa_sigaction = explain;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, nullptr);
}

void protect(const Allocation& a, int mode) {
  if (a.page_bytes > 0 && mprotect(a.pages, a.page_bytes, mode) != 0) {
    std::perror("emulated CUDA: mprotect");
    std::abort();
  }
}

const Allocation* find(const void* pointer, const uint8_t** begin) {
  const Memory& m = memory();
  auto found = m.live.upper_bound(static_cast<const uint8_t*>(pointer));
  if (found == m.live.begin()) return nullptr;
  --found;
  *begin = found->first;
  return &found->second;
}

}  // namespace

void* allocate_device(size_t bytes) {
  Memory& m = memory();
  watch_accesses();
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t page_bytes = (rounded + page_size() - 1) / page_size() * page_size();
  if (bytes > kReserved || m.used + page_bytes + page_size() > kReserved) return nullptr;
  Allocation a{bytes, m.base + m.used, page_bytes};
  m.used += page_bytes + page_size();
  protect(a, PROT_READ | PROT_WRITE);
  uint8_t* begin = a.pages + page_bytes - rounded;
  std::memset(a.pages, kCanary, static_cast<size_t>(begin - a.pages));
  std::fill(begin, begin + bytes, kPoison);
  std::fill(begin + bytes, begin + rounded, kCanary);
  ASAN_POISON_MEMORY_REGION(a.pages, static_cast<size_t>(begin - a.pages));
  ASAN_POISON_MEMORY_REGION(begin + bytes, rounded - bytes);
  if (m.opened == 0) protect(a, PROT_NONE);
  m.live[begin] = a;
  m.bytes += static_cast<int64_t>(bytes);
  return begin;
}

bool free_device(void* pointer) {
  Memory& m = memory();
  const auto found = m.live.find(static_cast<uint8_t*>(pointer));
  if (found == m.live.end()) return false;
  const Allocation a = found->second;
  ASAN_UNPOISON_MEMORY_REGION(a.pages, a.page_bytes);
  if (a.page_bytes > 0) {
    madvise(a.pages, a.page_bytes, MADV_DONTNEED);
    protect(a, PROT_NONE);
  }
  m.bytes -= static_cast<int64_t>(a.bytes);
  m.live.erase(found);
  return true;
}

bool is_device(const void* pointer) {
  const Memory& m = memory();
  const auto* address = static_cast<const uint8_t*>(pointer);
  return address >= m.base && address < m.base + kReserved;
}

bool is_allocated(const void* pointer, size_t bytes) {
  const uint8_t* begin = nullptr;
  const Allocation* a = find(pointer, &begin);
  const auto* address = static_cast<const uint8_t*>(pointer);
  return a != nullptr && bytes <= a->bytes && address + bytes <= begin + a->bytes;
}

OpenDevice::OpenDevice() {
  Memory& m = memory();
  watch_accesses();
  if (m.opened++ > 0) return;
  for (const auto& [begin, a] : m.live) protect(a, PROT_READ | PROT_WRITE);
}

OpenDevice::~OpenDevice() {
  Memory& m = memory();
  if (--m.opened > 0) return;
  for (const auto& [begin, a] : m.live) protect(a, PROT_NONE);
}

__attribute__((no_sanitize("address"))) const char* damaged_allocation() {
  static std::string text;
  for (const auto& [begin, a] : memory().live) {
    const uint8_t* end = a.pages + a.page_bytes;
    for (const uint8_t* p = a.pages; p < end; ++p) {
      if (p == begin) p += a.bytes;
      if (p < end && *p != kCanary) {
        text = "something wrote " + std::string(p < begin ? "before" : "behind") + " an allocation of " +
               std::to_string(a.bytes) + " bytes of device memory";
        return text.c_str();
      }
    }
  }
  return "";
}

int64_t allocated_bytes() { return memory().bytes; }

}  // namespace luq::emulation
