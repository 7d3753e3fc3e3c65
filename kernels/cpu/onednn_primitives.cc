// oneDNN does not look whether it got the memory of the code that it generates, and writes to a null pointer where it
// did not. So primitives are made one at a time by the thread that calls a kernel, before the call's threads begin, as
// follows. First some room is asked for, and given back: without it nothing is tried. Then, while a primitive is made,
// a write near address 0 by this thread counts as the lack of memory that it is. oneDNN is not used again after that.
#include "kernels/cpu/onednn_primitives.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "kernels/cpu/null_write.h"

namespace luq::kernels::onednn {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;
using luq::onednn::describe;
using luq::onednn::describe_backward;
using luq::onednn::with_scratchpad_argument;

constexpr size_t kCachedPrimitives = 512;  // of a thread that calls kernels
constexpr size_t kRoom = size_t{8} << 20;  // bytes; more than the code of any primitive takes

memory::desc float_desc(const memory::dims& dims, Tag tag, Type type = Type::f32) { return {dims, type, tag}; }

memory::dims weight_dims(const ConvShape& s) {
  if (s.groups == 1) return {s.o, s.c, s.kh, s.kw};
  return {s.groups, s.o_group(), s.c_group(), s.kh, s.kw};
}

// The weights as the contract stores them: (O, KH, KW, C / groups).
memory::desc stored_weights(const ConvShape& s) {
  return float_desc(weight_dims(s), s.groups == 1 ? Tag::ohwi : Tag::gohwi);
}

// The weights of a matrix product: an operand (o, c) or, forward, its transpose, or the float32 result.
memory::desc matrix_weights(const ConvShape& s, Phase phase, Type type) {
  if (phase == Phase::backward_weight) return float_desc({s.o, s.c}, Tag::ab);
  if (phase == Phase::backward_data) return float_desc({s.o, s.c}, Tag::ab, type);
  return float_desc({s.c, s.o}, Tag::ba, type);
}

template <typename Made>
Part part_of(const typename Made::primitive_desc& desc, const memory::desc& x, const memory::desc& w,
             const memory::desc& y, const memory::desc& bias) {
  return {
      .run = {Made(desc), desc.scratchpad_desc()}, .reorder = {}, .x = x, .w = w, .y = y, .bias = bias, .stored = {}};
}

Part make_matrix_product(const ConvShape& s, Phase phase, Type type) {
  const dnnl::primitive_attr attributes = with_scratchpad_argument();
  const memory::desc x = float_desc({s.n, s.c}, Tag::ab, type), y = float_desc({s.n, s.o}, Tag::ab, type);
  const memory::desc w = matrix_weights(s, phase, type), bias = float_desc({1, s.o}, Tag::ab);
  using dnnl::matmul;
  switch (phase) {
    case Phase::forward:  // y (n, o) = x w^T
      return part_of<matmul>(describe<matmul>(engine(), attributes, x, w, y), x, w, y, bias);
    case Phase::forward_bias:
      return part_of<matmul>(describe<matmul>(engine(), attributes, x, w, bias, y), x, w, y, bias);
    case Phase::backward_data:  // dx (n, c) = dy w
      return part_of<matmul>(describe<matmul>(engine(), attributes, y, w, x), x, w, y, bias);
    case Phase::backward_weight:
      break;  // dw (o, c) = dy^T x
  }
  const memory::desc dy = float_desc({s.o, s.n}, Tag::ba, type);
  return part_of<matmul>(describe<matmul>(engine(), attributes, dy, x, w), x, w, dy, bias);
}

Part make_convolution(const ConvShape& s, Phase phase, Type type) {
  const dnnl::primitive_attr attributes = with_scratchpad_argument();
  const memory::desc x = float_desc({s.n, s.c, s.h, s.w}, Tag::nhwc, type);
  const memory::desc y = float_desc({s.n, s.o, s.oh(), s.ow()}, Tag::nhwc, type);
  const memory::desc w = float_desc(weight_dims(s), Tag::any, type), bias = float_desc({s.o}, Tag::x);
  const memory::dims stride{s.stride_h, s.stride_w}, dilation{s.dilation_h - 1, s.dilation_w - 1};
  const memory::dims padding{s.pad_h, s.pad_w};
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto training = dnnl::prop_kind::forward_training;
  using Forward = dnnl::convolution_forward;
  if (phase == Phase::forward_bias) {
    const auto desc =
        describe<Forward>(engine(), attributes, training, direct, x, w, bias, y, stride, dilation, padding, padding);
    return part_of<Forward>(desc, x, desc.weights_desc(), y, bias);
  }
  const auto forward =
      describe<Forward>(engine(), attributes, training, direct, x, w, y, stride, dilation, padding, padding);
  if (phase == Phase::forward) return part_of<Forward>(forward, x, forward.weights_desc(), y, bias);
  if (phase == Phase::backward_data) {
    using Backward = dnnl::convolution_backward_data;
    const auto desc =
        describe_backward<Backward>(engine(), attributes, forward, direct, x, w, y, stride, dilation, padding, padding);
    return part_of<Backward>(desc, x, desc.weights_desc(), y, bias);
  }
  using BackwardWeights = dnnl::convolution_backward_weights;
  const memory::desc dw = float_desc(weight_dims(s), Tag::any);
  const auto desc = describe_backward<BackwardWeights>(engine(), attributes, forward, direct, x, dw, y, stride,
                                                       dilation, padding, padding);
  return part_of<BackwardWeights>(desc, x, desc.diff_weights_desc(), y, bias);
}

// Adds what brings the weights into the layout that the primitive asks for, or out of it.
void add_reorder(const ConvShape& s, Phase phase, Part& part) {
  const bool matrix = is_matrix_product(s), result = phase == Phase::backward_weight;
  part.stored = matrix ? matrix_weights(s, phase, Type::f32) : stored_weights(s);
  if (part.w == part.stored) return;
  const memory::desc &from = result ? part.w : part.stored, &to = result ? part.stored : part.w;
  const dnnl::reorder::primitive_desc desc(engine(), from, engine(), to, with_scratchpad_argument());
  part.reorder = {dnnl::reorder(desc), desc.scratchpad_desc()};
}

Part make_part(const ConvShape& s, Phase phase, Type type) {
  Part part = is_matrix_product(s) ? make_matrix_product(s, phase, type) : make_convolution(s, phase, type);
  add_reorder(s, phase, part);
  return part;
}

bool have_room() {
  void* room = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) {
    note_no_memory(static_cast<int64_t>(kRoom));
    return false;
  }
  munmap(room, kRoom);
  return true;
}

using Cache = std::map<std::tuple<ConvShape, Phase, Type>, Part>;

// Null, which is noted, where there is no memory. oneDNN plans for one thread.
const Part* part_for(Cache& cache, const ConvShape& s, Phase phase, Type type) {
  static std::mutex mutex;
  static bool broken = false;  // oneDNN may hold locks
  const std::tuple key(s, phase, type);
  if (const auto found = cache.find(key); found != cache.end()) return &found->second;
  const std::lock_guard lock(mutex);
  const Part* made = nullptr;
  if (broken || !have_room()) {
    if (broken) note_no_memory(0);
    return nullptr;
  }
#pragma omp parallel num_threads(1)
  {
    omp_set_num_threads(1);
    auto make = [&] {
      try {
        made = &cache.emplace(key, make_part(s, phase, type)).first->second;
      } catch (...) {  // which oneDNN may call another error
      }
    };
    broken = !without_null_writes(make);
  }
  if (made == nullptr) note_no_memory(0);
  return made;
}

}  // namespace

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

bool is_matrix_product(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0 && s.groups == 1;
}

int64_t Parts::scratch_bytes() const {
  int64_t bytes = 0;
  for (const Part* part : {full, last}) {
    bytes = std::max(bytes, part->run.scratch_bytes());
    if (part->reorders()) bytes = std::max(bytes, part->reorder.scratch_bytes());
  }
  return bytes;
}

Parts parts_for(const ConvShape& s, int64_t images, Phase phase, Type type) {
  thread_local Cache cache;
  if (cache.size() + 2 > kCachedPrimitives) cache.clear();
  ConvShape full = s, last = s;
  full.n = std::min(images, s.n);
  last.n = s.n % images == 0 ? full.n : s.n % images;
  Parts parts{.images = full.n};
  try {
    parts.full = part_for(cache, full, phase, type);
    if (parts.full != nullptr) parts.last = part_for(cache, last, phase, type);
  } catch (const std::bad_alloc&) {
    note_no_memory(0);
  }
  return parts;
}

}  // namespace luq::kernels::onednn
