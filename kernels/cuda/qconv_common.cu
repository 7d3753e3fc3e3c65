#include "kernels/cuda/qconv_common.h"

namespace luq::kernels::cuda::qconv {
namespace {

// Rows of `channels` codes become, for each group of `width`, whole chunks, filled with 0: a thread has 8 codes.
struct Rows {
  const uint8_t* from;
  uint32_t* to;
  int64_t rows, row_bytes;
  int groups, width, words, unused;
};

__global__ void __launch_bounds__(kThreads) pack_rows(Rows r) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int words = r.groups * r.words;
  if (index >= r.rows * words) return;
  const uint8_t* row = r.from + index / words * r.row_bytes;
  const int word = static_cast<int>(index % words), group = word / r.words, first = word % r.words * 8;
  uint32_t packed = 0;
  for (int i = 0; i < 8; ++i) {
    if (first + i >= r.width) continue;
    packed |= static_cast<uint32_t>(load_code(row, int64_t{group} * r.width + first + i)) << (4 * i);
  }
  r.to[index] = packed;
}

// Weights (o, taps, c/groups) become (wide group, row, tap, word), where the rows are outputs and a row's codes inputs,
// or, transposed, the other way round; 0 between groups that are merged. A thread has 8 codes.
struct Weights {
  const uint8_t* from;
  uint32_t* to;
  int64_t row_bytes;   // of c/groups codes
  int groups, merged;  // wide groups, and groups in each
  int c, o;            // of a group
  int taps, words, transposed, apart;
};

__global__ void __launch_bounds__(kThreads) pack_weights(Weights w) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int rows = w.merged * (w.transposed != 0 ? w.c : w.o), width = w.merged * (w.transposed != 0 ? w.o : w.c);
  if (index >= int64_t{w.groups} * rows * w.taps * w.words) return;
  // Neighbouring threads read neighbouring bytes.
  int64_t rest = index;
  const auto next = [&](int extent) {
    const auto digit = static_cast<int>(rest % extent);
    rest /= extent;
    return digit;
  };
  int row = w.transposed != 0 ? next(rows) : 0;
  const int word = next(w.words), tap = next(w.taps);
  if (w.transposed == 0) row = next(rows);
  const auto group = static_cast<int>(rest);
  uint32_t packed = 0;
  for (int i = 0; i < 8; ++i) {
    const int column = word * 8 + (w.apart != 0 ? i % 2 * 4 + i / 2 : i);
    const int c = w.transposed != 0 ? row : column, o = w.transposed != 0 ? column : row;
    if (column >= width || c / w.c != o / w.o) continue;
    const uint8_t* codes = w.from + ((int64_t{group} * w.merged * w.o + o) * w.taps + tap) * w.row_bytes;
    packed |= load_code(codes, c % w.c) << (4 * i);
  }
  w.to[((int64_t{group} * rows + row) * w.taps + tap) * w.words + word] = packed;
}

// Adds the parts, in their order. kPlaces: the sink has vectors.
template <bool kPlaces>
__global__ void __launch_bounds__(kThreads) add_parts(Sink sink, const int* partial, int64_t splits) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  int64_t sum = 0;
  for (int64_t split = 0; split < splits; ++split) sum += partial[split * sink.size + index];
  store(sink, index, kPlaces ? place_of(sink, index) : 0, sum);
}

template <typename Args>
Sink sink_of(const Args& a, const Floats& results, int64_t size) {
  Sink sink{};
  sink.y = results.data;
  sink.sums = a.sums;
  sink.scales = a.scales;
  sink.size = size;
  sink.scale = a.scale;
  sink.bfloat16 = results.bfloat16;
  sink.accumulate = a.accumulate;
  return sink;
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

Sink sink_of(const QConvForwardArgs& a) {
  Sink sink = sink_of(a, a.y, a.shape.y_size());
  sink.bias = a.bias;
  sink.run = 1;
  sink.places = a.shape.o;
  return sink;
}

Sink sink_of(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  Sink sink = sink_of(a, a.dx, s.x_size());
  sink.run = s.h * s.w * s.c;
  sink.places = s.n;
  sink.of_rows = 1;
  return sink;
}

Sink sink_of(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  Sink sink = sink_of(a, a.dw, s.w_size());
  sink.run = s.kh * s.kw * s.c_group();
  sink.places = s.o;
  sink.of_rows = 1;
  return sink;
}

Activations::Activations(const uint8_t* codes, int64_t rows, int64_t channels, int64_t groups, Layout& layout)
    : codes_(codes), rows_(rows), channels_(channels), groups_(groups), chunks_(chunks_of(channels / groups)) {
  packs_ = channels / groups % kChunk != 0 || !aligned(codes);
  if (packs_) at_ = layout.add(rows * row_bytes());
}

const uint8_t* Activations::ready(const Layout& layout) const {
  if (!packs_) return codes_;
  const Rows r{.from = codes_,
               .to = reinterpret_cast<uint32_t*>(layout.at(at_)),
               .rows = rows_,
               .row_bytes = packed_row_bytes(channels_),
               .groups = static_cast<int>(groups_),
               .width = static_cast<int>(channels_ / groups_),
               .words = static_cast<int>(chunks_ * 4),
               .unused = 0};
  const int64_t words = rows_ * groups_ * chunks_ * 4;
  launch("qconv, packing rows", pack_rows, {.blocks = blocks_for(words, kThreads), .threads = kThreads}, r);
  return layout.at(at_);
}

WeightRows::WeightRows(const uint8_t* codes, const ConvShape& s, int64_t merged, Order order, Layout& layout)
    : codes_(codes), s_(s), merged_(merged), order_(order) {
  const bool transposed = order != Order::as_they_are;
  rows_ = merged * (transposed ? s.c_group() : s.o_group());
  chunks_ = chunks_of(merged * (transposed ? s.o_group() : s.c_group()));
  packs_ = transposed || merged > 1 || s.c_group() % kChunk != 0 || !aligned(codes);
  if (packs_) at_ = layout.add(s.groups / merged * group_bytes());
}

const uint8_t* WeightRows::ready(const Layout& layout) const {
  if (!packs_) return codes_;
  const Weights w{.from = codes_,
                  .to = reinterpret_cast<uint32_t*>(layout.at(at_)),
                  .row_bytes = packed_row_bytes(s_.c_group()),
                  .groups = static_cast<int>(s_.groups / merged_),
                  .merged = static_cast<int>(merged_),
                  .c = static_cast<int>(s_.c_group()),
                  .o = static_cast<int>(s_.o_group()),
                  .taps = static_cast<int>(s_.kh * s_.kw),
                  .words = static_cast<int>(chunks_ * 4),
                  .transposed = order_ != Order::as_they_are,
                  .apart = order_ == Order::transposed_apart};
  const int64_t words = s_.groups / merged_ * group_bytes() / 4;
  launch("qconv, packing weights", pack_weights, {.blocks = blocks_for(words, kThreads), .threads = kThreads}, w);
  return layout.at(at_);
}

Sink sink_of_product(const Sink& sink, int64_t neighbours, bool in_parts, int64_t partials, const Layout& layout) {
  Sink result = sink;
  if (in_parts) result.partial = reinterpret_cast<int*>(layout.at(partials));
  result.eights = neighbours % 8 == 0 && (in_parts || (sink.sums == nullptr && aligned(sink.y)));
  return result;
}

void finish(const char* name, const Sink& sink, const Sink& with_parts, const Split& split) {
  if (split.splits == 1) return;
  const bool places = sink.scales != nullptr || sink.bias != nullptr;
  launch(name, places ? add_parts<true> : add_parts<false>,
         {.blocks = blocks_for(sink.size, kThreads), .threads = kThreads}, sink, with_parts.partial, split.splits);
}

}  // namespace luq::kernels::cuda::qconv
