// Forward and backward-data of the 4-bit convolutions, for every instruction set.
//
// Both are one problem: output position (y, x) sums, over taps, input row y * step + offset(tap) and column alike, of
// all channels. Forward has one phase. Backward-data has stride_h * stride_w of them, one per residue of the position
// modulo the stride, each a convolution of dy of stride 1 with the taps of that residue: no zeros are ever multiplied.
//
// A unit of work is a band: some images, some output rows. Its input is unpacked once into bytes, padding included,
// [image][row][column][channel], and stays in the L2 cache. No im2col: a tile's rows are positions a fixed stride apart
// in the band (neighbours in a row, or the same position of successive images where rows are short), and the taps of a
// kernel row, being neighbours in memory, are one run of terms. Channels are padded to an even count, as they are when
// packed, and a run to a multiple of 4; the weights there are zero, so what the padding holds does not matter. Weights
// are unpacked and laid out once a call.
#include "kernels/cpu/qconv_driver.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/qconv_common.h"
#include "kernels/tables.h"

namespace luq::kernels {
namespace {

constexpr int64_t kBandBytes = 192 * 1024;

struct Tap {
  int64_t kernel_index;  // ky or kx
  int64_t offset;        // input row (column) for output row (column) 0
};

// The taps of one residue in one dimension, by rising offset, and the positions where they produce output.
struct Residue {
  std::vector<Tap> taps;
  int64_t begin = 0, end = 0;  // positions
  int64_t first = 0;           // output index of position 0; the next position is `output_step` further
};

struct Dimension {
  int64_t input = 0;        // size of the input
  int64_t step = 1;         // input distance of neighbouring positions
  int64_t output_step = 1;  // output distance of neighbouring positions
  int64_t positions = 0;
  int64_t first = 0, reach = 0;  // smallest offset of a tap, distance from there to the largest
  std::vector<Residue> residues;

  void finish() {
    int64_t last = first = residues.front().taps.front().offset;
    for (const Residue& residue : residues) {
      for (const Tap& tap : residue.taps) {
        first = std::min(first, tap.offset);
        last = std::max(last, tap.offset);
      }
      positions = std::max(positions, residue.end);
    }
    reach = last - first;
  }
  // Neighbouring taps are neighbours in the input.
  bool dense() const {
    for (const Residue& residue : residues) {
      for (size_t i = 1; i < residue.taps.size(); ++i) {
        if (residue.taps[i].offset != residue.taps[i - 1].offset + 1) return false;
      }
    }
    return true;
  }
};

Dimension forward_dimension(int64_t input, int64_t output, int64_t kernel, int64_t stride, int64_t pad,
                            int64_t dilation) {
  Dimension d;
  d.input = input;
  d.step = stride;
  Residue all{.taps = {}, .begin = 0, .end = output, .first = 0};
  for (int64_t k = 0; k < kernel; ++k) all.taps.push_back({k, k * dilation - pad});
  d.residues.push_back(std::move(all));
  d.finish();
  return d;
}

// Input index i of the convolution, an output here: i + pad = stride * q + residue, from dy at q - t for every tap with
// k * dilation = stride * t + residue. Position 0 is the smallest q.
Dimension backward_dimension(int64_t input, int64_t output, int64_t kernel, int64_t stride, int64_t pad,
                             int64_t dilation) {
  Dimension d;
  d.input = output;
  d.output_step = stride;
  const int64_t q0 = pad / stride;
  for (int64_t residue = 0; residue < stride; ++residue) {
    Residue r;
    r.begin = (residue < pad ? ceil_div(pad - residue, stride) : 0) - q0;
    const int64_t last = pad + input - 1 - residue;
    r.end = last < 0 ? r.begin : std::max(r.begin, last / stride + 1 - q0);
    r.first = stride * q0 + residue - pad;
    for (int64_t k = kernel - 1; k >= 0; --k) {
      if (k * dilation % stride == residue) r.taps.push_back({k, q0 - k * dilation / stride});
    }
    d.residues.push_back(std::move(r));
  }
  d.finish();
  return d;
}

struct Phase {
  const Residue* rows;
  const Residue* columns;
  std::vector<int64_t> run_offset;  // (runs) bytes from the first tap's place in the band
  int64_t steps = 0;                // of each run
  int64_t w = 0;                    // place of its weights: (merged, blocks, runs, steps, 16, 4)
  int64_t start = 0;                // (merged, blocks * 16)

  int64_t runs() const { return static_cast<int64_t>(run_offset.size()); }
};

struct Problem {
  const QConvIsa& isa;
  const ConvShape& shape;
  bool transposed;  // backward-data: sums over output channels
  const uint8_t* input;
  DecodeTable table;
  const uint8_t* w;
  DecodeTable w_table;
  float scale;
  const float* scales;  // of output channels, or, transposed, of images
  const float* bias;
  bool accumulate;
  Floats y;
  int64_t* sums;
  bool with_moments = false;
  int64_t image_pixels = 1;  // images here that were the pixels of one image

  Dimension rows{}, columns{};
  int64_t images = 0;
  int64_t pixel = 0;     // bytes of an unpacked input pixel
  int64_t in_group = 0;  // channels summed over, of a group
  int64_t out_group = 0;
  int64_t out_channels = 0, out_h = 0, out_w = 0;
  int64_t merge = 1, merged = 1;  // groups computed together, and how many such sets
  bool merged_taps = false;       // the taps of a kernel row are one run
  int64_t band_width = 0;         // columns of a band
  std::vector<Phase> phases{};
  int64_t blocks = 0;              // blocks of 16 output channels of a set of groups
  int8_t* weight_bytes = nullptr;  // each weight as a byte
  int8_t* packed_w = nullptr;
  uint32_t* start = nullptr;  // (phases, sets, blocks * 16) minus the offset's share, modulo 2^32
  int64_t chain = 1;
  int64_t* moments = nullptr;  // (threads, 2, sets, blocks * 16), as ConvTile has them

  int64_t moment_stride() const { return merged * blocks * kBlock; }
  int64_t set_groups(int64_t set) const { return std::min(merge, shape.groups - set * merge); }
  int64_t w_block_bytes(const Phase& phase) const { return phase.runs() * phase.steps * kBlock * 4; }
};

void plan_phases(Problem& p) {
  p.merge = merged_groups(p.shape);
  p.merged = ceil_div(p.shape.groups, p.merge);
  p.blocks = ceil_div(p.merge * p.out_group, kBlock);
  p.band_width = (p.columns.positions - 1) * p.columns.step + p.columns.reach + 1;
  p.merged_taps = p.merged == 1 && p.columns.dense();
  int64_t w = 0, start = 0;
  for (const Residue& row : p.rows.residues) {
    for (const Residue& column : p.columns.residues) {
      Phase phase{.rows = &row, .columns = &column, .run_offset = {}};
      const int64_t taps = static_cast<int64_t>(column.taps.size());
      phase.steps = ceil_div(p.merged_taps ? taps * p.pixel : p.merge * p.in_group, 4);
      for (const Tap& ty : row.taps) {
        for (int64_t i = 0; i < (p.merged_taps ? std::min<int64_t>(taps, 1) : taps); ++i) {
          phase.run_offset.push_back(
              ((ty.offset - p.rows.first) * p.band_width + column.taps[i].offset - p.columns.first) * p.pixel);
        }
      }
      phase.w = w;
      phase.start = start;
      w += p.merged * p.blocks * p.w_block_bytes(phase);
      start += p.merged * p.blocks * kBlock;
      p.phases.push_back(std::move(phase));
    }
  }
}

// One block of 16 output channels of a phase without groups. `bytes`: unpacked weights (o, kh, kw, even c / groups).
void pack_block(const Problem& p, const Phase& phase, int64_t block, const int8_t* bytes, int8_t* to, uint32_t* start) {
  const ConvShape& s = p.shape;
  const int64_t c_even = 2 * packed_row_bytes(s.c_group());
  const int64_t taps = p.merged_taps ? static_cast<int64_t>(phase.columns->taps.size()) : 1;
  const int64_t length = p.merged_taps ? taps * p.pixel : p.in_group;
  const int64_t first = block * kBlock;
  alignas(16) static const int8_t zeros[16] = {};
  const uint32_t offset = static_cast<uint32_t>(p.table.offset);
  std::fill_n(start, kBlock, 0u);
  int64_t run = 0;
  for (const Tap& ty : phase.rows->taps) {
    for (size_t i = 0; i < phase.columns->taps.size(); i += taps, ++run) {
      int8_t* steps = to + run * phase.steps * kBlock * 4;
      const auto row = [&](int64_t o, int64_t tap) {
        return bytes + ((o * s.kh + ty.kernel_index) * s.kw + phase.columns->taps[i + tap].kernel_index) * c_even;
      };
      if (p.transposed) {
        for (int64_t step = 0; step < phase.steps; ++step) {
          const int8_t* term[4];
          for (int64_t j = 0; j < 4; ++j) {
            const int64_t position = step * 4 + j, o = position % p.pixel;
            const bool inside = position < length && o < s.o;
            term[j] = inside ? row(o, position / p.pixel) + first : zeros;
            for (int lane = 0; lane < kBlock; ++lane) start[lane] -= offset * static_cast<uint32_t>(term[j][lane]);
          }
          interleave4(term[0], term[1], term[2], term[3], steps + step * kBlock * 4);
        }
        continue;
      }
      for (int64_t lane = 0; lane < kBlock; ++lane) {
        const bool inside = first + lane < s.o;
        const int8_t* from = inside ? row(first + lane, 0) : nullptr;  // the taps of a run follow each other
        uint32_t sum = 0;
        for (int64_t step = 0; step < phase.steps; ++step) {
          int8_t four[4] = {};
          if (inside) std::memcpy(four, from + step * 4, step * 4 + 4 <= length ? 4 : length - step * 4);
          std::memcpy(steps + (step * kBlock + lane) * 4, four, 4);
        }
        for (int64_t k = 0; inside && k < length; ++k) sum += static_cast<uint32_t>(from[k]);
        start[lane] -= offset * sum;
      }
    }
  }
}

// A set of merged groups of a phase: each weight to its place, zeros elsewhere.
void pack_groups(const Problem& p, const Phase& phase, int64_t set, const int8_t* bytes, int8_t* to, uint32_t* start) {
  const ConvShape& s = p.shape;
  const int64_t c_even = 2 * packed_row_bytes(s.c_group());
  std::memset(to, 0, p.blocks * p.w_block_bytes(phase));
  const uint32_t offset = static_cast<uint32_t>(p.table.offset);
  std::fill_n(start, p.blocks * kBlock, 0u);
  int64_t run = 0;
  for (const Tap& ty : phase.rows->taps) {
    for (size_t tap = 0; tap < phase.columns->taps.size(); ++tap) {
      const int64_t kernel_index = ty.kernel_index * s.kw + phase.columns->taps[tap].kernel_index;
      for (int64_t group = 0; group < p.set_groups(set); ++group) {
        for (int64_t in = 0; in < p.in_group; ++in) {
          for (int64_t out = 0; out < p.out_group; ++out) {
            const int64_t o = (set * p.merge + group) * s.o_group() + (p.transposed ? in : out);
            const int8_t value = bytes[(o * s.kh * s.kw + kernel_index) * c_even + (p.transposed ? out : in)];
            const int64_t position = group * p.in_group + in + (p.merged_taps ? tap * p.pixel : 0);
            const int64_t lane = group * p.out_group + out;
            to[((((lane / kBlock) * phase.runs() + run) * phase.steps + position / 4) * kBlock + lane % kBlock) * 4 +
               position % 4] = value;
            start[lane] -= offset * static_cast<uint32_t>(value);
          }
        }
      }
      if (!p.merged_taps) ++run;
    }
    if (p.merged_taps && !phase.columns->taps.empty()) ++run;
  }
}

// Memory for the weights; false where there is none.
bool have_weights_memory(Problem& p) {
  static thread_local Scratch bytes_scratch, packed_scratch, start_scratch;
  const ConvShape& s = p.shape;
  const Phase& last = p.phases.back();
  p.weight_bytes = bytes_scratch.get<int8_t>(2 * s.o * s.kh * s.kw * packed_row_bytes(s.c_group()));
  p.packed_w = packed_scratch.get<int8_t>(last.w + p.merged * p.blocks * p.w_block_bytes(last));
  p.start = start_scratch.get<uint32_t>(last.start + p.merged * p.blocks * kBlock);
  return p.weight_bytes != nullptr && p.packed_w != nullptr && p.start != nullptr;
}

void pack_weights(const Problem& p) {
  const ConvShape& s = p.shape;
  const int64_t packed_bytes = s.o * s.kh * s.kw * packed_row_bytes(s.c_group());
  int8_t *bytes = p.weight_bytes, *packed = p.packed_w;
  uint32_t* start = p.start;
  constexpr int64_t chunk = 1 << 14;
  const bool parallel = packed_bytes > chunk;
#pragma omp parallel if (parallel)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < packed_bytes; i += chunk) {
      p.isa.unpack(p.w + i, std::min(chunk, packed_bytes - i), p.w_table.value,
                   reinterpret_cast<uint8_t*>(bytes) + 2 * i);
    }
    for (const Phase& phase : p.phases) {
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < p.merged * p.blocks; ++i) {
        if (s.groups == 1) {
          pack_block(p, phase, i, bytes, packed + phase.w + i * p.w_block_bytes(phase),
                     start + phase.start + i * kBlock);
        } else if (i % p.blocks == 0) {
          pack_groups(p, phase, i / p.blocks, bytes, packed + phase.w + i * p.w_block_bytes(phase),
                      start + phase.start + i * kBlock);
        }
      }
    }
  }
}

// How the output is cut: units of `images` x `rows` positions, and the columns of tiles of a unit in `splits` parts.
struct Cut {
  bool across_images;  // the rows of a tile are images, not neighbours in a row
  int64_t images, rows, splits;
};

Cut cut_work(const Problem& p) {
  const int64_t threads = omp_get_max_threads(), tile = p.isa.max_rows;
  Cut cut{};
  cut.across_images = p.columns.positions < tile / 2 && p.images > p.columns.positions;
  const auto band_bytes = [&](int64_t rows) {
    return ((rows - 1) * p.rows.step + p.rows.reach + 1) * p.band_width * p.pixel;
  };
  cut.rows = p.rows.positions;
  cut.images = cut.across_images ? std::min(p.images, tile) : 1;
  while (cut.rows > 1 && cut.images * band_bytes(cut.rows) > kBandBytes) cut.rows = ceil_div(cut.rows, 2);
  const auto units = [&] { return ceil_div(p.images, cut.images) * ceil_div(p.rows.positions, cut.rows); };
  if (cut.rows == p.rows.positions && cut.across_images) {
    const int64_t fit = std::max<int64_t>(1, kBandBytes / std::max<int64_t>(1, band_bytes(cut.rows) * tile));
    const int64_t share = std::max<int64_t>(1, p.images / (4 * threads * tile));
    cut.images = std::min(p.images, tile * std::min(fit, share));
  }
  while (cut.rows > 1 && units() < 2 * threads) cut.rows = ceil_div(cut.rows, 2);
  const int64_t columns = p.merged * ceil_div(p.blocks, p.isa.max_blocks);
  cut.splits = units() >= 2 * threads ? 1 : std::min(columns, ceil_div(2 * threads, units()));
  return cut;
}

// Input of a unit as bytes: (images, rows, band_width, pixel), padding and pixels outside the input hold the zero.
struct Band {
  int64_t rows, row_bytes, image_bytes;
  const uint8_t* data;
};

Band band_of(const Problem& p, int64_t y_count) {
  Band band{};
  band.rows = (y_count - 1) * p.rows.step + p.rows.reach + 1;
  band.row_bytes = p.band_width * p.pixel;
  band.image_bytes = band.rows * band.row_bytes;
  return band;
}

Band unpack_band(const Problem& p, int64_t image, int64_t images, int64_t y, int64_t y_count, uint8_t* to) {
  Band band = band_of(p, y_count);
  band.data = to;
  const int64_t first_row = y * p.rows.step + p.rows.first, packed_pixel = p.pixel / 2;
  const int64_t left = std::clamp<int64_t>(-p.columns.first, 0, p.band_width);
  const int64_t end = std::clamp<int64_t>(p.columns.input - p.columns.first, left, p.band_width);
  if (end - left == p.columns.input && left == 0 && end == p.band_width && first_row == 0 &&
      band.rows == p.rows.input) {
    const int64_t packed = band.rows * p.columns.input * packed_pixel;
    p.isa.unpack(p.input + image * packed, images * packed, p.table.value, to);
    return band;
  }
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t r = 0; r < band.rows; ++r, to += band.row_bytes) {
      bool used = false;  // with a kernel smaller than the stride some rows are not
      for (const Residue& residue : p.rows.residues) {
        for (const Tap& tap : residue.taps) used = used || (r - tap.offset + p.rows.first) % p.rows.step == 0;
      }
      if (!used) continue;
      const int64_t row = first_row + r;
      if (row < 0 || row >= p.rows.input || end <= left) {
        std::memset(to, p.table.zero(), band.row_bytes);
        continue;
      }
      std::memset(to, p.table.zero(), left * p.pixel);
      const int64_t from = ((image + i) * p.rows.input + row) * p.columns.input + p.columns.first + left;
      p.isa.unpack(p.input + from * packed_pixel, (end - left) * packed_pixel, p.table.value, to + left * p.pixel);
      std::memset(to + end * p.pixel, p.table.zero(), (p.band_width - end) * p.pixel);
    }
  }
  return band;
}

// The tiles of one unit in one phase and one or two blocks of output channels.
void run_tiles(const Problem& p, const Cut& cut, const Band& band, const Phase& phase, int64_t set, int64_t block,
               int blocks, int64_t image, int64_t images, int64_t y_begin, int64_t y_end) {
  const int64_t set_channel = set * p.merge * p.out_group, channel = set_channel + block * kBlock;
  ConvTile tile{};
  tile.run_offset = phase.run_offset.data();
  tile.runs = phase.runs();
  tile.steps = phase.steps;
  tile.chain = p.chain;
  tile.w_block = p.w_block_bytes(phase);
  tile.w = p.packed_w + phase.w + (set * p.blocks + block) * tile.w_block;
  tile.start = p.start + phase.start + (set * p.blocks + block) * kBlock;
  tile.scale = p.scale;
  tile.scales = p.scales != nullptr && !p.transposed ? p.scales + channel : nullptr;
  tile.bias = p.bias != nullptr ? p.bias + channel : nullptr;
  tile.accumulate = p.accumulate;
  tile.moments = nullptr;
  tile.moment_stride = p.moment_stride();
  if (p.moments != nullptr) {
    tile.moments = p.moments + omp_get_thread_num() * 2 * tile.moment_stride + (set * p.blocks + block) * kBlock;
  }
  tile.channels = std::min<int64_t>(blocks * kBlock, set_channel + p.set_groups(set) * p.out_group - channel);
  const uint8_t* origin = band.data + set * p.merge * p.in_group;
  const int64_t x_step = p.columns.step * p.pixel, y_step = p.columns.output_step * p.out_channels;
  const int64_t x_begin = phase.columns->begin, x_end = phase.columns->end;
  float row_scales[kMaxTileRows];
  const bool scaled_images = p.transposed && p.scales != nullptr;
  tile.row_scales = scaled_images ? row_scales : nullptr;
  const auto run = [&](int64_t i, int64_t y, int64_t x, int64_t rows) {
    for (int64_t row = 0; scaled_images && row < rows; ++row) {
      row_scales[row] = p.scale * p.scales[(image + i + (cut.across_images ? row : 0)) / p.image_pixels];
    }
    tile.x = origin + i * band.image_bytes + (y - y_begin) * p.rows.step * band.row_bytes + x * x_step;
    const int64_t out_y = y * p.rows.output_step + phase.rows->first;
    const int64_t out_x = x * p.columns.output_step + phase.columns->first;
    const int64_t at = (((image + i) * p.out_h + out_y) * p.out_w + out_x) * p.out_channels + channel;
    tile.y = p.y.bfloat16 ? Floats(p.y.as<BFloat16>() + at) : Floats(p.y.as<float>() + at);
    if (p.sums != nullptr) tile.sums = p.sums + at;
    p.isa.conv[blocks - 1][rows - 1](tile);
  };
  const int64_t length = cut.across_images ? images : x_end - x_begin;
  const int64_t parts = ceil_div(length, p.isa.max_rows);
  tile.x_stride = cut.across_images ? band.image_bytes : x_step;
  tile.y_stride = cut.across_images ? p.out_h * p.out_w * p.out_channels : y_step;
  for (int64_t i = 0; i < (cut.across_images ? 1 : images); ++i) {
    for (int64_t y = std::max(y_begin, phase.rows->begin); y < std::min(y_end, phase.rows->end); ++y) {
      for (int64_t x = x_begin; x < (cut.across_images ? x_end : std::min(x_end, x_begin + 1)); ++x) {
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t first = part_begin(length, parts, part), rows = part_begin(length, parts, part + 1) - first;
          if (cut.across_images) {
            run(first, y, x, rows);
          } else {
            run(i, y, x + first, rows);
          }
        }
      }
    }
  }
}

// False where there is no memory.
bool solve(Problem& p, QConvTask task) {
  p.out_channels = p.transposed ? p.shape.c : p.shape.o;
  p.in_group = p.transposed ? p.shape.o_group() : p.shape.c_group();
  p.out_group = p.transposed ? p.shape.c_group() : p.shape.o_group();
  p.pixel = 2 * packed_row_bytes(p.in_group * p.shape.groups);
  p.chain = int16_chain(p.table, p.w_table);
  plan_phases(p);
  const Cut cut = cut_work(p);
  static thread_local Scratch moments_scratch, band_scratch;
  const int64_t moments = p.with_moments ? omp_get_max_threads() * 2 * p.moment_stride() : 0;
  if (p.with_moments) p.moments = moments_scratch.get<int64_t>(moments);
  const int64_t band_bytes = std::min(cut.images, p.images) * band_of(p, cut.rows).image_bytes;
  uint8_t* all_bands = band_scratch.get<uint8_t>(band_bytes, omp_get_max_threads());
  if (!have_weights_memory(p) || all_bands == nullptr || (p.with_moments && p.moments == nullptr)) return false;
  if (task == QConvTask::prepare) return true;
  pack_weights(p);
  std::fill_n(p.moments, moments, int64_t{0});
  const int64_t bands = ceil_div(p.rows.positions, cut.rows), groups = ceil_div(p.images, cut.images);
  const int64_t pairs = ceil_div(p.blocks, p.isa.max_blocks);
#pragma omp parallel for collapse(3) schedule(dynamic) if (p.shape.macs() > kParallelMacs)
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t b = 0; b < bands; ++b) {
      for (int64_t split = 0; split < cut.splits; ++split) {
        const int64_t image = group * cut.images, images = std::min(cut.images, p.images - image);
        const int64_t y = part_begin(p.rows.positions, bands, b), y_end = part_begin(p.rows.positions, bands, b + 1);
        uint8_t* own = all_bands + omp_get_thread_num() * Scratch::share<uint8_t>(band_bytes);
        const Band band = unpack_band(p, image, images, y, y_end - y, own);
        const int64_t begin = part_begin(p.merged * pairs, cut.splits, split);
        const int64_t end = part_begin(p.merged * pairs, cut.splits, split + 1);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t block = i % pairs * p.isa.max_blocks;
          const int blocks = static_cast<int>(std::min<int64_t>(p.isa.max_blocks, p.blocks - block));
          for (const Phase& phase : p.phases)
            run_tiles(p, cut, band, phase, i / pairs, block, blocks, image, images, y, y_end);
        }
      }
    }
  }
  return true;
}

// Mean and variance of each channel from the moments of all threads. rows * squares - sums^2 is exact in 128 bits.
void finish_moments(const Problem& p, float* mean, float* variance) {
  const int64_t rows = p.images * p.out_h * p.out_w;
  const int64_t stride = p.moment_stride();
  for (int64_t set = 0; set < p.merged; ++set) {
    for (int64_t lane = 0; lane < p.set_groups(set) * p.out_group; ++lane) {
      const int64_t place =
          set * p.blocks * kBlock + lane / kBlock * kBlock + lane % 2 * (kBlock / 2) + lane % kBlock / 2;
      int64_t sum = 0, square = 0;
      for (int64_t thread = 0; thread < omp_get_max_threads(); ++thread) {
        sum += p.moments[thread * 2 * stride + place];
        square += p.moments[(thread * 2 + 1) * stride + place];
      }
      const int64_t channel = set * p.merge * p.out_group + lane;
      moments_of_sums(sum, square, rows, result_scale(p.scale, p.scales, channel), mean + channel, variance + channel);
    }
  }
}

// A 1x1 convolution of stride 1 without padding is a matrix product: every pixel becomes an image of one.
ConvShape flatten_pointwise(const ConvShape& shape) {
  ConvShape s = shape;
  const bool pointwise = s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0;
  if (!pointwise) return s;
  s.n = s.n * s.h * s.w;
  s.h = s.w = 1;
  return s;
}

// `s` is flattened, and has results.
Problem forward_problem(const QConvIsa& isa, const ConvShape& s, const QConvForwardArgs& args) {
  Problem p{.isa = isa,
            .shape = s,
            .transposed = false,
            .input = args.x,
            .table = DecodeTable::as_unsigned(args.x_table),
            .w = args.w,
            .w_table = DecodeTable::as_signed(args.w_table),
            .scale = args.scale,
            .scales = args.scales,
            .bias = args.bias,
            .accumulate = args.accumulate,
            .y = args.y,
            .sums = args.sums};
  p.rows = forward_dimension(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h);
  p.columns = forward_dimension(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w);
  p.images = s.n;
  p.out_h = s.oh();
  p.out_w = s.ow();
  return p;
}

}  // namespace

void qconv_forward(const QConvIsa& isa, const QConvForwardArgs& args, QConvTask task) {
  const ConvShape s = flatten_pointwise(args.shape);
  if (s.y_size() <= 0) return;
  if (s.kh * s.kw * s.c_group() > max_int32_terms(args.x_table, args.w_table)) {
    if (task == QConvTask::run) ref_qconv_forward(args);
    return;
  }
  Problem p = forward_problem(isa, s, args);
  solve(p, task);
}

void qconv_forward_moments(const QConvIsa& isa, const QConvForwardMomentsArgs& args, QConvTask task) {
  const ConvShape s = flatten_pointwise(args.conv.shape);
  Problem p = forward_problem(isa, s, args.conv);
  p.with_moments = true;
  if (solve(p, task) && task == QConvTask::run) finish_moments(p, args.mean, args.variance);
}

void qconv_backward_data(const QConvIsa& isa, const QConvBackwardDataArgs& args, QConvTask task) {
  const ConvShape s = flatten_pointwise(args.shape);
  if (s.x_size() <= 0) return;
  if (s.y_size() <= 0 || s.kh * s.kw * s.o_group() > max_int32_terms(args.dy_table, args.w_table)) {
    if (task == QConvTask::run) ref_qconv_backward_data(args);
    return;
  }
  Problem p{.isa = isa,
            .shape = s,
            .transposed = true,
            .input = args.dy,
            .table = DecodeTable::as_unsigned(args.dy_table),
            .w = args.w,
            .w_table = DecodeTable::as_signed(args.w_table),
            .scale = args.scale,
            .scales = args.scales,
            .bias = nullptr,
            .accumulate = args.accumulate,
            .y = args.dx,
            .sums = args.sums,
            .image_pixels = s.n / std::max<int64_t>(args.shape.n, 1)};
  p.rows = backward_dimension(s.h, s.oh(), s.kh, s.stride_h, s.pad_h, s.dilation_h);
  p.columns = backward_dimension(s.w, s.ow(), s.kw, s.stride_w, s.pad_w, s.dilation_w);
  p.images = s.n;
  p.out_h = s.h;
  p.out_w = s.w;
  solve(p, task);
}

}  // namespace luq::kernels
