// The 4-bit matmul of the forward pass: patches of x times rows of w.
#include "kernels/cuda/qconv_patches.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda::qconv {
namespace {

void run_anything(const QConvForwardArgs& a, const MomentsOut* moments) {
  const ConvShape& s = a.shape;
  Sink sink = sink_of(a);
  if (moments == nullptr) return run_any(a, sink);
  Layout layout;
  sink.moment_tiles = moment_tiles_of(s.n * s.oh() * s.ow());
  const int64_t sums = layout.add(sink.size * 8), parts = layout.add(s.o * sink.moment_tiles * 16);
  layout.allocate();
  sink.moments = reinterpret_cast<Moment*>(layout.at(parts));
  Sink to_sums = sink;
  to_sums.sums = reinterpret_cast<int64_t*>(layout.at(sums));
  run_any(a, to_sums);
  finish_with_moments(sink, to_sums.sums, *moments);
}

using Product = void (*)(Tile, const char*, const Patches&, const Tiling&, int64_t, const Sink&);

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
  const Decoder x_decoder = decoder_of(a.x_table);
  const bool integers = decoder_of(a.w_table) == Decoder::int4 && x_decoder != Decoder::table;
  if (!fits(s)) return run_anything(a, moments);
  Sink sink = sink_of(a);
  const int64_t merged = merged_groups(s), groups = s.groups / merged;
  const int64_t m = s.n * s.oh() * s.ow(), n = merged * s.o_group();
  Layout layout;
  const Activations x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const WeightRows w(a.w, s, merged, WeightRows::Order::as_they_are, layout);
  const int64_t k_tiles = divide_up(s.kh * s.kw * x.chunks() * kChunk, kTileK);
  const Tile tile = choose_tile(groups, m, n, Patches::kMayBeWide);
  const int shift = integers ? shift_of(x_decoder) + shift_of(Decoder::int4) : 0;
  const Split split = choose_split(tile, groups * tiles_of(tile, m, n), k_tiles,
                                   max_int32_terms(a.x_table, a.w_table) >> shift, sink.size);
  const bool on_the_way = moments != nullptr && integers && split.splits == 1;
  const bool in_parts = split.splits > 1 || (moments != nullptr && !on_the_way);
  const int64_t partials = layout.add(in_parts ? split.splits * sink.size * 4 : 0);
  if (moments != nullptr) sink.moment_tiles = on_the_way ? divide_up(m, tile_m(tile)) : moment_tiles_of(m);
  const int64_t moment_parts = layout.add(s.o * sink.moment_tiles * 16);
  layout.allocate();
  if (moments != nullptr) sink.moments = reinterpret_cast<Moment*>(layout.at(moment_parts));
  const Patches p{.a = x.ready(layout),
                  .b = w.ready(layout),
                  .a_values = values_of(a.x_table),
                  .b_values = values_of(a.w_table),
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
  Sink parts = sink_of_product(sink, n, in_parts, partials, layout);
  const bool may_shift = !on_the_way || QConvForwardMomentsArgs{a, nullptr, nullptr}.fit(shift);
  const bool scale_shifts = may_shift && scale_takes(parts, shift);
  const Tiling tiling = tiling_of(tile, m, n, k_tiles, split.splits, scale_shifts ? 0 : shift);
  const Product multiply = choose_product(integers, x_decoder, on_the_way);
  multiply(tile, "qconv_forward", p, tiling, groups, parts);
  if (on_the_way) return finish_moments(sink, m, scale_shifts ? shift : 0, *moments);
  if (moments != nullptr) return finish_with_moments(sink, parts.partial, split.splits, *moments);
  finish("qconv_forward, parts", sink, parts, split);
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
