#include "tests/cuda_emulation/scheduler.h"

#include <luq_cuda/ptx.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "tests/cuda_emulation/device_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define LUQ_START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define LUQ_FINISH_SWITCH(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#else
#define LUQ_START_SWITCH(save, bottom, size) static_cast<void>(0)
#define LUQ_FINISH_SWITCH(saved, bottom, size) static_cast<void>(0)
#endif

namespace luq::emulation {
namespace {

constexpr unsigned kLanes = 32;
constexpr size_t kStackBytes = size_t{256} << 10, kDepositBytes = 48;
constexpr unsigned char kPoison = 0xdb;

enum class State { ready, at_barrier, at_warp, ended };

using Deposit = std::array<unsigned char, kDepositBytes>;
using Deposits = std::array<Deposit, kLanes>;  // of the lanes of a warp

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes, filled;
};

struct Stack {
  Stack() {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, kStackBytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw KernelError("no memory for the stack of a thread");
    base = static_cast<char*>(memory) + page;
    mprotect(base, kStackBytes, PROT_READ | PROT_WRITE);
  }
  char* base;
};

// Hands a thread's stack to Boost, and takes it back as it is.
struct StackAllocator {
  Stack* stack;
  boost::context::stack_context allocate() {
    boost::context::stack_context context;
    context.size = kStackBytes;
    context.sp = stack->base + kStackBytes;
    return context;
  }
  void deallocate(boost::context::stack_context&) {}
};

struct Thread {
  ThreadPosition position;
  unsigned lane = 0;
  State state = State::ready;
  const char* waits_at = "";
  unsigned mask = 0;                                // of the warp-wide operation it waits at
  Deposit deposit{};                                // what it brings to it
  std::shared_ptr<const Deposits> result;           // what all lanes brought
  std::vector<std::vector<PendingCopy>> copies{1};  // committed groups, oldest first; the last one is open
  boost::context::fiber fiber, scheduler;
  Stack stack;
  void* fake_stack = nullptr;
};

struct Block {
  const std::string& kernel;
  dim3 grid;
  uint3 index;
  const std::function<void()>& body;
  std::vector<std::unique_ptr<Thread>>& threads;
  unsigned count;
  unsigned char* shared;
  size_t shared_bytes;
  std::mt19937_64& random;
  std::string error;
  bool unwinding = false;  // after an error: threads that wait leave their kernel
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

struct Unwind {};

Block* current_block = nullptr;
Thread* current_thread = nullptr;

[[noreturn]] void refuse(const std::string& what) {
  const Block& b = *current_block;
  const uint3& t = current_thread->position.thread;
  throw KernelError("kernel " + b.kernel + ", block (" + std::to_string(b.index.x) + ", " + std::to_string(b.index.y) +
                    ", " + std::to_string(b.index.z) + "), thread (" + std::to_string(t.x) + ", " +
                    std::to_string(t.y) + ", " + std::to_string(t.z) + "): " + what);
}

Thread& running(const char* what) {
  if (current_thread == nullptr) throw KernelError(std::string(what) + " outside of a kernel");
  return *current_thread;
}

// From a thread back to the scheduler, until that runs it again.
void yield(Thread& t) {
  LUQ_START_SWITCH(&t.fake_stack, current_block->scheduler_stack, current_block->scheduler_stack_bytes);
  t.scheduler = std::move(t.scheduler).resume();
  LUQ_FINISH_SWITCH(t.fake_stack, &current_block->scheduler_stack, &current_block->scheduler_stack_bytes);
  if (current_block->unwinding) throw Unwind{};
}

void run_thread(Thread& t) {
  current_thread = &t;
  void* fake_stack = nullptr;
  static_cast<void>(fake_stack);
  LUQ_START_SWITCH(&fake_stack, t.stack.base, kStackBytes);
  t.fiber = std::move(t.fiber).resume();
  LUQ_FINISH_SWITCH(fake_stack, nullptr, nullptr);
  current_thread = nullptr;
}

void start(Thread& t, Block& b) {
  t.state = State::ready;
  t.copies.assign(1, {});
  t.fiber = boost::context::fiber(std::allocator_arg, StackAllocator{&t.stack}, [&t, &b](boost::context::fiber&& from) {
    LUQ_FINISH_SWITCH(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
    t.scheduler = std::move(from);
    try {
      if (!b.unwinding) b.body();
    } catch (const Unwind&) {
    } catch (const KernelError& error) {
      if (b.error.empty()) b.error = error.what();
    }
    t.state = State::ended;
    LUQ_START_SWITCH(nullptr, b.scheduler_stack, b.scheduler_stack_bytes);
    return std::move(t.scheduler);
  });
}

std::string where(const Thread& t) {
  const uint3& p = t.position.thread;
  return "thread (" + std::to_string(p.x) + ", " + std::to_string(p.y) + ", " + std::to_string(p.z) + ") " +
         (t.state == State::ended ? "has ended" : std::string("waits at ") + t.waits_at);
}

// The threads of one warp.
struct Warp {
  Block& b;
  unsigned first, lanes;

  Thread& operator[](unsigned lane) const { return *b.threads[first + lane]; }

  bool can_run() const {
    for (unsigned lane = 0; lane < lanes; ++lane) {
      if ((*this)[lane].state == State::ready) return true;
    }
    return false;
  }

  // Each lane that can runs up to where it waits.
  void run_lanes() const {
    std::array<unsigned, kLanes> order{};
    std::iota(order.begin(), order.begin() + lanes, 0u);
    std::shuffle(order.begin(), order.begin() + lanes, b.random);
    for (unsigned i = 0; i < lanes && b.error.empty(); ++i) {
      if ((*this)[order[i]].state == State::ready) run_thread((*this)[order[i]]);
    }
  }

  // Lets pass the lanes whose warp-wide operation all have reached.
  void complete_operations() const {
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const Thread& t = (*this)[lane];
      if (t.state != State::at_warp) continue;
      bool complete = true;
      for (unsigned other = 0; other < kLanes && complete; ++other) {
        if ((t.mask >> other & 1u) == 0) continue;
        if (other >= lanes) {
          b.error = "kernel " + b.kernel + ": the mask of " + t.waits_at + " names lanes that the block does not have";
          return;
        }
        const Thread& o = (*this)[other];
        complete = o.state == State::at_warp && o.mask == t.mask && std::strcmp(o.waits_at, t.waits_at) == 0;
      }
      if (!complete) continue;
      const auto all = std::make_shared<Deposits>();
      const unsigned mask = t.mask;
      for (unsigned other = 0; other < lanes; ++other) {
        if (mask >> other & 1u) (*all)[other] = (*this)[other].deposit;
      }
      for (unsigned other = 0; other < lanes; ++other) {
        if ((mask >> other & 1u) == 0) continue;
        (*this)[other].result = all;
        (*this)[other].state = State::ready;
      }
    }
  }
};

void deadlock(Block& b) {
  const Thread* one = nullptr;
  for (unsigned i = 0; i < b.count && one == nullptr; ++i) {
    if (b.threads[i]->state != State::ended) one = b.threads[i].get();
  }
  for (unsigned i = 0; i < b.count; ++i) {
    const Thread& other = *b.threads[i];
    const bool same =
        other.state == one->state && std::strcmp(other.waits_at, one->waits_at) == 0 && other.mask == one->mask;
    if (same) continue;
    b.error = "kernel " + b.kernel + ", block (" + std::to_string(b.index.x) + ", " + std::to_string(b.index.y) + ", " +
              std::to_string(b.index.z) + "): " + where(*one) + ", and " + where(other);
    return;
  }
  b.error = "kernel " + b.kernel + ": " + where(*one) + ", whose mask names lanes that are elsewhere";
}

void run_block(Block& b) {
  std::memset(b.shared, kPoison, b.shared_bytes);
  for (unsigned i = 0; i < b.count; ++i) start(*b.threads[i], b);
  current_block = &b;
  std::vector<Warp> warps;
  for (unsigned first = 0; first < b.count; first += kLanes) {
    warps.push_back({b, first, std::min(kLanes, b.count - first)});
  }
  // One warp far ahead of the others, or a change at every operation.
  const bool runs_ahead = b.random() % 4 != 0;
  std::vector<size_t> runnable;
  while (b.error.empty()) {
    runnable.clear();
    for (size_t w = 0; w < warps.size(); ++w) {
      if (warps[w].can_run()) runnable.push_back(w);
    }
    if (runnable.empty()) {
      unsigned at_barrier = 0, ended = 0;
      for (unsigned i = 0; i < b.count; ++i) {
        at_barrier += b.threads[i]->state == State::at_barrier;
        ended += b.threads[i]->state == State::ended;
      }
      if (ended == b.count) break;
      if (at_barrier != b.count) {
        deadlock(b);
        break;
      }
      for (unsigned i = 0; i < b.count; ++i) b.threads[i]->state = State::ready;
      continue;
    }
    const Warp& warp = warps[runnable[b.random() % runnable.size()]];
    do {
      warp.run_lanes();
      if (b.error.empty()) warp.complete_operations();
    } while (runs_ahead && b.error.empty() && warp.can_run());
  }
  b.unwinding = true;
  for (unsigned i = 0; i < b.count; ++i) {
    if (b.threads[i]->state != State::ended) run_thread(*b.threads[i]);
  }
  current_block = nullptr;
}

// Brings a deposit to a warp-wide operation and gives what all lanes brought.
std::shared_ptr<const Deposits> meet(const char* what, unsigned mask, const void* deposit, size_t bytes) {
  Thread& t = running(what);
  if ((mask >> t.lane & 1u) == 0) refuse(std::string("the mask of ") + what + " does not name the lane that calls it");
  t.waits_at = what;
  t.mask = mask;
  t.deposit = {};
  if (bytes > 0) std::memcpy(t.deposit.data(), deposit, bytes);
  t.state = State::at_warp;
  yield(t);
  return std::move(t.result);
}

bool in_shared(const void* pointer, size_t bytes) {
  const Block& b = *current_block;
  const auto* address = static_cast<const unsigned char*>(pointer);
  return address >= b.shared && address + bytes <= b.shared + b.shared_bytes;
}

void deliver(const PendingCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.filled);
  std::memset(static_cast<char*>(copy.to) + copy.filled, 0, copy.bytes - copy.filled);
}

// Shared memory that ends at a closed page.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t rounded = (bytes + 127) / 128 * 128, pages = (rounded + page - 1) / page * page;
    mapped_ = pages + page;
    void* memory = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw KernelError("no memory for the shared memory of a block");
    base_ = static_cast<unsigned char*>(memory);
    mprotect(base_ + pages, page, PROT_NONE);
    begin_ = base_ + pages - rounded;
    slack_ = rounded - bytes;
    std::memset(begin_ + bytes, kPoison, slack_);
    end_ = begin_ + bytes;
  }
  ~SharedMemory() { munmap(base_, mapped_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  unsigned char* begin() const { return begin_; }
  bool intact() const {
    return std::all_of(end_, end_ + slack_, [](unsigned char c) { return c == kPoison; });
  }

 private:
  unsigned char *base_, *begin_, *end_;
  size_t mapped_, slack_;
};

}  // namespace

void run_grid(const std::string& kernel, const dim3& grid, const dim3& block, size_t shared_bytes,
              const std::function<void()>& body, std::mt19937_64& random) {
  static std::vector<std::unique_ptr<Thread>> threads;  // kept for the next launch, for their stacks
  const unsigned count = block.x * block.y * block.z;
  while (threads.size() < count) threads.push_back(std::make_unique<Thread>());
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = *threads[i];
    t.lane = i % kLanes;
    t.position.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    t.position.block_extent = block;
    t.position.grid_extent = grid;
  }
  const SharedMemory shared(shared_bytes);
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  for (const uint64_t number : order) {
    const uint3 index{static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                      static_cast<unsigned>(number / grid.x / grid.y)};
    for (unsigned i = 0; i < count; ++i) threads[i]->position.block = index;
    Block b{kernel, grid, index, body, threads, count, shared.begin(), shared_bytes, random, ""};
    run_block(b);
    if (b.error.empty() && !shared.intact()) b.error = "kernel " + kernel + ": wrote behind its shared memory";
    if (!b.error.empty()) throw KernelError(b.error);
  }
}

const ThreadPosition& position() { return running("threadIdx").position; }

uint64_t shuffle(unsigned mask, uint64_t bits, Shuffle kind, unsigned operand, int width) {
  const unsigned lane = running("__shfl_sync").lane;
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    refuse("the width of __shfl_sync is no power of two up to 32");
  const auto w = static_cast<unsigned>(width);
  const unsigned first = lane & ~(w - 1), own = lane & (w - 1);
  unsigned source = own;
  if (kind == Shuffle::index) source = operand & (w - 1);
  if (kind == Shuffle::up && operand <= own) source = own - operand;
  if (kind == Shuffle::down && own + operand < w) source = own + operand;
  if (kind == Shuffle::exclusive_or && (own ^ operand) < w) source = own ^ operand;
  const auto all = meet("__shfl_sync", mask, &bits, sizeof bits);
  if ((mask >> (first + source) & 1u) == 0) refuse("__shfl_sync reads a lane that its mask does not name");
  std::memcpy(&bits, (*all)[first + source].data(), sizeof bits);
  return bits;
}

void* shared_memory(size_t bytes, size_t alignment) {
  running("shared_memory");
  const Block& b = *current_block;
  if (bytes > b.shared_bytes) {
    refuse("uses " + std::to_string(bytes) + " bytes of shared memory, and the launch gave " +
           std::to_string(b.shared_bytes));
  }
  if (reinterpret_cast<uintptr_t>(b.shared) % alignment != 0) refuse("shared memory of an alignment above 128");
  return b.shared;
}

void check_global(const void* pointer, size_t bytes, const char* what) {
  running(what);
  if (!is_allocated(pointer, bytes)) refuse(std::string(what) + " of what is not device memory");
  if (reinterpret_cast<uintptr_t>(pointer) % bytes != 0)
    refuse(std::string(what) + " of an address that is not aligned");
}

void copy_async(void* shared, const void* global, size_t bytes, size_t filled) {
  Thread& t = running("copy_async");
  if (!in_shared(shared, bytes) || reinterpret_cast<uintptr_t>(shared) % bytes != 0) {
    refuse("copy_async to what is not 16 aligned bytes of shared memory");
  }
  if (filled > 0) {
    if (!is_allocated(global, filled)) refuse("copy_async of what is not device memory");
    if (reinterpret_cast<uintptr_t>(global) % bytes != 0) refuse("copy_async of an address that is not aligned");
  }
  t.copies.back().push_back({shared, global, bytes, filled});
}

void commit_copies() { running("commit_copies").copies.emplace_back(); }

void wait_for_copies(int groups_left) {
  Thread& t = running("wait_for_copies");
  while (t.copies.size() > static_cast<size_t>(groups_left) + 1) {
    for (const PendingCopy& copy : t.copies.front()) deliver(copy);
    t.copies.erase(t.copies.begin());
  }
}

void mma_int8(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const int (&c)[4], bool unsigned_b) {
  struct Operands {
    unsigned a[4], b[2];
  } own{};
  std::copy(a, a + 4, own.a);
  std::copy(b, b + 2, own.b);
  const int before[4] = {c[0], c[1], c[2], c[3]};
  const unsigned lane = running("mma").lane;
  const auto all = meet("mma", 0xffffffffu, &own, sizeof own);
  const auto byte = [](unsigned word, unsigned i) {
    return static_cast<int>(static_cast<int8_t>(word >> (8 * i) & 0xffu));
  };
  const auto byte_of_b = [&](unsigned word, unsigned i) {
    return unsigned_b ? static_cast<int>(word >> (8 * i) & 0xffu) : byte(word, i);
  };
  const auto operands = [&](unsigned of) {
    Operands o;
    std::memcpy(&o, (*all)[of].data(), sizeof o);
    return o;
  };
  const unsigned group = lane / 4, pair = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row_half = i / 2, column = pair * 2 + i % 2;
    int64_t sum = before[i];
    for (unsigned quarter = 0; quarter < 4; ++quarter) {
      const Operands row = operands(group * 4 + quarter), col = operands(column * 4 + quarter);
      for (unsigned half = 0; half < 2; ++half) {
        for (unsigned k = 0; k < 4; ++k) sum += byte(row.a[half * 2 + row_half], k) * byte_of_b(col.b[half], k);
      }
    }
    d[i] = static_cast<int>(sum);
  }
}

void load_matrix(unsigned* r, int matrices, bool transposed, const void* shared_row) {
  const unsigned lane = running("load_matrix").lane;
  const auto all = meet("load_matrix", 0xffffffffu, &shared_row, sizeof shared_row);
  const auto element = [&](int matrix, unsigned row, unsigned column) {
    const char* begin = nullptr;
    std::memcpy(&begin, (*all)[static_cast<unsigned>(matrix) * 8 + row].data(), sizeof begin);
    if (!in_shared(begin, 16) || reinterpret_cast<uintptr_t>(begin) % 16 != 0) {
      refuse("load_matrix of what is not 16 aligned bytes of shared memory");
    }
    uint16_t value = 0;
    std::memcpy(&value, begin + column * 2, 2);
    return unsigned{value};
  };
  const unsigned line = lane / 4, place = lane % 4 * 2;
  for (int m = 0; m < matrices; ++m) {
    r[m] = transposed ? element(m, place, line) | element(m, place + 1, line) << 16
                      : element(m, line, place) | element(m, line, place + 1) << 16;
  }
}

}  // namespace luq::emulation

using namespace luq::emulation;

void __syncthreads() {
  Thread& t = running("__syncthreads");
  t.waits_at = "__syncthreads";
  t.mask = 0;
  t.state = State::at_barrier;
  yield(t);
}

void __syncwarp(unsigned mask) { meet("__syncwarp", mask, nullptr, 0); }

unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char own = predicate != 0;
  const auto all = meet("__ballot_sync", mask, &own, 1);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1u) != 0 && (*all)[lane][0] != 0) votes |= 1u << lane;
  }
  return votes;
}
int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// The highest bit of a selector's digit has no meaning, other than in prmt.
unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  return luq::device::permute_bytes(x, y, selector & 0x7777u);
}

int __dp4a(int a, int b, int c) {
  int sum = c;
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<int8_t>(static_cast<unsigned>(a) >> (8 * i)) *
           static_cast<int8_t>(static_cast<unsigned>(b) >> (8 * i));
  }
  return sum;
}
