// Backward-weight of the 4-bit convolutions, for every instruction set.
//
// dw[o, ky, kx, c] sums over pixels, so four neighbouring pixels are the four terms of a product. A tile takes up to 14
// output channels of dy, broadcast, and 16 or 32 input channels of one tap of x as its vectors, so that its result lies
// in dw as it does in registers. Both operands are packed for a group of images:
//
// - x, unsigned, as (image, panel, tap column, row residue modulo the stride, row, output pixels / 4, channel, 4): a
//   panel has as many channels as a tile, there is a copy for each column of the kernel, and for a tap all rows of an
//   image are one run of steps. What lies behind the last pixel of a row meets zeros of dy. Where a tap has no more
//   than 16 channels, the two blocks of a tile are two taps.
// - dy, signed, transposed to (image, channel, row, output pixels), rows padded with zeros to a multiple of 4.
//
// If everything fits into one group and there are many weights, tiles write their floats to dw. Else their sums live
// in memory, laid out like dw, between groups. Few weights: every thread has its own sums and works through groups on
// its own; they are added at the end. Many weights: all threads pack one group together, then share out its tiles.
// Either way the order of additions does not matter: they are integers. Past the int32 bound the groups form parts,
// added in int64.
//
// The offset of a signed x is taken away by the sum of dy over all pixels, which is taken while packing.
#include <omp.h>

#include <algorithm>

#include "kernels/cpu/qconv_common.h"
#include "kernels/cpu/qconv_driver.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

constexpr int64_t kOwnSumsBytes = 640 * 1024;   // most that a thread keeps for itself
constexpr int64_t kGroupBytes = 384 * 1024;     // packed operands of a group of one thread
constexpr int64_t kSharedGroupBytes = 8 << 20;  // of a group that all threads share
constexpr int64_t kFlatPixels = 128;            // a matrix product's pixels are cut into images of one row of so many

struct Problem {
  const QConvIsa& isa;
  const QConvBackwardWeightArgs& args;
  ConvShape shape;
  DecodeTable x_table, dy_table;

  int64_t pixels = 0;  // of a matrix product cut into rows, else 0
  int64_t oh = 0, ow = 0, quads = 0;
  int64_t x_pixel = 0, dy_pixel = 0;        // bytes of an unpacked pixel
  int64_t x_channels = 0, dy_channels = 0;  // padded to whole panels, and to 16
  int64_t panel = 0;                        // channels of a panel of x
  int64_t residues = 1;                     // of rows modulo the stride
  int64_t merge = 1, merged = 1;            // groups computed together, and how many such sets
  int64_t band_width = 0;                   // unpacked columns of a row of x, padding included
  int64_t set_c = 0, set_o = 0;             // channels of a set
  int64_t pitch = 0;                        // set_c padded to 16
  int64_t all = 0;                          // sums: (sets, set_o, kh, kw, pitch), then (dy_channels) of dy alone
  int64_t chain = 1;

  int64_t taps() const { return shape.kh * shape.kw; }
  bool has_offset() const { return x_table.offset != 0; }
  int64_t rows_of(int64_t out_rows) const {
    return (out_rows - 1) * shape.stride_h + (shape.kh - 1) * shape.dilation_h + 1;
  }
  int64_t row_bytes() const { return quads * panel * 4; }
  int64_t residue_rows(int64_t out_rows) const { return ceil_div(rows_of(out_rows), shape.stride_h); }
  int64_t panel_bytes(int64_t out_rows) const { return shape.kw * residues * residue_rows(out_rows) * row_bytes(); }
  int64_t x_image(int64_t out_rows) const { return x_channels / panel * panel_bytes(out_rows); }
  // Bytes of one channel, with room behind the last row for whole vectors.
  int64_t dy_channel(int64_t out_rows) const { return round_up(out_rows * quads * 4 + 16, 16); }
  int64_t dy_image(int64_t out_rows) const { return dy_channels * dy_channel(out_rows); }
  int64_t bytes(int64_t out_rows) const { return x_image(out_rows) + dy_image(out_rows); }
  // Bytes of a row of x or dy as pack_image() unpacks it.
  int64_t unpacked_row_bytes() const {
    return std::max((band_width + 4 * shape.stride_w) * x_pixel + panel, round_up(4 * quads, 16) * dy_pixel + 16);
  }
  int64_t set_groups(int64_t set) const { return std::min(merge, shape.groups - set * merge); }
};

// Some images, some output rows, packed.
struct Group {
  int64_t image, images, y, rows;
  uint8_t* x;
  int8_t* dy;
  int32_t* dy_sums;  // (images, dy_channels), where x has an offset
};

// (16 pixels `stride` bytes apart, 16 channels) to (16 channels `pitch` bytes apart, 16 pixels).
void transpose16(const uint8_t* from, int64_t stride, uint8_t* to, int64_t pitch) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * stride));
  const auto round = [](const __m128i* in, __m128i* out) {  // four of these reverse the roles of row and column
    for (int i = 0; i < 8; ++i) {
      out[2 * i] = _mm_unpacklo_epi8(in[i], in[i + 8]);
      out[2 * i + 1] = _mm_unpackhi_epi8(in[i], in[i + 8]);
    }
  };
  round(a, b);
  round(b, a);
  round(a, b);
  round(b, a);
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * pitch), a[i]);
}

// A row of x as bytes, padding included: (band_width, x_pixel), and after it room that may be read.
const uint8_t* unpack_x_row(const Problem& u, int64_t image, int64_t row, uint8_t* band) {
  const ConvShape& s = u.shape;
  const int64_t packed_pixel = u.x_pixel / 2;
  const int64_t left = std::min(s.pad_w, u.band_width);
  const int64_t valid = u.pixels > 0 ? std::min(s.w, u.pixels - image * s.w) : s.w;
  const int64_t end = std::clamp(left + valid, left, u.band_width);
  std::memset(band, u.x_table.zero(), left * u.x_pixel);
  u.isa.unpack(u.args.x + ((image * s.h + row) * s.w) * packed_pixel, (end - left) * packed_pixel, u.x_table.value,
               band + left * u.x_pixel);
  std::memset(band + end * u.x_pixel, u.x_table.zero(), (u.band_width - end) * u.x_pixel);
  return band;
}

// to: the row's place in the first panel, for the first column of the kernel.
void pack_x_row(const Problem& u, const uint8_t* band, uint8_t* to, int64_t kx_bytes, int64_t panel_bytes) {
  const ConvShape& s = u.shape;
  const int64_t step = s.stride_w * u.x_pixel;
  for (int64_t kx = 0; kx < s.kw; ++kx) {
    for (int64_t quad = 0; quad < u.quads; ++quad) {
      const uint8_t* from = band + kx * s.dilation_w * u.x_pixel + 4 * quad * step;
      uint8_t* quad_to = to + kx * kx_bytes + quad * u.panel * 4;
      for (int64_t c = 0; c < u.x_channels; c += 16, from += 16) {
        interleave4(from, from + step, from + 2 * step, from + 3 * step,
                    quad_to + c / u.panel * panel_bytes + c % u.panel * 4);
      }
    }
  }
}

// A vector may write behind the row's end: the next row, which comes later, overwrites it.
void pack_dy_row(const Problem& u, const Group& group, int64_t i, int64_t row, uint8_t* band) {
  const int64_t packed_pixel = u.dy_pixel / 2, image = group.image + i;
  const int64_t width = 4 * u.quads, columns = round_up(width, 16);
  const int64_t valid = u.pixels > 0 ? std::min(u.ow, u.pixels - image * u.ow) : u.ow;
  u.isa.unpack(u.args.dy + ((image * u.oh + group.y + row) * u.ow) * packed_pixel, valid * packed_pixel,
               u.dy_table.value, band);
  std::memset(band + valid * u.dy_pixel, 0, (columns - valid) * u.dy_pixel);
  const int64_t channel = u.dy_channel(group.rows);
  int8_t* to = group.dy + i * u.dy_image(group.rows) + row * width;
  for (int64_t o = 0; o < u.dy_channels; o += 16) {
    for (int64_t column = 0; column < width; column += 16) {
      transpose16(band + column * u.dy_pixel + o, u.dy_pixel, reinterpret_cast<uint8_t*>(to + o * channel + column),
                  channel);
    }
  }
  if (!u.has_offset()) return;
  int32_t* sums = group.dy_sums + i * u.dy_channels;
  for (int64_t pixel = 0; pixel < valid; ++pixel) {
    for (int64_t o = 0; o < u.dy_pixel; ++o) sums[o] += static_cast<int8_t>(band[pixel * u.dy_pixel + o]);
  }
}

// row_memory: unpacked_row_bytes().
void pack_image(const Problem& u, const Group& group, int64_t i, uint8_t* row_memory) {
  const ConvShape& s = u.shape;
  const int64_t rows = u.rows_of(group.rows), first = group.y * s.stride_h - s.pad_h;
  const int64_t residue_bytes = u.residue_rows(group.rows) * u.row_bytes(), kx_bytes = u.residues * residue_bytes;
  const int64_t panel_bytes = u.panel_bytes(group.rows);
  for (int64_t r = 0; r < rows; ++r) {
    bool used = false;
    for (int64_t ky = 0; ky < s.kh; ++ky) used = used || (r - ky * s.dilation_h) % s.stride_h == 0;
    if (!used) continue;
    uint8_t* to = group.x + i * u.x_image(group.rows) + r % u.residues * residue_bytes + r / s.stride_h * u.row_bytes();
    if (first + r >= 0 && first + r < s.h) {
      pack_x_row(u, unpack_x_row(u, group.image + i, first + r, row_memory), to, kx_bytes, panel_bytes);
      continue;
    }
    for (int64_t panel = 0; panel < u.x_channels / u.panel; ++panel) {
      for (int64_t kx = 0; kx < s.kw; ++kx) {
        std::memset(to + panel * panel_bytes + kx * kx_bytes, u.x_table.zero(), u.row_bytes());
      }
    }
  }
  if (u.has_offset()) std::fill_n(group.dy_sums + i * u.dy_channels, u.dy_channels, 0);
  for (int64_t r = 0; r < group.rows; ++r) pack_dy_row(u, group, i, r, row_memory);
}

// The work of a group in tiles, numbered: (set, panel, part of the output channels, tap), so that what the parts of a
// panel read stays in cache.
struct Tiles {
  int64_t pairs, parts, taps;  // taps: counted in steps of taps_at_once
  int64_t taps_at_once;
  int64_t count(const Problem& u) const { return u.merged * pairs * parts * taps; }
};

// The results go here: to sums in memory, or to dw itself.
struct Target {
  uint32_t* sums;
  bool add;                // the sums of an earlier group stay
  const int32_t* dy_sums;  // (set_o) of all pixels, where x has an offset; for dw
};

void run_tile(const Problem& u, const Tiles& tiles, const Group& group, const Target& target, int64_t index) {
  const ConvShape& s = u.shape;
  const int64_t tap = index % tiles.taps * tiles.taps_at_once, part = index / tiles.taps % tiles.parts;
  const int64_t set_pair = index / (tiles.taps * tiles.parts), set = set_pair / tiles.pairs;
  const int64_t c = set_pair % tiles.pairs * u.isa.max_blocks * kBlock;
  const bool two_taps = tiles.taps_at_once == 2 && tap + 1 < u.taps();
  const int64_t blocks = two_taps ? 2 : std::min<int64_t>(u.isa.max_blocks, (u.pitch - c) / kBlock);
  const int64_t o = part_begin(u.set_o, tiles.parts, part), rows = part_begin(u.set_o, tiles.parts, part + 1) - o;
  const int64_t channel = set * u.merge * s.c_group() + c;
  const auto tap_offset = [&](int64_t of) {
    const int64_t ky = of / s.kw * s.dilation_h, kx = of % s.kw;
    return ((kx * u.residues + ky % u.residues) * u.residue_rows(group.rows) + ky / s.stride_h) * u.row_bytes();
  };
  WeightTile tile{};
  tile.x = group.x + channel / u.panel * u.panel_bytes(group.rows) + channel % u.panel * 4 + tap_offset(tap);
  tile.x_step = u.panel * 4;
  tile.x_block = two_taps ? tap_offset(tap + 1) - tap_offset(tap) : kBlock * 4;
  tile.x_image = u.x_image(group.rows);
  tile.dy_stride = u.dy_channel(group.rows);
  tile.dy = group.dy + (set * u.merge * s.o_group() + o) * tile.dy_stride;
  tile.dy_image = u.dy_image(group.rows);
  tile.images = group.images;
  tile.steps = group.rows * u.quads;
  tile.chain = u.chain;
  if (target.sums != nullptr) {
    tile.stride = u.taps() * u.pitch;
    tile.sums = target.sums + ((set * u.set_o + o) * u.taps() + tap) * u.pitch + c;
    tile.add = target.add;
  } else {
    tile.stride = u.taps() * s.c;
    tile.dw = u.args.dw + (o * u.taps() + tap) * s.c + c;
    tile.channels = two_taps ? 2 * kBlock : s.c - c;
    tile.scale = u.args.scale;
    tile.scales = u.args.scales != nullptr ? u.args.scales + o : nullptr;
    tile.accumulate = u.args.accumulate;
    tile.offset = u.x_table.offset;
    tile.dy_sums = target.dy_sums != nullptr ? target.dy_sums + o : nullptr;
  }
  u.isa.weight[blocks - 1][rows - 1](tile);
}

// Adds up the sums of `copies` threads, takes the offset away and hands each true sum of row o of dw to
// `give_row(o)`(index in dw, sum).
template <class GiveRow>
void finish_sums(const Problem& u, const uint32_t* sums, int64_t copies, GiveRow give_row) {
  const ConvShape& s = u.shape;
  const int64_t taps = u.taps(), cg = s.c_group(), og = s.o_group();
  const uint32_t offset = static_cast<uint32_t>(u.x_table.offset);
#pragma omp parallel for schedule(static) if (s.w_size() > 16384)
  for (int64_t o = 0; o < s.o; ++o) {
    const int64_t group = o / og, set = group / u.merge, in_set = o - set * u.merge * og;
    const uint32_t* row = sums + (set * u.set_o + in_set) * taps * u.pitch + (group - set * u.merge) * cg;
    const auto give = give_row(o);
    uint32_t correction = 0;
    for (int64_t copy = 0; copy < copies; ++copy) correction += offset * sums[(copy + 1) * u.all - u.dy_channels + o];
    for (int64_t tap = 0; tap < taps; ++tap) {
      const uint32_t* from = row + tap * u.pitch;
      const int64_t to = (o * taps + tap) * cg;
      if (copies == 1) {
        for (int64_t c = 0; c < cg; ++c) give(to + c, static_cast<int32_t>(from[c] - correction));
        continue;
      }
      for (int64_t c = 0; c < cg; ++c) {
        uint32_t sum = from[c] - correction;
        for (int64_t copy = 1; copy < copies; ++copy) sum += from[copy * u.all + c];
        give(to + c, static_cast<int32_t>(sum));
      }
    }
  }
}

void plan(Problem& u) {
  ConvShape& s = u.shape;
  if (s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0) {
    u.pixels = s.n * s.h * s.w;
    s.w = std::min(u.pixels, kFlatPixels);
    s.h = 1;
    s.n = ceil_div(u.pixels, s.w);
  }
  u.oh = s.oh();
  u.ow = s.ow();
  u.quads = ceil_div(u.ow, 4);
  u.x_pixel = 2 * packed_row_bytes(s.c);
  u.dy_pixel = 2 * packed_row_bytes(s.o);
  // Groups begin anywhere, so their panel holds all channels, and a tile may read beyond its own.
  u.panel = s.groups == 1 ? std::min(u.isa.max_blocks * kBlock, round_up(s.c, kBlock))
                          : round_up(s.c, 16) + u.isa.max_blocks * kBlock;
  u.x_channels = round_up(s.c, u.panel);
  u.dy_channels = round_up(s.o, 16);
  u.residues = s.kh > 1 ? s.stride_h : 1;
  u.merge = merged_groups(s);
  u.merged = ceil_div(s.groups, u.merge);
  u.band_width = (u.ow - 1) * s.stride_w + (s.kw - 1) * s.dilation_w + 1;
  u.set_c = u.merge * s.c_group();
  u.set_o = u.merge * s.o_group();
  u.pitch = round_up(u.set_c, kBlock);
  u.all = u.merged * u.set_o * u.taps() * u.pitch + u.dy_channels;
  u.chain = int16_chain(u.x_table, u.dy_table);
}

}  // namespace

void qconv_backward_weight(const QConvIsa& isa, const QConvBackwardWeightArgs& args, QConvTask task) {
  static thread_local Scratch sums_scratch, total_scratch, x_scratch, dy_scratch, dy_sums_scratch, row_scratch;
  if (args.shape.w_size() <= 0) return;
  Problem u{.isa = isa,
            .args = args,
            .shape = args.shape,
            .x_table = DecodeTable::as_unsigned(args.x_table),
            .dy_table = DecodeTable::as_signed(args.dy_table)};
  const int64_t bound = max_int32_terms(args.x_table, args.dy_table);
  if (args.shape.y_size() > 0) plan(u);
  if (args.shape.y_size() <= 0 || u.oh * u.ow > bound) {
    if (task == QConvTask::run) ref_qconv_backward_weight(args);
    return;
  }
  const ConvShape& s = u.shape;
  const int threads = args.shape.macs() > kParallelMacs ? omp_get_max_threads() : 1;

  Tiles tiles;
  tiles.pairs = ceil_div(u.pitch, kBlock * isa.max_blocks);
  tiles.parts = ceil_div(u.set_o, isa.max_rows);

  // Groups: images, or rows of one image where that is large.
  const bool few_weights = u.all * 4 <= kOwnSumsBytes;
  int64_t group_rows = u.oh;
  while (group_rows > 1 && u.bytes(group_rows) > (few_weights ? kGroupBytes : kSharedGroupBytes)) {
    group_rows = ceil_div(group_rows, 2);
  }
  const int64_t bands = ceil_div(u.oh, group_rows);
  const int64_t fit = std::max<int64_t>(1, kGroupBytes / u.bytes(group_rows));
  int64_t group_images = std::min(fit, std::max<int64_t>(1, s.n / (4 * threads)));
  const bool own_sums = few_weights && (threads == 1 || ceil_div(s.n, group_images) * bands >= 2 * threads);
  if (!own_sums) group_images = std::min(s.n, std::max<int64_t>(1, kSharedGroupBytes / u.bytes(group_rows)));

  const int64_t part_images = std::max<int64_t>(1, bound / (u.oh * u.ow));
  const bool direct =
      !own_sums && s.groups == 1 && args.sums == nullptr && bands == 1 && group_images == s.n && s.n <= part_images;
  // If the channels of a tap are one block, the results of two taps lie behind each other.
  tiles.taps_at_once = isa.max_blocks == 2 && u.pitch == kBlock && (!direct || s.c == kBlock) ? 2 : 1;
  tiles.taps = ceil_div(u.taps(), tiles.taps_at_once);
  const int copies = own_sums ? threads : 1;

  // Memory: the sums, and what the largest group needs; once, or for each thread.
  const int64_t rows = ceil_div(u.oh, bands), images = std::min(group_images, s.n);
  const int64_t sharers = own_sums ? threads : 1;
  // The last set of groups may be a part of one, and its tiles read channels that are not there.
  const int64_t behind = std::max<int64_t>(u.merged * u.set_o - u.dy_channels, 0);
  const int64_t x_bytes = images * u.x_image(rows);
  const int64_t dy_bytes = images * u.dy_image(rows) + behind * u.dy_channel(rows);
  const int64_t dy_sums = u.has_offset() ? images * u.dy_channels : 0, row_bytes = u.unpacked_row_bytes();
  uint32_t* all_sums = sums_scratch.get<uint32_t>(direct ? u.dy_channels : copies * u.all);
  int64_t* total = s.n > part_images ? total_scratch.get<int64_t>(args.shape.w_size()) : nullptr;
  uint8_t* all_x = x_scratch.get<uint8_t>(x_bytes, sharers);
  int8_t* all_dy = dy_scratch.get<int8_t>(dy_bytes, sharers);
  int32_t* all_dy_sums = dy_sums_scratch.get<int32_t>(dy_sums, sharers);
  uint8_t* all_rows = row_scratch.get<uint8_t>(row_bytes, omp_get_max_threads());
  const bool have_total = s.n <= part_images || total != nullptr;
  if (!all_sums || !have_total || !all_x || !all_dy || !all_dy_sums || !all_rows) return;
  if (task == QConvTask::prepare) return;

  uint32_t* sums = direct ? nullptr : all_sums;
  if (total != nullptr) std::fill_n(total, args.shape.w_size(), 0);
  const auto row_memory = [&] { return all_rows + omp_get_thread_num() * Scratch::share<uint8_t>(row_bytes); };
  const auto group_at = [&](int64_t begin, int64_t end, int64_t index) {
    Group group{};
    group.image = begin + index / bands * group_images;
    group.images = std::min(group_images, end - group.image);
    group.y = part_begin(u.oh, bands, index % bands);
    group.rows = part_begin(u.oh, bands, index % bands + 1) - group.y;
    return group;
  };
  const auto give_memory = [&](Group& group, int64_t sharer) {
    group.x = all_x + sharer * Scratch::share<uint8_t>(x_bytes);
    group.dy = all_dy + sharer * Scratch::share<int8_t>(dy_bytes);
    group.dy_sums = all_dy_sums + sharer * Scratch::share<int32_t>(dy_sums);
  };
  // The sums of dy, behind the others.
  const auto add_dy_sums = [&](const Group& group, uint32_t* to) {
    for (int64_t i = 0; u.has_offset() && i < group.images; ++i) {
      for (int64_t o = 0; o < u.dy_channels; ++o) to[o] += static_cast<uint32_t>(group.dy_sums[i * u.dy_channels + o]);
    }
  };

  for (int64_t begin = 0; begin < s.n; begin += part_images) {
    const int64_t end = std::min(s.n, begin + part_images);
    const int64_t groups = ceil_div(end - begin, group_images) * bands;
    if (own_sums) {
#pragma omp parallel num_threads(threads)
      {
        uint32_t* own = sums + omp_get_thread_num() * u.all;
        std::fill_n(own + u.all - u.dy_channels, u.dy_channels, 0u);
        bool add = false;
#pragma omp for schedule(dynamic) nowait
        for (int64_t index = 0; index < groups; ++index) {
          Group group = group_at(begin, end, index);
          give_memory(group, omp_get_thread_num());
          for (int64_t i = 0; i < group.images; ++i) pack_image(u, group, i, row_memory());
          add_dy_sums(group, own + u.all - u.dy_channels);
          for (int64_t tile = 0; tile < tiles.count(u); ++tile) run_tile(u, tiles, group, {own, add, nullptr}, tile);
          add = true;
        }
        if (!add) std::fill_n(own, u.all, 0u);
        // Fewer threads may run than were asked for.
        for (int64_t copy = omp_get_num_threads() + omp_get_thread_num(); copy < copies;
             copy += omp_get_num_threads()) {
          std::fill_n(sums + copy * u.all, u.all, 0u);
        }
      }
    } else {
      uint32_t* dy_total = direct ? all_sums : sums + u.all - u.dy_channels;
      std::fill_n(dy_total, u.dy_channels, 0u);
      for (int64_t index = 0; index < groups; ++index) {
        Group group = group_at(begin, end, index);
        give_memory(group, 0);
#pragma omp parallel
        {
#pragma omp for schedule(dynamic)
          for (int64_t i = 0; i < group.images; ++i) pack_image(u, group, i, row_memory());
#pragma omp single
          add_dy_sums(group, dy_total);
          const Target target{sums, index > 0, u.has_offset() ? reinterpret_cast<const int32_t*>(dy_total) : nullptr};
#pragma omp for schedule(dynamic, 16)
          for (int64_t tile = 0; tile < tiles.count(u); ++tile) run_tile(u, tiles, group, target, tile);
        }
      }
    }
    if (direct) return;
    const bool last = end == s.n;
    const auto to_floats = [&](int64_t o) {
      return [dw = args.dw, scale = result_scale(args.scale, args.scales, o), accumulate = args.accumulate](
                 int64_t index, auto sum) {
        const float value = static_cast<float>(sum) * scale;
        dw[index] = accumulate ? value + dw[index] : value;
      };
    };
    if (total != nullptr && !last) {
      finish_sums(u, sums, copies, [&](int64_t) { return [&](int64_t index, int64_t sum) { total[index] += sum; }; });
    } else if (args.sums != nullptr) {
      finish_sums(u, sums, copies, [&](int64_t) {
        return [&](int64_t index, int64_t sum) { args.sums[index] = sum + (total != nullptr ? total[index] : 0); };
      });
    } else if (total != nullptr) {
      finish_sums(u, sums, copies, [&](int64_t o) {
        return [&, give = to_floats(o)](int64_t index, int64_t sum) { give(index, total[index] + sum); };
      });
    } else {
      finish_sums(u, sums, copies, to_floats);
    }
  }
}

}  // namespace luq::kernels
