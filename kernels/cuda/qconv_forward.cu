// The 4-bit matmul of the forward pass: patches of x times rows of w.
#include "kernels/cuda/qconv_patches.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda::qconv {
namespace {

__device__ int64_t dot(const Operands& in, const uint8_t* a, int64_t a_first, const uint8_t* b, int64_t count) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += value_of(in.a_values, load_code(a, a_first + i)) * value_of(in.b_values, load_code(b, i));
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) forward_any(ConvShape s, int64_t oh, int64_t ow, Operands in, Sink sink) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sink.size) return;
  const int64_t cg = s.c / s.groups, og = s.o / s.groups;
  const int64_t o = index % s.o, ox = index / s.o % ow, oy = index / (s.o * ow) % oh, n = index / (s.o * ow * oh);
  int64_t sum = 0;
  for (int64_t ky = 0; ky < s.kh; ++ky) {
    const int64_t iy = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
    if (iy < 0 || iy >= s.h) continue;
    for (int64_t kx = 0; kx < s.kw; ++kx) {
      const int64_t ix = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
      if (ix < 0 || ix >= s.w) continue;
      sum += dot(in, in.a + ((n * s.h + iy) * s.w + ix) * in.a_row, o / og * cg,
                 in.b + ((o * s.kh + ky) * s.kw + kx) * in.b_row, cg);
    }
  }
  store(sink, index, o, sum);
}

void run_anything(const QConvForwardArgs& a, const MomentsOut* moments) {
  const ConvShape& s = a.shape;
  const Operands in{
      a.x, a.w, values_of(a.x_format), values_of(a.w_format), packed_row_bytes(s.c), packed_row_bytes(s.c_group())};
  Sink sink = sink_of(a.y, a.sums, a.scale, a.bias, false, s.y_size());
  if (moments == nullptr) return run_any("qconv_forward", forward_any, s, in, sink);
  Layout layout;
  sink.moment_tiles = moment_tiles_of(s.n * s.oh() * s.ow());
  const int64_t sums = layout.add(sink.size * 8), parts = layout.add(s.o * sink.moment_tiles * 16);
  layout.allocate();
  sink.moments = reinterpret_cast<Moment*>(layout.at(parts));
  Sink to_sums = sink;
  to_sums.sums = reinterpret_cast<int64_t*>(layout.at(sums));
  run_any("qconv_forward", forward_any, s, in, to_sums);
  finish_with_moments(sink, to_sums.sums, s.o, *moments);
}

using Product = void (*)(Tile, const char*, const Patches&, const Grid&, int64_t, const Sink&);

Product choose_product(bool integers, Decoder x, bool with_moments) {
  constexpr Decoder kInt4 = Decoder::int4, kUint4 = Decoder::uint4, kTable = Decoder::table;
  if (!integers) return run_tile<PatchGather, kTable, kTable, Patches>;
  if (with_moments) {
    return x == kUint4 ? run_tile<PatchGatherWithMoments, kUint4, kInt4, Patches>
                       : run_tile<PatchGatherWithMoments, kInt4, kInt4, Patches>;
  }
  return x == kUint4 ? run_tile<PatchGather, kUint4, kInt4, Patches> : run_tile<PatchGather, kInt4, kInt4, Patches>;
}

void run(const QConvForwardArgs& a, const MomentsOut* moments) {
  const ConvShape& s = a.shape;
  const Values x_values = values_of(a.x_format), w_values = values_of(a.w_format);
  const Decoder x_decoder = decoder_of(a.x_format);
  const bool integers = a.w_format == Format::int4 && x_decoder != Decoder::table;
  if (!fits(s) || (moments != nullptr && !integers)) return run_anything(a, moments);
  Sink sink = sink_of(a.y, a.sums, a.scale, a.bias, false, s.y_size());
  const int64_t merged = merged_groups(s), groups = s.groups / merged;
  const int64_t m = s.n * s.oh() * s.ow(), n = merged * s.o_group();
  Layout layout;
  const Activations x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const WeightRows w(a.w, s, merged, WeightRows::Order::as_they_are, layout);
  const int64_t k_tiles = divide_up(s.kh * s.kw * x.chunks() * kChunk, kTileK);
  const Tile tile = choose_tile(groups, m, n, Patches::kMayBeWide);
  const int shift = integers ? shift_of(x_decoder) + shift_of(Decoder::int4) : 0;
  const Split split = choose_split(tile, groups * tiles_of(tile, m, n), k_tiles,
                                   max_int32_terms(a.x_format, a.w_format) >> shift, sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  if (moments != nullptr) sink.moment_tiles = split.splits > 1 ? moment_tiles_of(m) : divide_up(m, tile_m(tile));
  const int64_t moment_parts = layout.add(s.o * sink.moment_tiles * 16);
  layout.allocate();
  if (moments != nullptr) sink.moments = reinterpret_cast<Moment*>(layout.at(moment_parts));
  const Patches p{.a = x.ready(layout),
                  .b = w.ready(layout),
                  .a_values = x_values,
                  .b_values = w_values,
                  .y = forward_axis(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h),
                  .x = forward_axis(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w),
                  .y_rows = Divisor(s.oh()),
                  .x_rows = Divisor(s.ow()),
                  .x_taps = Divisor(s.kw),
                  .chunks = Divisor(x.chunks()),
                  .a_pixel = static_cast<uint32_t>(x.row_bytes() / 16),
                  .b_row = static_cast<uint32_t>(w.row_bytes() / 16),
                  .b_group = static_cast<uint32_t>(w.group_bytes() / 16),
                  .m = static_cast<int>(m),
                  .n = static_cast<int>(n),
                  .kernel_w = static_cast<int>(s.kw),
                  .channels = static_cast<int>(s.o)};
  Sink parts = sink_of_product(sink, n, split, partials, layout);
  const bool on_the_way = moments != nullptr && split.splits == 1;
  const bool may_shift = !on_the_way || QConvForwardMomentsArgs{a, nullptr, nullptr}.fit(shift);
  const bool scale_shifts = may_shift && scale_takes(parts, shift);
  const Grid grid = grid_of(tile, m, n, k_tiles, split.splits, scale_shifts ? 0 : shift);
  const Product multiply = choose_product(integers, x_decoder, on_the_way);
  multiply(tile, "qconv_forward", p, grid, groups, parts);
  if (on_the_way) return finish_moments(sink, m, s.o, a.scale, scale_shifts ? shift : 0, *moments);
  if (moments != nullptr) return finish_with_moments(sink, parts.partial, split.splits, s.o, *moments);
  finish("qconv_forward, parts", sink, parts, split, s.o);
}

void forward(const QConvForwardArgs& a) { run(a, nullptr); }

void forward_moments(const QConvForwardMomentsArgs& a) {
  const MomentsOut moments{a.mean, a.variance};
  run(a.conv, &moments);
}

}  // namespace
}  // namespace luq::kernels::cuda::qconv

namespace luq::kernels::cuda {

void add_qconv_forward(Kernels& table) {
  table.qconv_forward = {qconv::forward, "cuda"};
  table.qconv_forward_moments = {qconv::forward_moments, "cuda"};
}

}  // namespace luq::kernels::cuda
