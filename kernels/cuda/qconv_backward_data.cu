// The gradient of the input: patches of dy times w transposed, a product for each phase of the stride.
#include <algorithm>

#include "kernels/cuda/qconv_patches.h"
#include "kernels/cuda/tables.h"

namespace luq::kernels::cuda::qconv {
namespace {

void backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a);
  if (!fits(s)) return run_any(a, sink);
  const int64_t merged = merged_groups(s), groups = s.groups / merged, n = merged * s.c_group();
  const int64_t phases_h = std::min(s.stride_h, s.h), phases_w = std::min(s.stride_w, s.w);
  Layout layout;
  const Activations dy(a.dy, s.n * s.oh() * s.ow(), s.o, groups, layout);
  const bool integers = decoder_of(a.w_table) == Decoder::int4;
  const int shift = integers ? shift_of(Decoder::int4) : 0;
  const WeightRows w(a.w, s, merged, integers ? WeightRows::Order::transposed_apart : WeightRows::Order::transposed,
                     layout);
  // Phase 0 has the most outputs, and no phase more taps than all divided by the period.
  const auto axis_h = [&](int64_t phase) {
    return backward_axis(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h, phase);
  };
  const auto axis_w = [&](int64_t phase) {
    return backward_axis(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w, phase);
  };
  const auto tiles_along_k = [&](int64_t taps) { return divide_up(taps * dy.chunks() * kChunk, kTileK); };
  int64_t taps_h = 0, taps_w = 0;
  for (int64_t phase = 0; phase < phases_h; ++phase) taps_h = std::max<int64_t>(taps_h, axis_h(phase).taps);
  for (int64_t phase = 0; phase < phases_w; ++phase) taps_w = std::max<int64_t>(taps_w, axis_w(phase).taps);
  const int64_t products = groups * phases_h * phases_w, m = s.n * axis_h(0).rows * axis_w(0).rows;
  const Tile tile = choose_tile(groups, m, n, Patches::kMayBeWide);
  const Split split = choose_split(tile, products * tiles_of(tile, m, n), tiles_along_k(taps_h * taps_w),
                                   max_int32_terms(a.dy_table, a.w_table) >> shift, sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
  Patches p{.a = dy.ready(layout),
            .b = w.ready(layout),
            .a_values = values_of(a.dy_table),
            .b_values = values_of(a.w_table),
            .y = {},
            .x = {},
            .y_rows = {},
            .x_rows = {},
            .x_taps = {},
            .chunks = Divisor(dy.chunks()),
            .a_pixel = static_cast<uint32_t>(dy.row_bytes() / 16),
            .b_row = static_cast<uint32_t>(w.row_bytes() / 16),
            .b_group = static_cast<uint32_t>(w.group_bytes() / 16),
            .m = 0,
            .n = static_cast<int>(n),
            .kernel_w = static_cast<int>(s.kw),
            .channels = static_cast<int>(s.c)};
  Sink parts = sink_of_product(sink, n, split.splits > 1, partials, layout);
  const int left = scale_takes(parts, shift) ? 0 : shift;
  const auto run = integers ? run_tile<PatchGather, Decoder::table, Decoder::int4, Patches>
                            : run_tile<PatchGather, Decoder::table, Decoder::table, Patches>;
  for (int64_t phase = 0; phase < phases_h * phases_w; ++phase) {
    p.y = axis_h(phase / phases_w);
    p.x = axis_w(phase % phases_w);
    p.y_rows = Divisor(p.y.rows);
    p.x_rows = Divisor(p.x.rows);
    p.x_taps = Divisor(p.x.taps);
    const int64_t here = s.n * p.y.rows * p.x.rows;
    p.m = static_cast<int>(here);
    const Tiling tiling = tiling_of(tile, here, n, tiles_along_k(int64_t{p.y.taps} * p.x.taps), split.splits, left);
    run(tile, "qconv_backward_data", p, tiling, groups, parts);
  }
  finish("qconv_backward_data, parts", sink, parts, split);
}

}  // namespace
}  // namespace luq::kernels::cuda::qconv

namespace luq::kernels::cuda {

void add_qconv_backward_data(Kernels& table) { table.qconv_backward_data = {qconv::backward_data, "cuda"}; }

}  // namespace luq::kernels::cuda
