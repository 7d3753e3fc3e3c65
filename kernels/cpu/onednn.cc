// Float convolutions and linear layers on oneDNN, on float32 or bfloat16 activations.
//
// Products of bfloat16 are left to oneDNN only where the CPU multiplies them faster than float32. Elsewhere a part (see
// below) is widened, computed in float32 and rounded, while it is in the cache; the weights are rounded to bfloat16
// either way, so that both compute the same sums, if in another order.
//
// oneDNN's sums may depend on how it shares work among threads, so it never does: the batch is cut into parts whose
// number follows from the shape alone, each part runs on one thread, and threads take parts. The partial weight
// gradients of the parts are added in their order. A part is a primitive of its own, made once per thread and shape and
// kept.
//
// Activations stay in NHWC. Weights are brought into the layout that the primitive asks for, once per call.
// Convolutions of single pixels (1x1, no stride or padding, one group; linear layers) are matrix products over all
// pixels.

#include <omp.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/onednn_api.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

using dnnl::memory;
using onednn::describe;
using onednn::describe_backward;
using Tag = memory::format_tag;
using Type = memory::data_type;

constexpr int64_t kParts = 16;
constexpr int64_t kPartRows = 32;  // of a matrix product: fewer rows would not repay reading the weights
constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of all partial weight gradients together
constexpr size_t kCachedPrimitives = 512;             // per thread

enum class Phase { forward, forward_bias, backward_data, backward_weight };

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// One thread's primitive for a part: what to run, and the layout of its weights (operand or result).
struct Part {
  dnnl::primitive primitive;
  memory::desc x, w, y, bias;
};

bool is_matrix_product(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0 && s.groups == 1;
}

// A matrix product seen as n rows of one pixel.
ConvShape as_rows(const ConvShape& s) {
  if (!is_matrix_product(s)) return s;
  ConvShape rows;
  rows.n = s.n * s.h * s.w;
  rows.c = s.c;
  rows.o = s.o;
  return rows;
}

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

Part make_matrix_product(const ConvShape& s, Phase phase, Type type) {
  const memory::desc x = float_desc({s.n, s.c}, Tag::ab, type), y = float_desc({s.n, s.o}, Tag::ab, type);
  const memory::desc w = matrix_weights(s, phase, type), bias = float_desc({1, s.o}, Tag::ab);
  using dnnl::matmul;
  switch (phase) {
    case Phase::forward:  // y (n, o) = x w^T
      return {matmul(describe<matmul>(engine(), x, w, y)), x, w, y, bias};
    case Phase::forward_bias:
      return {matmul(describe<matmul>(engine(), x, w, bias, y)), x, w, y, bias};
    case Phase::backward_data:  // dx (n, c) = dy w
      return {matmul(describe<matmul>(engine(), y, w, x)), x, w, y, bias};
    case Phase::backward_weight:
      break;  // dw (o, c) = dy^T x
  }
  const memory::desc dy = float_desc({s.o, s.n}, Tag::ba, type);
  return {matmul(describe<matmul>(engine(), dy, x, w)), x, w, dy, bias};
}

Part make_convolution(const ConvShape& s, Phase phase, Type type) {
  const memory::desc x = float_desc({s.n, s.c, s.h, s.w}, Tag::nhwc, type);
  const memory::desc y = float_desc({s.n, s.o, s.oh(), s.ow()}, Tag::nhwc, type);
  const memory::desc w = float_desc(weight_dims(s), Tag::any, type), bias = float_desc({s.o}, Tag::x);
  const memory::dims stride{s.stride_h, s.stride_w}, dilation{s.dilation_h - 1, s.dilation_w - 1};
  const memory::dims padding{s.pad_h, s.pad_w};
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto training = dnnl::prop_kind::forward_training;
  using Forward = dnnl::convolution_forward;
  if (phase == Phase::forward_bias) {
    const auto desc = describe<Forward>(engine(), training, direct, x, w, bias, y, stride, dilation, padding, padding);
    return {Forward(desc), x, desc.weights_desc(), y, bias};
  }
  const auto forward = describe<Forward>(engine(), training, direct, x, w, y, stride, dilation, padding, padding);
  if (phase == Phase::forward) return {Forward(forward), x, forward.weights_desc(), y, bias};
  if (phase == Phase::backward_data) {
    using Backward = dnnl::convolution_backward_data;
    const auto desc =
        describe_backward<Backward>(engine(), forward, direct, x, w, y, stride, dilation, padding, padding);
    return {Backward(desc), x, desc.weights_desc(), y, bias};
  }
  using Update = dnnl::convolution_backward_weights;
  const memory::desc dw = float_desc(weight_dims(s), Tag::any);
  const auto desc = describe_backward<Update>(engine(), forward, direct, x, dw, y, stride, dilation, padding, padding);
  return {Update(desc), x, desc.diff_weights_desc(), y, bias};
}

// The calling thread's part; made while it counts as single-threaded, so that oneDNN plans for one thread.
const Part& part_for(const ConvShape& s, Phase phase, Type type) {
  thread_local std::map<std::tuple<ConvShape, Phase, Type>, Part> cache;
  const std::tuple key(s, phase, type);
  auto found = cache.find(key);
  if (found == cache.end()) {
    if (cache.size() >= kCachedPrimitives) cache.clear();
    const bool matrix = is_matrix_product(s);
    found = cache.emplace(key, matrix ? make_matrix_product(s, phase, type) : make_convolution(s, phase, type)).first;
  }
  return found->second;
}

memory wrap(const memory::desc& desc, const void* data) { return memory(desc, engine(), const_cast<void*>(data)); }

dnnl::stream& stream() {
  thread_local dnnl::stream own(engine());
  return own;
}

int64_t most_parts(const ConvShape& s) {
  return is_matrix_product(s) ? std::clamp<int64_t>(s.n / kPartRows, 1, kParts) : kParts;
}

// Calls run(part's shape, first image) for every part, on one thread each.
template <typename Run>
void for_each_part(const ConvShape& s, int64_t parts, const Run& run) {
  const int64_t images = (s.n + parts - 1) / parts;
#pragma omp parallel
  {
    omp_set_num_threads(1);  // of what this thread starts in here
#pragma omp for schedule(dynamic)
    for (int64_t first = 0; first < s.n; first += images) {
      ConvShape part = s;
      part.n = std::min(images, s.n - first);
      run(part, first);
    }
  }
}

float* grown(std::vector<float>& buffer, size_t bytes) {
  if (buffer.size() * sizeof(float) < bytes) buffer.resize(bytes / sizeof(float) + 16);
  return buffer.data();
}

// The stored weights in the layout that full-size parts ask for; shared by all of them.
struct PreparedWeights {
  memory::desc layout;
  const float* data;  // of the layout's type
};

PreparedWeights prepare_weights(const ConvShape& s, const ConvShape& part, Phase phase, Type type, const float* w) {
  thread_local std::vector<float> buffer;
  memory::desc layout;
#pragma omp parallel num_threads(1)
  {
    omp_set_num_threads(1);
    layout = part_for(part, phase, type).w;
  }
  const bool matrix = is_matrix_product(s);
  if (layout == stored_weights(s) || (matrix && type == Type::f32)) return {layout, w};
  const memory::desc stored = matrix ? matrix_weights(s, phase, Type::f32) : stored_weights(s);
  memory from = wrap(stored, w), to = wrap(layout, grown(buffer, layout.get_size()));
  dnnl::reorder(from, to).execute(stream(), from, to);
  stream().wait();
  return {layout, buffer.data()};
}

// The prepared weights, or, for a last part of another size that asks for another layout, a copy of its own.
memory weights_for(const ConvShape& part, const Part& p, const PreparedWeights& prepared, const float* stored) {
  if (p.w == prepared.layout) return wrap(p.w, prepared.data);
  thread_local std::vector<float> buffer;
  memory from = wrap(stored_weights(part), stored), to = wrap(p.w, grown(buffer, p.w.get_size()));
  dnnl::reorder(from, to).execute(stream(), from, to);
  stream().wait();
  return to;
}

ConvShape first_part(const ConvShape& s, int64_t parts) {
  ConvShape part = s;
  part.n = (s.n + parts - 1) / parts;
  return part;
}

// The arithmetic of a call: bfloat16 as it is (native), or in float32.
template <bool kNative>
Type computed_in(ConstFloats x) {
  return kNative && x.bfloat16 ? Type::bf16 : Type::f32;
}

void convert(ConstFloats from, int64_t count, Floats to) { kernels_for({}).convert({from, count, to}); }

ConstFloats moved(ConstFloats x, int64_t first) {
  return x.bfloat16 ? ConstFloats(x.as<BFloat16>() + first) : ConstFloats(x.as<float>() + first);
}
Floats moved(Floats x, int64_t first) {
  return x.bfloat16 ? Floats(x.as<BFloat16>() + first) : Floats(x.as<float>() + first);
}

// An operand of a part, in the type computed in.
const void* operand(ConstFloats x, int64_t count, Type type, std::vector<float>& buffer) {
  if (!x.bfloat16 || type == Type::bf16) return x.data;
  float* wide = grown(buffer, static_cast<size_t>(count) * sizeof(float));
  convert(x, count, wide);
  return wide;
}

// The result of a part: run(pointer) writes it in the type computed in.
template <typename Run>
void write_result(Floats y, int64_t count, Type type, const Run& run) {
  if (!y.bfloat16 || type == Type::bf16) return run(y.data);
  thread_local std::vector<float> buffer;
  float* wide = grown(buffer, static_cast<size_t>(count) * sizeof(float));
  run(wide);
  convert(wide, count, y);
}

// The weights of a call on bfloat16 that is computed in float32: rounded.
const float* weight_operand(const float* w, int64_t count, bool bfloat16, Type type) {
  if (!bfloat16 || type == Type::bf16) return w;
  thread_local std::vector<float> wide;
  thread_local std::vector<BFloat16> narrow;
  if (narrow.size() < static_cast<size_t>(count)) narrow.resize(static_cast<size_t>(count));
  float* rounded = grown(wide, static_cast<size_t>(count) * sizeof(float));
  convert(w, count, narrow.data());
  convert(narrow.data(), count, rounded);
  return rounded;
}

template <bool kNative>
void conv_forward(const ConvForwardArgs& a) {
  const ConvShape s = as_rows(a.shape);
  if (s.y_size() == 0) return;
  const Type type = computed_in<kNative>(a.x);
  const Phase phase = a.bias != nullptr ? Phase::forward_bias : Phase::forward;
  const float* w = weight_operand(a.w, s.w_size(), a.x.bfloat16, type);
  const int64_t parts = most_parts(s);
  const PreparedWeights weights = prepare_weights(s, first_part(s, parts), phase, type, w);
  for_each_part(s, parts, [&](const ConvShape& part, int64_t first) {
    thread_local std::vector<float> x_buffer;
    const Part& p = part_for(part, phase, type);
    const void* x = operand(moved(a.x, first * s.h * s.w * s.c), part.x_size(), type, x_buffer);
    write_result(moved(a.y, first * s.oh() * s.ow() * s.o), part.y_size(), type, [&](void* y) {
      std::unordered_map<int, memory> args{{DNNL_ARG_SRC, wrap(p.x, x)},
                                           {DNNL_ARG_WEIGHTS, weights_for(part, p, weights, w)},
                                           {DNNL_ARG_DST, wrap(p.y, y)}};
      if (a.bias != nullptr) args.emplace(DNNL_ARG_BIAS, wrap(p.bias, a.bias));
      p.primitive.execute(stream(), args);
      stream().wait();
    });
  });
}

template <bool kNative>
void conv_backward_data(const ConvBackwardDataArgs& a) {
  const ConvShape s = as_rows(a.shape);
  if (s.x_size() == 0) return;
  const Type type = computed_in<kNative>(a.dy);
  const float* w = weight_operand(a.w, s.w_size(), a.dy.bfloat16, type);
  const int64_t parts = most_parts(s);
  const PreparedWeights weights = prepare_weights(s, first_part(s, parts), Phase::backward_data, type, w);
  const bool matrix = is_matrix_product(s);
  for_each_part(s, parts, [&](const ConvShape& part, int64_t first) {
    thread_local std::vector<float> dy_buffer;
    const Part& p = part_for(part, Phase::backward_data, type);
    const void* dy = operand(moved(a.dy, first * s.oh() * s.ow() * s.o), part.y_size(), type, dy_buffer);
    write_result(moved(a.dx, first * s.h * s.w * s.c), part.x_size(), type, [&](void* dx) {
      p.primitive.execute(stream(), {{matrix ? DNNL_ARG_SRC : DNNL_ARG_DIFF_DST, wrap(p.y, dy)},
                                     {DNNL_ARG_WEIGHTS, weights_for(part, p, weights, w)},
                                     {matrix ? DNNL_ARG_DST : DNNL_ARG_DIFF_SRC, wrap(p.x, dx)}});
      stream().wait();
    });
  });
}

template <bool kNative>
void conv_backward_weight(const ConvBackwardWeightArgs& a) {
  const ConvShape s = as_rows(a.shape);
  const int64_t count = s.w_size();
  if (count == 0) return;
  if (s.y_size() == 0) {
    std::fill_n(a.dw, count, 0.0f);
    return;
  }
  const Type type = computed_in<kNative>(a.x);
  const int64_t most = std::clamp<int64_t>(kPartialFloats / count, 1, most_parts(s));
  const int64_t images = (s.n + most - 1) / most, parts = (s.n + images - 1) / images;
  const bool matrix = is_matrix_product(s);
  thread_local std::vector<float> partial_buffer;
  float* partials = parts == 1 ? a.dw : grown(partial_buffer, static_cast<size_t>(parts * count) * sizeof(float));
  for_each_part(s, parts, [&](const ConvShape& part, int64_t first) {
    thread_local std::vector<float> own, x_buffer, dy_buffer;
    const Part& p = part_for(part, Phase::backward_weight, type);
    float* partial = partials + first / images * count;
    const memory stored = matrix ? wrap(p.w, partial) : wrap(stored_weights(s), partial);
    const bool direct = matrix || p.w == stored.get_desc();
    memory result = direct ? stored : wrap(p.w, grown(own, p.w.get_size()));
    const memory x = wrap(p.x, operand(moved(a.x, first * s.h * s.w * s.c), part.x_size(), type, x_buffer));
    const memory dy = wrap(p.y, operand(moved(a.dy, first * s.oh() * s.ow() * s.o), part.y_size(), type, dy_buffer));
    if (matrix) {
      p.primitive.execute(stream(), {{DNNL_ARG_SRC, dy}, {DNNL_ARG_WEIGHTS, x}, {DNNL_ARG_DST, result}});
    } else {
      p.primitive.execute(stream(), {{DNNL_ARG_SRC, x}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_WEIGHTS, result}});
    }
    if (!direct) dnnl::reorder(result, stored).execute(stream(), result, const_cast<memory&>(stored));
    stream().wait();
  });
  if (parts == 1) return;
#pragma omp parallel for simd schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    float sum = partials[i];
    for (int64_t part = 1; part < parts; ++part) sum += partials[part * count + i];
    a.dw[i] = sum;
  }
}

}  // namespace

void add_onednn(Kernels& table) {
  table.conv_forward = {conv_forward<false>, "onednn"};
  table.conv_backward_data = {conv_backward_data<false>, "onednn"};
  table.conv_backward_weight = {conv_backward_weight<false>, "onednn"};
}

void add_onednn_bfloat16(Kernels& table) {
  table.conv_forward = {conv_forward<true>, "onednn"};
  table.conv_backward_data = {conv_backward_data<true>, "onednn"};
  table.conv_backward_weight = {conv_backward_weight<true>, "onednn"};
}

}  // namespace luq::kernels

namespace luq {

std::string kernel_library_version() {
  const dnnl_version_t* version = dnnl_version();
  return std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
}

}  // namespace luq
