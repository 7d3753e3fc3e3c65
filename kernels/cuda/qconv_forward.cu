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

void forward(const QConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  const Sink sink = sink_of(a.y, a.sums, a.scale, a.bias, false, s.y_size());
  const Values x_values = values_of(a.x_format), w_values = values_of(a.w_format);
  if (!fits(s)) {
    const Operands in{a.x, a.w, x_values, w_values, packed_row_bytes(s.c), packed_row_bytes(s.c_group())};
    return run_any("qconv_forward", forward_any, s, in, sink);
  }
  const int64_t merged = merged_groups(s), groups = s.groups / merged;
  const int64_t m = s.n * s.oh() * s.ow(), n = merged * s.o_group();
  Layout layout;
  const Activations x(a.x, s.n * s.h * s.w, s.c, groups, layout);
  const WeightRows w(a.w, s, merged, WeightRows::Order::as_they_are, layout);
  const int64_t k_tiles = divide_up(s.kh * s.kw * x.chunks() * kChunk, kTileK);
  const Tile tile = choose_tile(groups, m, n, Patches::kMayBeWide);
  const Decoder x_decoder = decoder_of(a.x_format);
  const bool integers = a.w_format == Format::int4 && x_decoder != Decoder::table;
  const int shift = integers ? shift_of(x_decoder) + shift_of(Decoder::int4) : 0;
  const Split split = choose_split(tile, groups * tiles_of(tile, m, n), k_tiles,
                                   max_int32_terms(a.x_format, a.w_format) >> shift, sink.size);
  const int64_t partials = layout.add(split.splits > 1 ? split.splits * sink.size * 4 : 0);
  layout.allocate();
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
  const int left = scale_takes(parts, shift) ? 0 : shift;
  const auto run = !integers                     ? run_tile<PatchGather, Decoder::table, Decoder::table, Patches>
                   : x_decoder == Decoder::uint4 ? run_tile<PatchGather, Decoder::uint4, Decoder::int4, Patches>
                                                 : run_tile<PatchGather, Decoder::int4, Decoder::int4, Patches>;
  run(tile, "qconv_forward", p, grid_of(tile, m, n, k_tiles, split.splits, left), groups, parts);
  finish("qconv_forward, parts", sink, parts, split, s.o);
}

}  // namespace
}  // namespace luq::kernels::cuda::qconv

namespace luq::kernels::cuda {

void add_qconv_forward(Kernels& table) { table.qconv_forward = {qconv::forward, "cuda"}; }

}  // namespace luq::kernels::cuda
