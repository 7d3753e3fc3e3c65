// Float convolutions and linear layers on oneDNN, on float32 or bfloat16 activations.
//
// Products of bfloat16 are left to oneDNN only where the CPU multiplies them faster than float32. Elsewhere a part (see
// below) is widened, computed in float32 and rounded, while it is in the cache; the weights are rounded to bfloat16
// either way, so that both compute the same sums, if in another order.
//
// oneDNN's sums may depend on how it shares work among threads, so it never does: the batch is cut into parts whose
// number follows from the shape alone, each part runs on one thread, and threads take parts. The partial weight
// gradients of the parts are added in their order. A part is a primitive of its own, made once for a shape and kept.
//
// Activations stay in NHWC. Weights are brought into the layout that the primitive asks for, once per call.
// Convolutions of single pixels (1x1, no stride or padding, one group; linear layers) are matrix products over all
// pixels.

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <unordered_map>
#include <utility>

#include "kernels/cpu/onednn_primitives.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

using dnnl::memory;
using onednn::engine;
using onednn::is_matrix_product;
using onednn::Part;
using onednn::Parts;
using onednn::Phase;
using onednn::Primitive;
using Type = memory::data_type;
using Arguments = std::unordered_map<int, memory>;

constexpr int64_t kParts = 16;
constexpr int64_t kPartRows = 32;  // of a matrix product: fewer rows would not repay reading the weights
constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of all partial weight gradients together

enum class Task { run, prepare };

// A matrix product seen as n rows of one pixel.
ConvShape as_rows(const ConvShape& s) {
  if (!is_matrix_product(s)) return s;
  ConvShape rows;
  rows.n = s.n * s.h * s.w;
  rows.c = s.c;
  rows.o = s.o;
  return rows;
}

memory wrap(const memory::desc& desc, const void* data) { return memory(desc, engine(), const_cast<void*>(data)); }

int64_t most_parts(const ConvShape& s) {
  return is_matrix_product(s) ? std::clamp<int64_t>(s.n / kPartRows, 1, kParts) : kParts;
}

// Images of each part but the last, where there are at most `parts`.
int64_t images_of_part(const ConvShape& s, int64_t parts) { return (s.n + parts - 1) / parts; }

ConvShape part_of(const ConvShape& s, int64_t images) {
  ConvShape part = s;
  part.n = std::min(images, s.n);
  return part;
}

// Calls run(part's shape, first image) for every part, on one thread each.
template <typename Run>
void for_each_part(const ConvShape& s, int64_t images, const Run& run) {
  std::atomic<bool> failed = false;
#pragma omp parallel
  {
    omp_set_num_threads(1);  // of what this thread starts in here
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < s.n; first += images) {
      try {
        run(part_of(s, std::min(images, s.n - first)), first);
      } catch (const std::exception&) {  // no memory for a small object of oneDNN's interface
        failed = true;
      }
    }
  }
  if (failed) note_no_memory(0);
}

void execute(const Primitive& primitive, Arguments arguments, void* scratch) {
  static thread_local dnnl::stream stream(engine());
  if (primitive.scratch_bytes() > 0) arguments.emplace(DNNL_ARG_SCRATCHPAD, wrap(primitive.scratchpad, scratch));
  primitive.primitive.execute(stream, arguments);
  stream.wait();
}

// The arithmetic of a call: bfloat16 as it is (native), or in float32.
template <bool kNative>
Type computed_in(ConstFloats x) {
  return kNative && x.bfloat16 ? Type::bf16 : Type::f32;
}

void convert(ConstFloats from, int64_t count, Floats to) { kernels_for({}).convert.run({from, count, to}); }

ConstFloats moved(ConstFloats x, int64_t first) {
  return x.bfloat16 ? ConstFloats(x.as<BFloat16>() + first) : ConstFloats(x.as<float>() + first);
}
Floats moved(Floats x, int64_t first) {
  return x.bfloat16 ? Floats(x.as<BFloat16>() + first) : Floats(x.as<float>() + first);
}

// Memory of a call that each of its threads has for itself; get() is called before they begin.
class OfEachThread {
 public:
  bool get(int64_t bytes) {
    share_ = Scratch::share<uint8_t>(bytes);
    data_ = scratch_.get<uint8_t>(bytes, omp_get_max_threads());
    return data_ != nullptr;
  }
  bool get_floats(int64_t count) { return get(count * static_cast<int64_t>(sizeof(float))); }
  void* own() const { return data_ + omp_get_thread_num() * share_; }
  float* own_floats() const { return static_cast<float*>(own()); }

 private:
  Scratch scratch_;
  uint8_t* data_ = nullptr;
  int64_t share_ = 0;
};

// An operand of a part, in the type computed in; `wide` has room for it.
const void* operand(ConstFloats x, int64_t count, Type type, float* wide) {
  if (!x.bfloat16 || type == Type::bf16) return x.data;
  convert(x, count, wide);
  return wide;
}

// The result of a part: run(pointer) writes it in the type computed in.
template <typename Run>
void write_result(Floats y, int64_t count, Type type, float* wide, const Run& run) {
  if (!y.bfloat16 || type == Type::bf16) return run(y.data);
  run(wide);
  convert(wide, count, y);
}

// The weights of a call forward or of backward-data, in the layouts that its parts ask for.
class PreparedWeights {
 public:
  bool get_memory(const Parts& parts, int64_t count, bool rounds) {
    parts_ = parts;
    const auto bytes = [](const Part* part) {
      return part->reorders() ? static_cast<int64_t>(part->w.get_size()) : int64_t{0};
    };
    wide_ = wide_scratch_.get<float>(rounds ? count : 0);
    narrow_ = narrow_scratch_.get<BFloat16>(rounds ? count : 0);
    full_ = full_scratch_.get<uint8_t>(bytes(parts.full));
    last_ = last_scratch_.get<uint8_t>(same_layout() ? 0 : bytes(parts.last));
    return wide_ != nullptr && narrow_ != nullptr && full_ != nullptr && last_ != nullptr;
  }
  // rounds: to bfloat16, whose values are then computed with in float32.
  void fill(const float* w, int64_t count, bool rounds, void* scratch) {
    stored_ = w;
    if (rounds) {
      convert(w, count, narrow_);
      convert(narrow_, count, wide_);
      stored_ = wide_;
    }
    reorder(*parts_.full, full_, scratch);
    if (!same_layout()) reorder(*parts_.last, last_, scratch);
  }
  memory of(const Part& part) const {
    if (!part.reorders()) return wrap(part.w, stored_);
    return wrap(part.w, &part == parts_.full || same_layout() ? full_ : last_);
  }

 private:
  bool same_layout() const { return parts_.last->w == parts_.full->w; }
  void reorder(const Part& part, void* to, void* scratch) const {
    if (!part.reorders()) return;
    execute(part.reorder, {{DNNL_ARG_FROM, wrap(part.stored, stored_)}, {DNNL_ARG_TO, wrap(part.w, to)}}, scratch);
  }

  Scratch wide_scratch_, narrow_scratch_, full_scratch_, last_scratch_;
  Parts parts_;
  const float* stored_ = nullptr;
  float* wide_ = nullptr;
  BFloat16* narrow_ = nullptr;
  uint8_t *full_ = nullptr, *last_ = nullptr;
};

// The calling thread keeps this from call to call.
struct CallMemory {
  PreparedWeights weights;
  OfEachThread x, y, w, library;
  Scratch partials;
};

CallMemory& call_memory() {
  static thread_local CallMemory memory;
  return memory;
}

// For a call forward or of backward-data whose parts have operands as large as `part`.
bool get_memory(CallMemory& memory, const Parts& parts, const ConvShape& part, bool widens) {
  return memory.weights.get_memory(parts, part.w_size(), widens) && memory.x.get_floats(widens ? part.x_size() : 0) &&
         memory.y.get_floats(widens ? part.y_size() : 0) && memory.library.get(parts.scratch_bytes());
}

template <bool kNative, Task kTask>
void conv_forward(const ConvForwardArgs& a) {
  const ConvShape s = as_rows(a.shape);
  if (s.y_size() == 0) return;
  const Type type = computed_in<kNative>(a.x);
  const bool widens = a.x.bfloat16 && type == Type::f32;
  const int64_t images = images_of_part(s, most_parts(s));
  const Parts parts = parts_for(s, images, a.bias != nullptr ? Phase::forward_bias : Phase::forward, type);
  CallMemory& memory = call_memory();
  if (!parts || !get_memory(memory, parts, part_of(s, images), widens) || kTask == Task::prepare) return;
  memory.weights.fill(a.w, s.w_size(), widens, memory.library.own());
  for_each_part(s, images, [&](const ConvShape& part, int64_t first) {
    const Part& p = parts.of(part.n);
    const ConstFloats from = moved(a.x, first * s.h * s.w * s.c);
    const void* x = operand(from, part.x_size(), type, memory.x.own_floats());
    const Floats to = moved(a.y, first * s.oh() * s.ow() * s.o);
    write_result(to, part.y_size(), type, memory.y.own_floats(), [&](void* y) {
      Arguments arguments{
          {DNNL_ARG_SRC, wrap(p.x, x)}, {DNNL_ARG_WEIGHTS, memory.weights.of(p)}, {DNNL_ARG_DST, wrap(p.y, y)}};
      if (a.bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, wrap(p.bias, a.bias));
      execute(p.run, std::move(arguments), memory.library.own());
    });
  });
}

template <bool kNative, Task kTask>
void conv_backward_data(const ConvBackwardDataArgs& a) {
  const ConvShape s = as_rows(a.shape);
  if (s.x_size() == 0) return;
  const Type type = computed_in<kNative>(a.dy);
  const bool widens = a.dy.bfloat16 && type == Type::f32, matrix = is_matrix_product(s);
  const int64_t images = images_of_part(s, most_parts(s));
  const Parts parts = parts_for(s, images, Phase::backward_data, type);
  CallMemory& memory = call_memory();
  if (!parts || !get_memory(memory, parts, part_of(s, images), widens) || kTask == Task::prepare) return;
  memory.weights.fill(a.w, s.w_size(), widens, memory.library.own());
  for_each_part(s, images, [&](const ConvShape& part, int64_t first) {
    const Part& p = parts.of(part.n);
    const ConstFloats from = moved(a.dy, first * s.oh() * s.ow() * s.o);
    const void* dy = operand(from, part.y_size(), type, memory.y.own_floats());
    const Floats to = moved(a.dx, first * s.h * s.w * s.c);
    write_result(to, part.x_size(), type, memory.x.own_floats(), [&](void* dx) {
      execute(p.run,
              {{matrix ? DNNL_ARG_SRC : DNNL_ARG_DIFF_DST, wrap(p.y, dy)},
               {DNNL_ARG_WEIGHTS, memory.weights.of(p)},
               {matrix ? DNNL_ARG_DST : DNNL_ARG_DIFF_SRC, wrap(p.x, dx)}},
              memory.library.own());
    });
  });
}

template <bool kNative, Task kTask>
void conv_backward_weight(const ConvBackwardWeightArgs& a) {
  const ConvShape s = as_rows(a.shape);
  const int64_t count = s.w_size();
  if (count == 0) return;
  if (s.y_size() == 0) {
    if (kTask == Task::run) std::fill_n(a.dw, count, 0.0f);
    return;
  }
  const Type type = computed_in<kNative>(a.x);
  const bool widens = a.x.bfloat16 && type == Type::f32, matrix = is_matrix_product(s);
  const int64_t images = images_of_part(s, std::clamp<int64_t>(kPartialFloats / count, 1, most_parts(s)));
  const int64_t part_count = (s.n + images - 1) / images;
  const ConvShape full = part_of(s, images);
  const Parts parts = parts_for(s, images, Phase::backward_weight, type);
  CallMemory& memory = call_memory();
  if (!parts) return;
  const auto layout_bytes = static_cast<int64_t>(std::max(parts.full->w.get_size(), parts.last->w.get_size()));
  const bool reorders = parts.full->reorders() || parts.last->reorders();
  float* partials = part_count == 1 ? a.dw : memory.partials.get<float>(part_count * count);
  const bool complete = memory.x.get_floats(widens ? full.x_size() : 0) &&
                        memory.y.get_floats(widens ? full.y_size() : 0) && memory.w.get(reorders ? layout_bytes : 0) &&
                        memory.library.get(parts.scratch_bytes());
  if (!complete || partials == nullptr || kTask == Task::prepare) return;
  for_each_part(s, images, [&](const ConvShape& part, int64_t first) {
    const Part& p = parts.of(part.n);
    float* partial = partials + first / images * count;
    const auto result = wrap(p.w, p.reorders() ? memory.w.own() : partial);
    const ConstFloats x_from = moved(a.x, first * s.h * s.w * s.c);
    const ConstFloats dy_from = moved(a.dy, first * s.oh() * s.ow() * s.o);
    const auto x = wrap(p.x, operand(x_from, part.x_size(), type, memory.x.own_floats()));
    const auto dy = wrap(p.y, operand(dy_from, part.y_size(), type, memory.y.own_floats()));
    if (matrix) {
      execute(p.run, {{DNNL_ARG_SRC, dy}, {DNNL_ARG_WEIGHTS, x}, {DNNL_ARG_DST, result}}, memory.library.own());
    } else {
      execute(p.run, {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_WEIGHTS, result}},
              memory.library.own());
    }
    if (!p.reorders()) return;
    execute(p.reorder, {{DNNL_ARG_FROM, result}, {DNNL_ARG_TO, wrap(p.stored, partial)}}, memory.library.own());
  });
  if (part_count == 1) return;
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    float sum = partials[i];
    for (int64_t part = 1; part < part_count; ++part) sum += partials[part * count + i];
    a.dw[i] = sum;
  }
}

template <bool kNative>
void add(Kernels& table) {
  constexpr Task run = Task::run, prepare = Task::prepare;
  table.conv_forward = {conv_forward<kNative, run>, "onednn", conv_forward<kNative, prepare>};
  table.conv_backward_data = {conv_backward_data<kNative, run>, "onednn", conv_backward_data<kNative, prepare>};
  table.conv_backward_weight = {conv_backward_weight<kNative, run>, "onednn", conv_backward_weight<kNative, prepare>};
}

}  // namespace

void add_onednn(Kernels& table) { add<false>(table); }
void add_onednn_bfloat16(Kernels& table) { add<true>(table); }

}  // namespace luq::kernels

namespace luq {

std::string kernel_library_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

}  // namespace luq
