#include "kernels/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace luq::kernels {
namespace {

thread_local int64_t noted_bytes = -1;

}  // namespace

void note_no_memory(int64_t bytes) { noted_bytes = bytes; }
int64_t take_noted_bytes() { return std::exchange(noted_bytes, -1); }

Scratch::~Scratch() { std::free(data_); }

void* Scratch::bytes(int64_t wanted) {
  constexpr int64_t huge_page = int64_t{2} << 20;
  int64_t size = (std::max<int64_t>(wanted, 0) + 2 * kSlack) / kSlack * kSlack;
  if (size <= capacity_) return data_;
  const bool large = size > huge_page;
  if (large) size = (size + huge_page - 1) / huge_page * huge_page;
  std::free(data_);
  data_ = std::aligned_alloc(static_cast<size_t>(large ? huge_page : kSlack), static_cast<size_t>(size));
  capacity_ = data_ != nullptr ? size : 0;
  if (data_ == nullptr) {
    note_no_memory(size);
  } else if (large) {
    madvise(data_, static_cast<size_t>(size), MADV_HUGEPAGE);
  }
  return data_;
}

}  // namespace luq::kernels
