// The three 4-bit matmuls as implicit GEMMs on 8-bit integer dot products, for any vector width.
//
// An ISA file defines `Simd` (see qconv_avx512vnni.cc) in its anonymous namespace and includes this file there, so that
// every function below exists once per instruction set and none leaks out.
//
// The dot product multiplies unsigned by signed bytes, four at a time, into int32. Nibbles are decoded to bytes while
// an image (or a band of its rows) is laid out in a padded buffer that stays in L2, once per use of the buffer:
//
//   forward    u8 = activations (int4: + 8), broadcast 4 channels at a time;  s8 = weights  [K/4][lane = output][4]
//   backward   u8 = gradients + 64, broadcast 4 outputs at a time;            s8 = weights  [K/4][lane = input][4]
//   update     u8 = activations (int4: + 8), broadcast 4 pixels at a time;    s8 = gradients [pixels/4][lane =
//   output][4]
//
// An offset in the unsigned operand adds offset * (sum of the signed operand), a constant per lane: accumulators start
// at minus that constant. Padding is the code of 0, so it needs no correction of its own. Sums that contain an offset
// may wrap; the true sum fits whenever the caller's limit on K holds, and arithmetic modulo 2^32 then ends at the true
// sum.
//
// Forward and backward share one driver: an output pixel is a sum over taps, each a byte offset into the buffer.
// Backward with a stride is one such problem per residue of the stride, over the taps that hit it. The update lays
// activations out by channel planes, so that four neighbouring pixels are one 4-byte load at any shift; with a stride,
// columns are first sorted by residue. A 1x1 convolution without stride or padding, and a linear layer, is cut into
// rows of pixels.
//
// Cost per output block of P pixels and V vectors: V loads and P broadcasts for P * V dot products.

constexpr int kMaxTaps = 1024;             // kh * kw beyond it runs on ref
constexpr int64_t kPointwiseRow = 256;     // pixels of an artificial row
constexpr int64_t kBandBytes = 192 << 10;  // target size of a buffer: well inside a 1 MiB L2
constexpr int64_t kMaxChannels = 16384;

// Memory of a thread that grows and is kept.
struct Scratch {
  void* memory = nullptr;
  int64_t size = 0;
  template <typename T>
  T* get(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 255) / 64 * 64;  // slack for vector overruns
    if (bytes > size) {
      free(memory);
      size = bytes + bytes / 4 / 64 * 64;
      memory = aligned_alloc(64, static_cast<size_t>(size));
      if (memory == nullptr) abort();
    }
    return static_cast<T*>(memory);
  }
  ~Scratch() { free(memory); }
};

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Bytes of decoded codes plus an offset, for single codes and for pairs.
struct DecodeTable {
  uint8_t single[16];
  uint16_t pair[256];
  uint8_t zero;  // what the value 0 becomes
  DecodeTable(Format format, int offset) {
    for (uint32_t code = 0; code < 16; ++code) single[code] = static_cast<uint8_t>(decode(format, code) + offset);
    for (uint32_t byte = 0; byte < 256; ++byte) {
      pair[byte] = static_cast<uint16_t>(single[byte & 15] | single[byte >> 4] << 8);
    }
    zero = static_cast<uint8_t>(offset);
  }
};

// Decodes `count` codes that start at an even column. May write up to 63 bytes beyond the end.
void decode_run(const uint8_t* codes, int64_t count, const DecodeTable& table, uint8_t* out) {
  const int64_t bytes = packed_row_bytes(count);
  int64_t i = 0;
  const __m128i lut = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.single));
  const __m128i low_mask = _mm_set1_epi8(15);
  for (; i + 16 <= bytes; i += 16) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
    const __m128i low = _mm_shuffle_epi8(lut, _mm_and_si128(packed, low_mask));
    const __m128i high = _mm_shuffle_epi8(lut, _mm_and_si128(_mm_srli_epi16(packed, 4), low_mask));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i), _mm_unpacklo_epi8(low, high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 2 * i + 16), _mm_unpackhi_epi8(low, high));
  }
  for (; i < bytes; ++i) memcpy(out + 2 * i, &table.pair[codes[i]], 2);
}

// Decodes channels first..first + count - 1 of `pixels` neighbouring pixels of `channels` codes each, `pitch` bytes
// from pixel to pixel; channels beyond count up to pitch become `fill`.
void decode_pixels(const uint8_t* codes, int64_t pixels, int64_t channels, int64_t first, int64_t count, int64_t pitch,
                   const DecodeTable& table, uint8_t fill, uint8_t* out) {
  if (count == channels && pitch == channels && channels % 2 == 0) {
    decode_run(codes, pixels * channels, table, out);
    return;
  }
  const int64_t row_bytes = packed_row_bytes(channels);
  for (int64_t pixel = 0; pixel < pixels; ++pixel, codes += row_bytes, out += pitch) {
    int64_t c = 0;
    if (first % 2 == 0) {
      for (; c + 2 <= count; c += 2) memcpy(out + c, &table.pair[codes[(first + c) / 2]], 2);
    }
    for (; c < count; ++c) out[c] = table.single[load_code(codes, first + c)];
    for (; c < pitch; ++c) out[c] = fill;
  }
}

// Calls run(number of blocks index, begin, size) for `total` cut into equal blocks of at most `most`.
template <typename Run>
void for_blocks(int64_t total, int64_t most, Run run) {
  const int64_t blocks = (total + most - 1) / most;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = total * block / blocks;
    run(begin, total * (block + 1) / blocks - begin);
  }
}

// ---- Forward and backward-data
// ----------------------------------------------------------------------------------------

// One row of output pixels.
struct RowArgs {
  const uint8_t* x;     // buffer, at output pixel 0 of the row
  int64_t pixel_pitch;  // bytes in the buffer between neighbouring output pixels
  const int32_t* taps;  // byte offsets
  int64_t tap_count;
  int64_t quads;           // channels / 4, rounded up
  const int8_t* w;         // [output vector][tap][quad][lane][4]
  const int32_t* initial;  // [output vector][lane]
  int64_t outputs;         // channels written
  float scale;
  const float* bias;  // [outputs] or null
  float* y;           // at output pixel 0
  int64_t* sums;      // likewise, or null
  int64_t y_pitch;    // elements between neighbouring output pixels
};

template <int P, int V>
void row_block(const RowArgs& a, int64_t first_pixel, int64_t first_vector) {
  typename Simd::Int acc[P][V];
  for (int v = 0; v < V; ++v) {
    const typename Simd::Int initial = Simd::load(a.initial + (first_vector + v) * Simd::kLanes);
    for (int p = 0; p < P; ++p) acc[p][v] = initial;
  }
  const int64_t vector_pitch = a.tap_count * a.quads * Simd::kBytes;
  const int8_t* w = a.w + first_vector * vector_pitch;
  const uint8_t* x = a.x + first_pixel * a.pixel_pitch;
  const int64_t pitch = a.pixel_pitch;
  for (int64_t tap = 0; tap < a.tap_count; ++tap) {
    const uint8_t* xt = x + a.taps[tap];
    for (int64_t quad = 0; quad < a.quads; ++quad) {
      typename Simd::Int weights[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) weights[v] = Simd::load(w + v * vector_pitch);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const typename Simd::Int pixels = Simd::broadcast(xt + p * pitch);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[p][v] = Simd::dot(acc[p][v], pixels, weights[v]);
      }
      xt += 4;
      w += Simd::kBytes;
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) {
      const int64_t channel = (first_vector + v) * Simd::kLanes;
      const int64_t count = smaller(a.outputs - channel, Simd::kLanes);
      const int64_t at = (first_pixel + p) * a.y_pitch + channel;
      if (a.sums != nullptr) {
        int32_t values[Simd::kLanes];
        Simd::store(values, acc[p][v]);
        for (int64_t i = 0; i < count; ++i) a.sums[at + i] = values[i];
      } else {
        Simd::store_scaled(a.y + at, acc[p][v], a.scale, a.bias == nullptr ? nullptr : a.bias + channel, count);
      }
    }
  }
}

using RowBlock = void (*)(const RowArgs&, int64_t, int64_t);

template <int V, int P = 1>
void fill_row_blocks(RowBlock* table) {
  table[P] = row_block<P, V>;
  if constexpr (P < Simd::kMaxRows) fill_row_blocks<V, P + 1>(table);
}

void run_row(const RowArgs& a, int64_t pixels) {
  struct Blocks {
    RowBlock one[Simd::kMaxRows + 1], two[Simd::kMaxRows + 1];
    Blocks() {
      fill_row_blocks<1>(one);
      fill_row_blocks<2>(two);
    }
  };
  static const Blocks blocks;
  const int64_t vectors = (a.outputs + Simd::kLanes - 1) / Simd::kLanes;
  for (int64_t vector = 0; vector < vectors; vector += 2) {
    const RowBlock* table = vector + 2 <= vectors ? blocks.two : blocks.one;
    for_blocks(pixels, Simd::kMaxRows, [&](int64_t begin, int64_t size) { table[size](a, begin, vector); });
  }
}

// Signed operand of forward and backward-data for one group: [output vector][tap][quad][lane][4], and what
// accumulators start at. `reduced` is the number of channels summed over, `outputs` that of lanes in all.
struct Panel {
  int8_t* values;
  int32_t* initial;
};

// weight(output, tap, reduced channel) is visited by the caller's `fill`, which writes through `at`.
int64_t panel_bytes(int64_t outputs, int64_t taps, int64_t reduced) {
  return round_up(outputs, Simd::kLanes) * taps * round_up(reduced, 4);
}
int64_t panel_index(int64_t output, int64_t tap, int64_t taps, int64_t reduced_channel, int64_t quads) {
  return ((output / Simd::kLanes * taps + tap) * quads + reduced_channel / 4) * Simd::kBytes +
         output % Simd::kLanes * 4 + reduced_channel % 4;
}

// initial[output] = -offset * sum over the panel's column.
void set_initial(const int8_t* values, int64_t outputs, int64_t taps, int64_t quads, int offset, int32_t* initial) {
  const int64_t lanes = round_up(outputs, Simd::kLanes);
  for (int64_t output = 0; output < lanes; ++output) {
    int64_t sum = 0;
    for (int64_t quad = 0; offset != 0 && quad < taps * quads; ++quad) {
      const int8_t* q =
          values + (output / Simd::kLanes * taps * quads + quad) * Simd::kBytes + output % Simd::kLanes * 4;
      sum += q[0] + q[1] + q[2] + q[3];
    }
    initial[output] = static_cast<int32_t>(-offset * sum);
  }
}

// How images are visited: real ones, or rows of pixels of a pointwise problem.
struct Images {
  int64_t count, h, w, oh, ow;
  int64_t last_w;  // of the last image; ow likewise
};

bool is_pointwise(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0;
}

Images images_of(const ConvShape& s) {
  if (!is_pointwise(s)) return {s.n, s.h, s.w, s.oh(), s.ow(), s.w};
  const int64_t pixels = s.n * s.h * s.w, row = smaller(pixels, kPointwiseRow);
  const int64_t count = row == 0 ? 0 : (pixels + row - 1) / row;
  return {count, 1, row, 1, row, pixels - (count - 1) * row};
}

bool too_large(const ConvShape& s, int64_t terms, Format a, Format b) {
  return terms > max_int32_terms(a, b) || s.kh * s.kw > kMaxTaps || s.c > kMaxChannels || s.o > kMaxChannels;
}

thread_local Scratch panel_scratch, initial_scratch, buffer_scratch, row_scratch, gradient_scratch, sum_scratch,
    total_scratch;

void qconv_forward(const QConvForwardArgs& a) {
  const ConvShape& s = a.shape;
  if (s.y_size() == 0) return;
  const int64_t cg = s.c_group(), og = s.o_group(), taps = s.kh * s.kw;
  if (too_large(s, taps * cg, a.x_format, a.w_format) || a.x_format == Format::fp4) {
    ref_table().qconv_forward(a);
    return;
  }
  const int offset = a.x_format == Format::int4 ? 8 : 0;
  const DecodeTable x_table(a.x_format, offset), w_table(a.w_format, 0);
  const int64_t quads = (cg + 3) / 4, channels = 4 * quads, lanes = round_up(og, Simd::kLanes);
  const int64_t group_panel = panel_bytes(og, taps, cg);
  int8_t* panel = panel_scratch.get<int8_t>(group_panel * s.groups);
  int32_t* initial = initial_scratch.get<int32_t>(lanes * s.groups);
  memset(panel, 0, static_cast<size_t>(group_panel * s.groups));
  const int64_t w_row = packed_row_bytes(cg);
#pragma omp parallel for schedule(static) if (s.w_size() > 65536)
  for (int64_t vector = 0; vector < s.groups * (lanes / Simd::kLanes); ++vector) {
    const int64_t g = vector / (lanes / Simd::kLanes), first = vector % (lanes / Simd::kLanes) * Simd::kLanes;
    for (int64_t o = first; o < smaller(first + Simd::kLanes, og); ++o) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const uint8_t* row = a.w + ((g * og + o) * taps + tap) * w_row;
        int8_t* out = panel + g * group_panel + panel_index(o, tap, taps, 0, quads);
        int64_t c = 0;
        for (; c + 4 <= cg; c += 4, out += Simd::kBytes) {
          memcpy(out, &w_table.pair[row[c / 2]], 2);
          memcpy(out + 2, &w_table.pair[row[c / 2 + 1]], 2);
        }
        for (; c < cg; ++c) out[c % 4] = static_cast<int8_t>(w_table.single[load_code(row, c)]);
      }
    }
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    set_initial(panel + g * group_panel, og, taps, quads, offset, initial + g * lanes);
  }

  const Images images = images_of(s);
  const int64_t reach_h = s.dilation_h * (s.kh - 1), reach_w = s.dilation_w * (s.kw - 1);
  const int64_t buffer_w = larger((images.ow - 1) * s.stride_w + reach_w + 1, images.w + 2 * s.pad_w);
  const int64_t row_bytes = buffer_w * channels;
  int32_t tap_offsets[kMaxTaps];
  for (int64_t tap = 0; tap < taps; ++tap) {
    tap_offsets[tap] =
        static_cast<int32_t>(tap / s.kw * s.dilation_h * row_bytes + tap % s.kw * s.dilation_w * channels);
  }
  const int64_t band = smaller(images.oh, larger((kBandBytes / row_bytes - reach_h - 1) / s.stride_h + 1, 1));
  const int64_t bands = (images.oh + band - 1) / band;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < images.count * bands; ++task) {
    const int64_t image = task / bands, oy_begin = task % bands * band, oy_end = smaller(oy_begin + band, images.oh);
    const bool last = image == images.count - 1;
    const int64_t width = last ? images.last_w : images.w;
    const int64_t out_width = is_pointwise(s) ? width : images.ow;
    const int64_t rows = (oy_end - oy_begin - 1) * s.stride_h + reach_h + 1,
                  first_row = oy_begin * s.stride_h - s.pad_h;
    uint8_t* buffer = buffer_scratch.get<uint8_t>(rows * row_bytes);
    for (int64_t g = 0; g < s.groups; ++g) {
      for (int64_t row = 0; row < rows; ++row) {
        uint8_t* out = buffer + row * row_bytes;
        const int64_t iy = first_row + row;
        if (iy < 0 || iy >= images.h) {
          memset(out, x_table.zero, static_cast<size_t>(row_bytes));
          continue;
        }
        const int64_t pixel = (image * images.h + iy) * images.w;
        decode_pixels(a.x + pixel * packed_row_bytes(s.c), width, s.c, g * cg, cg, channels, x_table, x_table.zero,
                      out + s.pad_w * channels);
        memset(out, x_table.zero, static_cast<size_t>(s.pad_w * channels));
        memset(out + (s.pad_w + width) * channels, x_table.zero,
               static_cast<size_t>(row_bytes - (s.pad_w + width) * channels));
      }
      for (int64_t oy = oy_begin; oy < oy_end; ++oy) {
        const int64_t y = ((image * images.oh + oy) * images.ow) * s.o + g * og;
        run_row({.x = buffer + (oy - oy_begin) * s.stride_h * row_bytes,
                 .pixel_pitch = s.stride_w * channels,
                 .taps = tap_offsets,
                 .tap_count = taps,
                 .quads = quads,
                 .w = panel + g * group_panel,
                 .initial = initial + g * lanes,
                 .outputs = og,
                 .scale = a.scale,
                 .bias = a.bias == nullptr ? nullptr : a.bias + g * og,
                 .y = a.y + y,
                 .sums = a.sums == nullptr ? nullptr : a.sums + y,
                 .y_pitch = s.o},
                out_width);
      }
    }
  }
}

// The taps that reach the outputs of one residue of the stride along one axis: input pixel residue + stride * j reads
// output pixel j + shift at each tap.
struct ResidueTaps {
  int64_t count = 0;
  int64_t tap[kMaxTaps], shift[kMaxTaps];
  ResidueTaps(int64_t residue, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    for (int64_t k = 0; k < kernel; ++k) {
      const int64_t distance = residue + pad - k * dilation;
      if (((distance % stride) + stride) % stride != 0) continue;
      tap[count] = k;
      shift[count++] = distance / stride;  // exact
    }
  }
  int64_t least() const {
    int64_t value = 0;
    for (int64_t i = 0; i < count; ++i) value = smaller(value, shift[i]);
    return value;
  }
  int64_t most() const {
    int64_t value = 0;
    for (int64_t i = 0; i < count; ++i) value = larger(value, shift[i]);
    return value;
  }
};

void zero_pixels(const QConvBackwardDataArgs& a, int64_t first, int64_t pixels, int64_t pitch, int64_t channel,
                 int64_t count) {
  for (int64_t p = 0; p < pixels; ++p) {
    const int64_t at = (first + p * pitch) * a.shape.c + channel;
    if (a.sums != nullptr) memset(a.sums + at, 0, static_cast<size_t>(count) * sizeof(int64_t));
    if (a.sums == nullptr) memset(a.dx + at, 0, static_cast<size_t>(count) * sizeof(float));
  }
}

void qconv_backward_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  if (s.x_size() == 0) return;
  const int64_t cg = s.c_group(), og = s.o_group(), taps = s.kh * s.kw;
  if (too_large(s, taps * og, a.dy_format, a.w_format) || s.y_size() == 0) {
    ref_table().qconv_backward_data(a);
    return;
  }
  constexpr int kOffset = 64;
  const DecodeTable dy_table(a.dy_format, kOffset), w_table(a.w_format, 0);
  const int64_t quads = (og + 3) / 4, channels = 4 * quads, lanes = round_up(cg, Simd::kLanes);
  const int64_t vectors = lanes / Simd::kLanes;
  const Images images = images_of(s);

  // One panel per residue pair, its taps in the order of the residue's lists.
  const int64_t w_row = packed_row_bytes(cg), group_panel = panel_bytes(cg, taps, og);
  int8_t* panel = panel_scratch.get<int8_t>(group_panel * s.groups);
  int32_t* initial = initial_scratch.get<int32_t>(lanes * s.groups);
  for (int64_t ry = 0; ry < smaller(s.stride_h, s.h); ++ry) {
    const ResidueTaps ys(ry, s.kh, s.stride_h, s.pad_h, s.dilation_h);
    for (int64_t rx = 0; rx < smaller(s.stride_w, s.w); ++rx) {
      const ResidueTaps xs(rx, s.kw, s.stride_w, s.pad_w, s.dilation_w);
      const int64_t tap_count = ys.count * xs.count;
      const int64_t jy_count = (images.h - ry + s.stride_h - 1) / s.stride_h;
      if (tap_count == 0) {
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < s.n * jy_count; ++row) {
          const int64_t iy = ry + row % jy_count * s.stride_h;
          zero_pixels(a, (row / jy_count * s.h + iy) * s.w + rx, (s.w - rx + s.stride_w - 1) / s.stride_w, s.stride_w,
                      0, s.c);
        }
        continue;
      }
      memset(panel, 0, static_cast<size_t>(group_panel * s.groups));
#pragma omp parallel for schedule(static) if (s.w_size() > 65536)
      for (int64_t vector = 0; vector < s.groups * vectors; ++vector) {
        const int64_t g = vector / vectors, first = vector % vectors * Simd::kLanes;
        const int64_t last = smaller(first + Simd::kLanes, cg);
        for (int64_t o = 0; o < og; ++o) {
          for (int64_t t = 0; t < tap_count; ++t) {
            const int64_t tap = ys.tap[t / xs.count] * s.kw + xs.tap[t % xs.count];
            const uint8_t* row = a.w + ((g * og + o) * taps + tap) * w_row;
            int8_t* out = panel + g * group_panel + panel_index(first, t, tap_count, o, quads);
            for (int64_t c = first; c < last; ++c, out += 4) {
              *out = static_cast<int8_t>(w_table.single[load_code(row, c)]);
            }
          }
        }
      }
      for (int64_t g = 0; g < s.groups; ++g) {
        set_initial(panel + g * group_panel, cg, tap_count, quads, kOffset, initial + g * lanes);
      }

      const int64_t low_y = ys.least(), high_y = ys.most(), low_x = xs.least(), high_x = xs.most();
      const int64_t jx_most = (images.w - rx + s.stride_w - 1) / s.stride_w;
      const int64_t buffer_w = jx_most + high_x - low_x;
      const int64_t row_bytes = buffer_w * channels;
      int32_t tap_offsets[kMaxTaps];
      for (int64_t t = 0; t < tap_count; ++t) {
        tap_offsets[t] = static_cast<int32_t>((ys.shift[t / xs.count] - low_y) * row_bytes +
                                              (xs.shift[t % xs.count] - low_x) * channels);
      }
      const int64_t band = smaller(jy_count, larger(kBandBytes / row_bytes - (high_y - low_y), 1));
      const int64_t bands = (jy_count + band - 1) / band;
#pragma omp parallel for schedule(dynamic)
      for (int64_t task = 0; task < images.count * bands; ++task) {
        const int64_t image = task / bands, jy_begin = task % bands * band, jy_end = smaller(jy_begin + band, jy_count);
        const bool last = image == images.count - 1;
        const int64_t width = last ? images.last_w : images.w;  // differs only for pointwise problems
        const int64_t dy_width = is_pointwise(s) ? width : images.ow;
        const int64_t jx_count = (width - rx + s.stride_w - 1) / s.stride_w;
        const int64_t rows = jy_end - jy_begin + high_y - low_y;
        uint8_t* buffer = buffer_scratch.get<uint8_t>(rows * row_bytes);
        // Output columns low_x .. low_x + buffer_w - 1, of which those inside 0..dy_width-1 hold data.
        const int64_t data_begin = smaller(larger(-low_x, 0), buffer_w);
        const int64_t data_count = larger(smaller(dy_width - (low_x + data_begin), buffer_w - data_begin), 0);
        for (int64_t g = 0; g < s.groups; ++g) {
          for (int64_t row = 0; row < rows; ++row) {
            uint8_t* out = buffer + row * row_bytes;
            const int64_t oy = jy_begin + low_y + row;
            if (oy < 0 || oy >= images.oh) {
              memset(out, dy_table.zero, static_cast<size_t>(row_bytes));
              continue;
            }
            const int64_t pixel = (image * images.oh + oy) * images.ow + low_x + data_begin;
            decode_pixels(a.dy + pixel * packed_row_bytes(s.o), data_count, s.o, g * og, og, channels, dy_table,
                          dy_table.zero, out + data_begin * channels);
            memset(out, dy_table.zero, static_cast<size_t>(data_begin * channels));
            memset(out + (data_begin + data_count) * channels, dy_table.zero,
                   static_cast<size_t>(row_bytes - (data_begin + data_count) * channels));
          }
          for (int64_t jy = jy_begin; jy < jy_end; ++jy) {
            const int64_t iy = ry + jy * s.stride_h;
            const int64_t at = ((image * images.h + iy) * images.w + rx) * s.c + g * cg;
            run_row({.x = buffer + (jy - jy_begin) * row_bytes,
                     .pixel_pitch = channels,
                     .taps = tap_offsets,
                     .tap_count = tap_count,
                     .quads = quads,
                     .w = panel + g * group_panel,
                     .initial = initial + g * lanes,
                     .outputs = cg,
                     .scale = a.scale,
                     .bias = nullptr,
                     .y = a.dx + at,
                     .sums = a.sums == nullptr ? nullptr : a.sums + at,
                     .y_pitch = s.stride_w * s.c},
                    jx_count);
          }
        }
      }
    }
  }
}

// ---- Update
// -------------------------------------------------------------------------------------------------------------

// 16 pixels (pitch bytes apart) of 16 channels -> 16 channel planes (plane bytes apart) of 16 pixels.
void transpose_16x16(const uint8_t* in, int64_t pitch, uint8_t* out, int64_t plane) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * pitch));
  // Four rounds of interleaving rows i and i + 8 transpose a 16x16 block of bytes.
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * plane), a[i]);
}

// 4 pixels of 16 channels -> [channel][4 pixels].
void interleave_4x16(const int8_t* in, int64_t pitch, int8_t* out) {
  const auto load = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * pitch)); };
  const __m128i a = load(0), b = load(1), c = load(2), d = load(3);
  const __m128i ab_low = _mm_unpacklo_epi8(a, b), ab_high = _mm_unpackhi_epi8(a, b);
  const __m128i cd_low = _mm_unpacklo_epi8(c, d), cd_high = _mm_unpackhi_epi8(c, d);
  __m128i* to = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(to, _mm_unpacklo_epi16(ab_low, cd_low));
  _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(ab_low, cd_low));
  _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(ab_high, cd_high));
  _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(ab_high, cd_high));
}

// A group of images laid out for the update of one convolution group.
struct UpdateArgs {
  const uint8_t* x;  // [image][channel][column residue][row][plane_w] at the tap's row and shift
  int64_t channel_pitch, image_pitch, row_pitch;  // bytes
  const int8_t* dy;                               // [image][output row][quad][output][4]
  int64_t dy_image_pitch, dy_row_pitch, dy_quad_pitch;
  int64_t images, rows, quads;
  int32_t* sums;  // [channel][output], added to
  int64_t sums_pitch;
};

template <int P, int V>
void update_block(const UpdateArgs& a, int64_t first_channel, int64_t first_vector) {
  typename Simd::Int acc[P][V];
  int32_t* sums = a.sums + first_channel * a.sums_pitch + first_vector * Simd::kLanes;
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) acc[p][v] = Simd::load(sums + p * a.sums_pitch + v * Simd::kLanes);
  }
  const int64_t pitch = a.channel_pitch;
  for (int64_t image = 0; image < a.images; ++image) {
    for (int64_t row = 0; row < a.rows; ++row) {
      const uint8_t* x = a.x + image * a.image_pitch + row * a.row_pitch + first_channel * pitch;
      const int8_t* dy = a.dy + image * a.dy_image_pitch + row * a.dy_row_pitch + first_vector * Simd::kBytes;
      for (int64_t quad = 0; quad < a.quads; ++quad) {
        typename Simd::Int gradients[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) gradients[v] = Simd::load(dy + v * Simd::kBytes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const typename Simd::Int pixels = Simd::broadcast(x + p * pitch);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) acc[p][v] = Simd::dot(acc[p][v], pixels, gradients[v]);
        }
        x += 4;
        dy += a.dy_quad_pitch;
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) Simd::store(sums + p * a.sums_pitch + v * Simd::kLanes, acc[p][v]);
  }
}

using UpdateBlock = void (*)(const UpdateArgs&, int64_t, int64_t);

template <int V, int P = 1>
void fill_update_blocks(UpdateBlock* table) {
  table[P] = update_block<P, V>;
  if constexpr (P < Simd::kMaxRows) fill_update_blocks<V, P + 1>(table);
}

void run_update(const UpdateArgs& a, int64_t channels, int64_t vectors) {
  struct Blocks {
    UpdateBlock one[Simd::kMaxRows + 1], two[Simd::kMaxRows + 1];
    Blocks() {
      fill_update_blocks<1>(one);
      fill_update_blocks<2>(two);
    }
  };
  static const Blocks blocks;
  for (int64_t vector = 0; vector < vectors; vector += 2) {
    const UpdateBlock* table = vector + 2 <= vectors ? blocks.two : blocks.one;
    for_blocks(channels, Simd::kMaxRows, [&](int64_t begin, int64_t size) { table[size](a, begin, vector); });
  }
}

// Sizes of the buffers of one image of the update.
struct UpdateLayout {
  int64_t channels;  // of x in a group, rounded up to 16
  int64_t outputs;   // of dy in the slice worked on, rounded up to 16
  int64_t plane_w;   // bytes of a row of a plane
  int64_t rows;      // input rows with padding
  int64_t quads;     // of an output row
  int64_t x_bytes, dy_bytes;
};

// Decodes one image's activations into channel planes; row_buffer holds one padded row.
void lay_out_activations(const QConvBackwardWeightArgs& a, const UpdateLayout& layout, const Images& images,
                         int64_t image, int64_t group, int64_t width, const DecodeTable& table, uint8_t* row_buffer,
                         uint8_t* planes) {
  const ConvShape& s = a.shape;
  const int64_t cg = s.c_group(), stride = s.stride_w, channels = layout.channels;
  const int64_t padded_w = layout.plane_w * stride;  // pixels of the row buffer
  for (int64_t row = 0; row < layout.rows; ++row) {
    const int64_t iy = row - s.pad_h;
    if (iy < 0 || iy >= images.h) {
      memset(row_buffer, table.zero, static_cast<size_t>(padded_w * channels));
    } else {
      const int64_t pixel = (image * images.h + iy) * images.w;
      const int64_t kept = smaller(width, padded_w - s.pad_w);
      decode_pixels(a.x + pixel * packed_row_bytes(s.c), larger(kept, 0), s.c, group * cg, cg, channels, table,
                    table.zero, row_buffer + s.pad_w * channels);
      memset(row_buffer, table.zero, static_cast<size_t>(smaller(s.pad_w, padded_w) * channels));
      const int64_t end = s.pad_w + larger(kept, 0);
      if (end < padded_w)
        memset(row_buffer + end * channels, table.zero, static_cast<size_t>((padded_w - end) * channels));
    }
    for (int64_t residue = 0; residue < stride; ++residue) {
      for (int64_t c = 0; c < channels; c += 16) {
        uint8_t* plane = planes + ((c * stride + residue) * layout.rows + row) * layout.plane_w;
        for (int64_t column = 0; column < layout.plane_w; column += 16) {
          transpose_16x16(row_buffer + (column * stride + residue) * channels + c, stride * channels, plane + column,
                          stride * layout.rows * layout.plane_w);
        }
      }
    }
  }
}

// Decodes outputs first..first + count - 1 of one image's gradients to [row][quad][output][4] and, for signed
// activations, adds up each output's gradients.
void lay_out_gradients(const QConvBackwardWeightArgs& a, const UpdateLayout& layout, const Images& images,
                       int64_t image, int64_t first, int64_t count, int64_t width, const DecodeTable& table,
                       int8_t* row_buffer, int8_t* out) {
  const ConvShape& s = a.shape;
  const int64_t outputs = layout.outputs;
  for (int64_t row = 0; row < images.oh; ++row) {
    const int64_t pixel = (image * images.oh + row) * images.ow;
    decode_pixels(a.dy + pixel * packed_row_bytes(s.o), width, s.o, first, count, outputs, table, 0,
                  reinterpret_cast<uint8_t*>(row_buffer));
    memset(row_buffer + width * outputs, 0, static_cast<size_t>((4 * layout.quads - width) * outputs));
    for (int64_t quad = 0; quad < layout.quads; ++quad) {
      int8_t* to = out + (row * layout.quads + quad) * outputs * 4;
      for (int64_t o = 0; o < outputs; o += 16) {
        interleave_4x16(row_buffer + quad * 4 * outputs + o, outputs, to + o * 4);
      }
    }
  }
}

void add_gradient_sums(const int8_t* dy, int64_t quads, int64_t outputs, int32_t* sums) {
  for (int64_t quad = 0; quad < quads; ++quad) {
    for (int64_t o = 0; o < outputs; ++o) {
      const int8_t* q = dy + (quad * outputs + o) * 4;
      sums[o] += q[0] + q[1] + q[2] + q[3];
    }
  }
}

// Threads take either images (each with sums of its own, added at the end) or, where the weights are many, slices of
// the outputs of all images; integer sums are the same however they are cut. Sums move from int32 to int64 before the
// bound on their length is reached.
void qconv_backward_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  if (s.w_size() == 0) return;
  const Images images = images_of(s);
  const int64_t taps = s.kh * s.kw, cg = s.c_group(), og = s.o_group();
  // With an offset of 8 a sum of |x + 8| |dy| is at most as long as one of 15 |dy|, so the unsigned bound serves both.
  const int64_t bound = max_int32_terms(Format::uint4, a.dy_format);
  const int64_t pixels = images.oh * round_up(larger(images.ow, 1), 4);
  if (pixels > bound || a.x_format == Format::fp4 || taps > kMaxTaps || s.y_size() == 0) {
    ref_table().qconv_backward_weight(a);
    return;
  }
  const int offset = a.x_format == Format::int4 ? 8 : 0;
  const DecodeTable x_table(a.x_format, offset), dy_table(a.dy_format, 0);
  const bool by_outputs = taps * cg * og > (int64_t{1} << 18) && og >= 32;
  const int64_t slice = by_outputs ? 16 * larger(og / 16 / 8, 1) : og;
  const int64_t slices = (og + slice - 1) / slice;

  UpdateLayout layout;
  layout.channels = round_up(cg, 16);
  layout.outputs = round_up(slice, 16);
  layout.quads = (images.ow + 3) / 4;
  layout.plane_w = round_up(4 * layout.quads + s.dilation_w * (s.kw - 1) / s.stride_w + 1, 16);
  layout.rows = (images.oh - 1) * s.stride_h + s.dilation_h * (s.kh - 1) + 1;
  layout.x_bytes = layout.channels * s.stride_w * layout.rows * layout.plane_w;
  layout.dy_bytes = images.oh * layout.quads * layout.outputs * 4;
  const int64_t at_once = smaller(images.count, larger(kBandBytes / (layout.x_bytes + layout.dy_bytes), 1));
  const int64_t flush_every = larger(bound / pixels, 1);
  const int64_t sum_count = taps * cg * layout.outputs;

  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t total_count = slices * (sum_count + layout.outputs);
    int64_t* totals = total_scratch.get<int64_t>(total_count);
    int64_t* corrections = totals + slices * sum_count;
    memset(totals, 0, static_cast<size_t>(total_count) * sizeof(int64_t));
    const int64_t image_groups = (images.count + at_once - 1) / at_once;
    const int64_t parts = by_outputs ? 1 : smaller(image_groups, 2 * omp_get_max_threads());
#pragma omp parallel for schedule(dynamic)
    for (int64_t task = 0; task < slices * parts; ++task) {
      const int64_t slice_index = task / parts, part = task % parts;
      const int64_t first = slice_index * slice, count = smaller(slice, og - first);
      uint8_t* row_buffer = row_scratch.get<uint8_t>(
          larger(layout.plane_w * s.stride_w * layout.channels, 4 * layout.quads * layout.outputs));
      uint8_t* planes = buffer_scratch.get<uint8_t>(at_once * layout.x_bytes + 16 * layout.plane_w);
      int8_t* gradients = gradient_scratch.get<int8_t>(at_once * layout.dy_bytes);
      int32_t* sums = sum_scratch.get<int32_t>(sum_count + layout.outputs);
      int32_t* gradient_sums = sums + sum_count;
      memset(sums, 0, static_cast<size_t>(sum_count + layout.outputs) * sizeof(int32_t));
      int64_t unflushed = 0;
      const auto flush = [&] {
#pragma omp critical(luq_qconv_update)
        {
          for (int64_t i = 0; i < sum_count; ++i) totals[slice_index * sum_count + i] += sums[i];
          for (int64_t o = 0; o < layout.outputs; ++o) {
            corrections[slice_index * layout.outputs + o] += gradient_sums[o];
          }
        }
        memset(sums, 0, static_cast<size_t>(sum_count + layout.outputs) * sizeof(int32_t));
        unflushed = 0;
      };
      const int64_t end = image_groups * (part + 1) / parts * at_once;
      for (int64_t image = image_groups * part / parts * at_once; image < smaller(end, images.count);
           image += at_once) {
        int64_t in_group = smaller(smaller(at_once, end - image), images.count - image);
        in_group = smaller(in_group, flush_every);
        for (int64_t i = 0; i < in_group; ++i) {
          const bool last = image + i == images.count - 1;
          const int64_t width = last ? images.last_w : images.w;
          lay_out_activations(a, layout, images, image + i, g, width, x_table, row_buffer, planes + i * layout.x_bytes);
          lay_out_gradients(a, layout, images, image + i, g * og + first, count, is_pointwise(s) ? width : images.ow,
                            dy_table, reinterpret_cast<int8_t*>(row_buffer), gradients + i * layout.dy_bytes);
        }
        if (unflushed + in_group > flush_every) flush();
        unflushed += in_group;
        if (offset != 0) {
          add_gradient_sums(gradients, in_group * images.oh * layout.quads, layout.outputs, gradient_sums);
        }
        const int64_t plane = layout.rows * layout.plane_w;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t row = tap / s.kw * s.dilation_h, shift = tap % s.kw * s.dilation_w;
          run_update({.x = planes + (shift % s.stride_w) * plane + row * layout.plane_w + shift / s.stride_w,
                      .channel_pitch = s.stride_w * plane,
                      .image_pitch = layout.x_bytes,
                      .row_pitch = s.stride_h * layout.plane_w,
                      .dy = gradients,
                      .dy_image_pitch = layout.dy_bytes,
                      .dy_row_pitch = layout.quads * layout.outputs * 4,
                      .dy_quad_pitch = layout.outputs * 4,
                      .images = in_group,
                      .rows = images.oh,
                      .quads = layout.quads,
                      .sums = sums + tap * cg * layout.outputs,
                      .sums_pitch = layout.outputs},
                     cg, layout.outputs / Simd::kLanes);
        }
        image -= at_once - in_group;
      }
      flush();
    }
    for (int64_t o = 0; o < og; ++o) {
      const int64_t slice_index = o / slice, column = o % slice;
      const int64_t correction = offset * corrections[slice_index * layout.outputs + column];
      for (int64_t i = 0; i < taps * cg; ++i) {
        const int64_t sum = totals[slice_index * sum_count + i * layout.outputs + column] - correction;
        const int64_t at = (g * og + o) * taps * cg + i;
        if (a.sums != nullptr) {
          a.sums[at] = sum;
        } else {
          a.dw[at] = static_cast<float>(sum) * a.scale;
        }
      }
    }
  }
}
