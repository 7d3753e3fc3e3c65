// Backward-weight of the 4-bit convolutions, for every instruction set.
//
// dw[o, ky, kx, c] sums over pixels, so four neighbouring pixels are the four terms of a product: x is unpacked and
// transposed to planes, (image, row, column residue modulo the stride, channel, column), where a tap is an address and
// a step of any four columns is one load; dy becomes (image, row, pixels / 4, channel, 4), with zeros behind the last
// pixel of a row. A tile takes up to 14 input channels of one tap and 16 or 32 output channels through a group of
// images.
//
// Sums live in memory between groups. Few weights: every thread has its own and works through groups on its own; the
// sums are added at the end. Many weights: all threads pack one group together, then share out its tiles. Either way
// the order of additions does not matter: they are integers. Past the int32 bound the groups form parts, added in
// int64.
//
// The offset of a signed x is taken away by the sum of dy over all pixels, which is one more row of a tile, of ones.
#include <omp.h>

#include <algorithm>

#include "kernels/cpu/qconv_common.h"
#include "kernels/cpu/qconv_driver.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

constexpr int64_t kOwnSumsBytes = 640 * 1024;   // most that a thread keeps for itself
constexpr int64_t kGroupBytes = 256 * 1024;     // packed operands of a group of one thread
constexpr int64_t kSharedGroupBytes = 2 << 20;  // of a group that all threads share
constexpr int64_t kFlatPixels = 128;            // a matrix product's pixels are cut into images of one row of so many

struct Update {
  const QConvIsa& isa;
  const QConvBackwardWeightArgs& args;
  ConvShape shape;
  DecodeTable x_table, dy_table;

  int64_t pixels = 0;  // of a matrix product cut into rows, else 0
  int64_t oh = 0, ow = 0, quads = 0;
  int64_t x_pixel = 0, dy_pixel = 0;        // bytes of an unpacked pixel
  int64_t x_channels = 0, dy_channels = 0;  // padded to 16
  int64_t merge = 1, merged = 1;            // groups computed together, and how many such sets
  int64_t plane = 0, planes = 0;            // columns of a plane; planes (residues) of a row
  int64_t band_width = 0;                   // unpacked columns of a row of x, padding included
  int64_t set_c = 0, set_o = 0;             // channels of a set; set_o padded to 16
  int64_t pitch = 0;                        // of set_o, not a power of 2: rows would share cache sets
  int64_t set_sums = 0;                     // sums of a set: (kh, kw, set_c, set_o), then (set_o) of dy
  int64_t chain = 1;

  int64_t rows_of(int64_t out_rows) const {
    return (out_rows - 1) * shape.stride_h + (shape.kh - 1) * shape.dilation_h + 1;
  }
  int64_t x_row() const { return planes * x_channels * plane; }
  int64_t dy_row() const { return quads * dy_channels * 4; }
  int64_t bytes(int64_t out_rows) const { return rows_of(out_rows) * x_row() + out_rows * dy_row(); }
  int64_t set_groups(int64_t set) const { return std::min(merge, shape.groups - set * merge); }
};

// Some images, some output rows, packed.
struct Group {
  int64_t image, images, y, rows;
  uint8_t* x;  // (images, rows_of(rows), planes, x_channels, plane)
  int8_t* dy;  // (images, rows, quads, dy_channels, 4)
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

void pack_x_row(const Update& u, int64_t image, int64_t row, uint8_t* to, Scratch& scratch) {
  const ConvShape& s = u.shape;
  const int64_t packed_pixel = u.x_pixel / 2;
  uint8_t* band = scratch.get<uint8_t>((u.band_width + 16 * s.stride_w) * u.x_pixel);
  const int64_t left = std::min(s.pad_w, u.band_width);
  const int64_t valid = u.pixels > 0 ? std::min(s.w, u.pixels - image * s.w) : s.w;
  const int64_t end = std::clamp(left + valid, left, u.band_width);
  std::memset(band, u.x_table.zero(), left * u.x_pixel);
  u.isa.unpack(u.args.x + ((image * s.h + row) * s.w) * packed_pixel, (end - left) * packed_pixel, u.x_table.value,
               band + left * u.x_pixel);
  std::memset(band + end * u.x_pixel, u.x_table.zero(), (u.band_width - end) * u.x_pixel);
  for (int64_t residue = 0; residue < u.planes; ++residue) {
    const int64_t columns = ceil_div(u.band_width - residue, s.stride_w);
    for (int64_t c = 0; c < u.x_channels; c += 16) {
      for (int64_t column = 0; column < columns; column += 16) {
        transpose16(band + (residue + column * s.stride_w) * u.x_pixel + c, s.stride_w * u.x_pixel,
                    to + (residue * u.x_channels + c) * u.plane + column, u.plane);
      }
    }
  }
}

void pack_dy_row(const Update& u, int64_t image, int64_t row, int8_t* to, Scratch& scratch) {
  const int64_t packed_pixel = u.dy_pixel / 2;
  uint8_t* band = scratch.get<uint8_t>(4 * u.quads * u.dy_pixel);
  const int64_t valid = u.pixels > 0 ? std::min(u.ow, u.pixels - image * u.ow) : u.ow;
  u.isa.unpack(u.args.dy + ((image * u.oh + row) * u.ow) * packed_pixel, valid * packed_pixel, u.dy_table.value, band);
  std::memset(band + valid * u.dy_pixel, 0, (4 * u.quads - valid) * u.dy_pixel);
  for (int64_t quad = 0; quad < u.quads; ++quad) {
    for (int64_t o = 0; o < u.dy_channels; o += 16) {
      const uint8_t* from = band + 4 * quad * u.dy_pixel + o;
      interleave4(from, from + u.dy_pixel, from + 2 * u.dy_pixel, from + 3 * u.dy_pixel,
                  to + (quad * u.dy_channels + o) * 4);
    }
  }
}

void pack_image(const Update& u, const Group& group, int64_t i, Scratch& scratch) {
  const ConvShape& s = u.shape;
  const int64_t rows = u.rows_of(group.rows), first = group.y * s.stride_h - s.pad_h;
  for (int64_t r = 0; r < rows; ++r) {
    bool used = false;
    for (int64_t ky = 0; ky < s.kh; ++ky) used = used || (r - ky * s.dilation_h) % s.stride_h == 0;
    if (!used) continue;
    uint8_t* to = group.x + (i * rows + r) * u.x_row();
    if (first + r < 0 || first + r >= s.h) {
      std::memset(to, u.x_table.zero(), u.x_row());
    } else {
      pack_x_row(u, group.image + i, first + r, to, scratch);
    }
  }
  for (int64_t r = 0; r < group.rows; ++r) {
    pack_dy_row(u, group.image + i, group.y + r, group.dy + (i * group.rows + r) * u.dy_row(), scratch);
  }
}

// The work of a group in tiles, numbered: (set, pair of blocks, part of the input channels, tap), so that what the taps
// of a part read stays in cache. The tap after the last, in the first part, is that of the sums of dy.
struct Tiles {
  int64_t pairs, parts, taps;
  int64_t count(const Update& u) const { return u.merged * pairs * parts * taps; }
};

// add: the sums of an earlier group stay.
void run_tile(const Update& u, const Tiles& tiles, const Group& group, uint32_t* sums, bool add, int64_t index,
              const uint8_t* ones) {
  const ConvShape& s = u.shape;
  const int64_t tap = index % tiles.taps, part = index / tiles.taps % tiles.parts;
  const int64_t set_pair = index / (tiles.taps * tiles.parts), set = set_pair / tiles.pairs;
  const int64_t o = set_pair % tiles.pairs * u.isa.max_blocks * kBlock;
  const int64_t blocks = std::min<int64_t>(u.isa.max_blocks, (u.set_o - o) / kBlock);
  int64_t c = part_begin(u.set_c, tiles.parts, part), rows = part_begin(u.set_c, tiles.parts, part + 1) - c;
  UpdateTile tile{};
  if (tap == s.kh * s.kw) {
    if (part > 0) return;
    c = 0;
    rows = 1;
    tile.x = ones;
  } else {
    const int64_t ky = tap / s.kw, column = tap % s.kw * s.dilation_w;
    const int64_t channel = set * u.merge * s.c_group() + c;
    tile.x = group.x + ky * s.dilation_h * u.x_row() + (column % s.stride_w * u.x_channels + channel) * u.plane +
             column / s.stride_w;
    tile.x_stride = u.plane;
    tile.x_row = s.stride_h * u.x_row();
    tile.x_image = u.rows_of(group.rows) * u.x_row();
  }
  tile.dy = group.dy + (set * u.merge * s.o_group() + o) * 4;
  tile.dy_quad = u.dy_channels * 4;
  tile.dy_row = u.dy_row();
  tile.dy_image = group.rows * tile.dy_row;
  tile.images = group.images;
  tile.rows = group.rows;
  tile.quads = u.quads;
  tile.chain = u.chain;
  tile.sums = sums + set * u.set_sums + (tap * u.set_c + c) * u.pitch + o;
  tile.sums_stride = u.pitch;
  tile.add = add;
  u.isa.update[blocks - 1][rows - 1](tile);
}

// Adds up the sums of `copies` threads, takes the offset away and hands each true sum to `give`(index in dw, sum).
template <class Give>
void finish_sums(const Update& u, const uint32_t* sums, int64_t copies, Give give) {
  const ConvShape& s = u.shape;
  const int64_t taps = s.kh * s.kw, cg = s.c_group(), og = s.o_group(), sets = u.merged, all = u.merged * u.set_sums;
  const int64_t blocks = u.set_o / kBlock;
  const uint32_t offset = static_cast<uint32_t>(u.x_table.offset);
#pragma omp parallel for collapse(2) schedule(static) if (s.w_size() > 16384)
  for (int64_t set_block = 0; set_block < sets * blocks; ++set_block) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t set = set_block / blocks, first_o = set_block % blocks * kBlock;
      const int64_t o_end = std::min(kBlock, u.set_groups(set) * og - first_o);
      const uint32_t* from = sums + set * u.set_sums + first_o;
      for (int64_t first_c = 0; first_c < u.set_groups(set) * cg; first_c += kBlock) {
        const int64_t c_end = std::min(kBlock, u.set_groups(set) * cg - first_c);
        uint32_t square[kBlock][kBlock] = {};  // [c][o], so that both sides are walked in cache lines
        for (int64_t copy = 0; copy < copies; ++copy) {
          const uint32_t* own = from + copy * all;
          const uint32_t* dy_sum = own + taps * u.set_c * u.pitch;
          for (int64_t c = 0; c < c_end; ++c) {
            const uint32_t* row = own + (tap * u.set_c + first_c + c) * u.pitch;
            for (int64_t o = 0; o < kBlock; ++o) square[c][o] += row[o];
            if (offset == 0) continue;
            for (int64_t o = 0; o < kBlock; ++o) square[c][o] -= offset * dy_sum[o];
          }
        }
        for (int64_t o = 0; o < o_end; ++o) {
          const int64_t group = (first_o + o) / og;  // of the set: its channels are group * cg and following
          const int64_t begin = std::max<int64_t>(0, group * cg - first_c);
          const int64_t end = std::min(c_end, (group + 1) * cg - first_c);
          const int64_t to = ((set * u.merge * og + first_o + o) * taps + tap) * cg + first_c - group * cg;
          for (int64_t c = begin; c < end; ++c) give(to + c, static_cast<int32_t>(square[c][o]));
        }
      }
    }
  }
}

void plan(Update& u) {
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
  u.x_channels = round_up(s.c, 16);
  u.dy_channels = round_up(s.o, 16);
  u.merge = merged_groups(s);
  u.merged = ceil_div(s.groups, u.merge);
  u.band_width = (u.ow - 1) * s.stride_w + (s.kw - 1) * s.dilation_w + 1;
  u.planes = std::min(s.stride_w, u.band_width);
  if (s.kw == 1) u.planes = 1;
  u.plane = round_up(ceil_div(u.band_width, s.stride_w), 16);
  u.set_c = u.merge * s.c_group();
  u.set_o = round_up(u.merge * s.o_group(), kBlock);
  u.pitch = u.set_o % 256 == 0 ? u.set_o + kBlock : u.set_o;
  u.set_sums = (s.kh * s.kw * u.set_c + 1) * u.pitch;
  u.chain = int16_chain(u.x_table, u.dy_table);
}

}  // namespace

void run_qconv_backward_weight(const QConvIsa& isa, const QConvBackwardWeightArgs& args) {
  static thread_local Scratch sums_scratch, total_scratch, ones_scratch, shared_x, shared_dy;
  if (args.shape.w_size() <= 0) return;
  Update u{.isa = isa,
           .args = args,
           .shape = args.shape,
           .x_table = DecodeTable::as_unsigned(args.x_format),
           .dy_table = DecodeTable::as_signed(args.dy_format)};
  // The bound for sums over any formats, so that parts are equally long for all.
  const int64_t bound = max_int32_terms(Format::uint4, Format::fp4);
  if (args.shape.y_size() > 0) plan(u);
  if (args.shape.y_size() <= 0 || u.oh * u.ow > bound) {
    ref_qconv_backward_weight(args);
    return;
  }
  const ConvShape& s = u.shape;
  const int threads = args.shape.macs() > kParallelMacs ? omp_get_max_threads() : 1;
  const int64_t all = u.merged * u.set_sums;

  Tiles tiles;
  tiles.pairs = ceil_div(u.set_o, kBlock * isa.max_blocks);
  tiles.taps = s.kh * s.kw + (u.x_table.offset != 0 ? 1 : 0);
  tiles.parts = ceil_div(u.set_c, isa.max_rows);

  // Groups: images, or rows of one image where that is large.
  int64_t group_rows = u.oh;
  while (group_rows > 1 && u.bytes(group_rows) > kSharedGroupBytes) group_rows = ceil_div(group_rows, 2);
  const int64_t bands = ceil_div(u.oh, group_rows);
  const int64_t fit = std::max<int64_t>(1, kGroupBytes / u.bytes(group_rows));
  int64_t group_images = std::min(fit, std::max<int64_t>(1, s.n / (4 * threads)));
  const bool own_sums =
      threads == 1 || (all * 4 <= kOwnSumsBytes && ceil_div(s.n, group_images) * bands >= 2 * threads);
  if (!own_sums || all * 4 > kOwnSumsBytes) {
    group_images = std::min(s.n, std::max<int64_t>(1, kSharedGroupBytes / u.bytes(group_rows)));
  }
  uint8_t* ones = ones_scratch.get<uint8_t>(4 * u.quads);
  std::memset(ones, 1, 4 * u.quads);
  const int copies = own_sums ? threads : 1;
  uint32_t* sums = sums_scratch.get<uint32_t>(copies * all);

  const int64_t part_images = std::max<int64_t>(1, bound / (u.oh * u.ow));
  int64_t* total = nullptr;
  if (s.n > part_images) {
    total = total_scratch.get<int64_t>(args.shape.w_size());
    std::fill_n(total, args.shape.w_size(), 0);
  }
  const auto group_at = [&](int64_t begin, int64_t end, int64_t index) {
    Group group{};
    group.image = begin + index / bands * group_images;
    group.images = std::min(group_images, end - group.image);
    group.y = part_begin(u.oh, bands, index % bands);
    group.rows = part_begin(u.oh, bands, index % bands + 1) - group.y;
    return group;
  };
  const auto allocate = [&](Group& group, Scratch& x, Scratch& dy) {
    group.x = x.get<uint8_t>(group.images * u.rows_of(group.rows) * u.x_row());
    group.dy = dy.get<int8_t>(group.images * group.rows * u.dy_row());
  };

  for (int64_t begin = 0; begin < s.n; begin += part_images) {
    const int64_t end = std::min(s.n, begin + part_images);
    const int64_t groups = ceil_div(end - begin, group_images) * bands;
    if (own_sums) {
#pragma omp parallel num_threads(threads)
      {
        static thread_local Scratch x_scratch, dy_scratch, row_scratch;
        uint32_t* own = sums + omp_get_thread_num() * all;
        bool add = false;
#pragma omp for schedule(dynamic) nowait
        for (int64_t index = 0; index < groups; ++index) {
          Group group = group_at(begin, end, index);
          allocate(group, x_scratch, dy_scratch);
          for (int64_t i = 0; i < group.images; ++i) pack_image(u, group, i, row_scratch);
          for (int64_t tile = 0; tile < tiles.count(u); ++tile) run_tile(u, tiles, group, own, add, tile, ones);
          add = true;
        }
        if (!add) std::fill_n(own, all, 0u);
        // Fewer threads may run than were asked for.
        for (int64_t copy = omp_get_num_threads() + omp_get_thread_num(); copy < copies;
             copy += omp_get_num_threads()) {
          std::fill_n(sums + copy * all, all, 0u);
        }
      }
    } else {
      for (int64_t index = 0; index < groups; ++index) {
        Group group = group_at(begin, end, index);
        allocate(group, shared_x, shared_dy);
#pragma omp parallel
        {
          static thread_local Scratch row_scratch;
#pragma omp for schedule(dynamic)
          for (int64_t i = 0; i < group.images; ++i) pack_image(u, group, i, row_scratch);
#pragma omp for schedule(dynamic, 4)
          for (int64_t tile = 0; tile < tiles.count(u); ++tile) {
            run_tile(u, tiles, group, sums, index > 0, tile, ones);
          }
        }
      }
    }
    if (total != nullptr) {
      const bool last = end == s.n;
      finish_sums(u, sums, copies, [&](int64_t index, int64_t sum) {
        total[index] += sum;
        if (!last) return;
        if (args.sums != nullptr) {
          args.sums[index] = total[index];
        } else {
          args.dw[index] = static_cast<float>(total[index]) * args.scale;
        }
      });
    } else if (args.sums != nullptr) {
      finish_sums(u, sums, copies, [&](int64_t index, int64_t sum) { args.sums[index] = sum; });
    } else {
      finish_sums(u, sums, copies, [&](int64_t index, int64_t sum) {
        args.dw[index] = static_cast<float>(static_cast<int32_t>(sum)) * args.scale;
      });
    }
  }
}

}  // namespace luq::kernels
