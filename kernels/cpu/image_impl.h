// Resampling and normalisation of RGB images, for the vectors of image_avx2.cc and image_avx512.cc; other numbers of
// channels are left to ref.
//
// The first pass filters kRows rows at once, one in each 128-bit lane: a load brings 16 bytes of each, byte shuffles
// spread the three channels of one pixel over the lane as int32, and as the rows share their coefficients a tap is a
// multiplication by one broadcast number. Four taps come of a load. The second pass filters 4 kRows bytes of a row at
// once. Products and sums are those of ref, in int32, so results are the same to the bit.
//
// A crop of 300 x 300 to 224 x 224 takes about 1.4 million multiplications.

constexpr int64_t kResizeTaps = 4;  // of a load of 16 bytes

// Bytes that hold something from `x` on, in row `y`: a load may go on into the next row.
inline int64_t readable_bytes(const ResizeArgs& a, int64_t y) { return (a.h - 1 - y) * a.row_bytes + a.w * 3; }

inline void resize_pixel(const uint8_t* in, int64_t count, const int32_t* k, uint8_t* out) {
  for (int c = 0; c < 3; ++c) {
    int32_t sum = 1 << (kResizeBits - 1);
    for (int64_t t = 0; t < count; ++t) sum += in[t * 3 + c] * k[t];
    sum >>= kResizeBits;
    out[c] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
  }
}

// out: (h, ow, 3) and 16 bytes more a row.
inline void resize_rows(const ResizeArgs& a, uint8_t* out, int64_t out_row_bytes) {
  const ResizeFilter filter = resize_filter(resize_columns_axis(a), false);
  int64_t taps = 1;
  for (int64_t x = 0; x < a.ow; ++x) taps = filter.count[x] > taps ? filter.count[x] : taps;
  const int64_t whole = taps / kResizeTaps * kResizeTaps, rest = taps - whole;
  const int64_t read = taps <= kResizeTaps ? 16 : (whole - kResizeTaps + (rest > 0 ? kResizeTaps : 0)) * 3 + 16;
  for (int64_t y = 0; y < a.h; y += Lanes::kRows) {
    const uint8_t* rows[Lanes::kRows];
    uint8_t* outs[Lanes::kRows];
    int64_t readable = 0;
    for (int64_t r = 0; r < Lanes::kRows; ++r) {
      const int64_t row = y + r < a.h ? y + r : a.h - 1;
      rows[r] = a.x + row * a.row_bytes;
      outs[r] = out + row * out_row_bytes;
      readable = readable_bytes(a, row);
    }
    for (int64_t x = 0; x < a.ow; ++x) {
      const int32_t* k = filter.coefficients + x * filter.taps;
      const int64_t offset = int64_t{filter.first[x]} * 3;
      if (offset + read > readable) {
        for (int64_t r = 0; r < Lanes::kRows; ++r) resize_pixel(rows[r] + offset, filter.count[x], k, outs[r] + x * 3);
        continue;
      }
      auto sum = Lanes::set(1 << (kResizeBits - 1));
      int64_t t = 0;
      for (; t < whole; t += kResizeTaps) {
        const auto bytes = Lanes::load_rows(rows, offset + t * 3);
        for_numbers<kResizeTaps>([&] [[gnu::always_inline]] (auto tap) {
          sum = Lanes::multiply_add(Lanes::spread(bytes, tap.value), k[t + tap.value], sum);
        });
      }
      if (rest > 0) {
        const auto bytes = Lanes::load_rows(rows, offset + t * 3);
        for (int64_t tap = 0; tap < rest; ++tap) {
          sum = Lanes::multiply_add(Lanes::spread(bytes, static_cast<int>(tap)), k[t + tap], sum);
        }
      }
      Lanes::store_rows(outs, x * 3, Lanes::shifted(sum));
    }
  }
}

inline void resize_columns(const uint8_t* in, int64_t in_row_bytes, const ResizeArgs& a) {
  const ResizeFilter filter = resize_filter(resize_rows_axis(a), true);
  const int64_t row_bytes = a.ow * 3;
  constexpr int64_t kBytes = 4 * Lanes::kRows;
  for (int64_t y = 0; y < a.oh; ++y) {
    const int32_t* k = filter.coefficients + y * filter.taps;
    const int64_t count = filter.count[y];
    const uint8_t* first = in + filter.first[y] * in_row_bytes;
    uint8_t* out = a.y + y * row_bytes;
    int64_t i = 0;
    for (; i + 2 * kBytes <= row_bytes; i += 2 * kBytes) {
      auto sum0 = Lanes::set(1 << (kResizeBits - 1)), sum1 = sum0;
      const uint8_t* p = first + i;
      for (int64_t t = 0; t < count; ++t, p += in_row_bytes) {
        sum0 = Lanes::multiply_add(Lanes::widen(p), k[t], sum0);
        sum1 = Lanes::multiply_add(Lanes::widen(p + kBytes), k[t], sum1);
      }
      Lanes::store_bytes(out + i, Lanes::shifted(sum0));
      Lanes::store_bytes(out + i + kBytes, Lanes::shifted(sum1));
    }
    for (; i < row_bytes; ++i) {
      int32_t sum = 1 << (kResizeBits - 1);
      for (int64_t t = 0; t < count; ++t) sum += first[t * in_row_bytes + i] * k[t];
      sum >>= kResizeBits;
      out[i] = static_cast<uint8_t>(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
  }
}

void resize(const ResizeArgs& a) {
  const ResizeAxis rows = resize_rows_axis(a), columns = resize_columns_axis(a);
  if (a.c != 3 || a.h == 0 || a.w == 0 || a.oh == 0 || a.ow == 0 || (rows.keeps() && columns.keeps())) {
    ref_resize(a);
  } else if (columns.keeps()) {
    resize_columns(a.x + columns.shift() * 3, a.row_bytes, a);
  } else {
    const int64_t row_bytes = a.ow * 3 + 16;
    uint8_t* between = resize_buffer(a.h, row_bytes);
    resize_rows(a, between, row_bytes);
    if (!rows.keeps()) {
      resize_columns(between, row_bytes, a);
      return;
    }
    for (int64_t y = 0; y < a.oh; ++y) {
      memcpy(a.y + y * a.ow * 3, between + (y + rows.shift()) * row_bytes, static_cast<size_t>(a.ow * 3));
    }
  }
}

// Eight pixels at a time: 24 bytes, after which scale and shift repeat.
void normalize(const NormalizeArgs& a) {
  if (a.c != 3) {
    ref_normalize(a);
    return;
  }
  double scale[24], shift[24];
  for (int i = 0; i < 24; ++i) {
    scale[i] = a.scale[i % 3];
    shift[i] = a.shift[i % 3];
  }
  // Bytes of four pixels, in their order or reversed.
  const __m128i order = a.flip ? _mm_setr_epi8(9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, -1, -1, -1, -1)
                               : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1, -1, -1, -1);
  for (int64_t row = 0; row < a.rows; ++row) {
    const uint8_t* x = a.x + row * a.cols * 3;
    float* y = a.y + row * a.cols * 3;
    int64_t col = 0;
    for (; col + 8 <= a.cols; col += 8) {
      const uint8_t* from = x + (a.flip ? a.cols - 8 - col : col) * 3;
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));      // bytes 0..15
      const __m128i end = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8));  // bytes 8..23
      const __m128i four0 = _mm_shuffle_epi8(low, order), four1 = _mm_shuffle_epi8(_mm_srli_si128(end, 4), order);
      const __m128i first = a.flip ? four1 : four0, second = a.flip ? four0 : four1;
      const __m128i sixteen = _mm_or_si128(first, _mm_slli_si128(second, 12));
      float* to = y + col * 3;
      Lanes::normalize8(sixteen, scale, shift, to);
      Lanes::normalize8(_mm_srli_si128(sixteen, 8), scale + 8, shift + 8, to + 8);
      Lanes::normalize8(_mm_srli_si128(second, 4), scale + 16, shift + 16, to + 16);
    }
    for (; col < a.cols; ++col) {
      const uint8_t* from = x + (a.flip ? a.cols - 1 - col : col) * 3;
      for (int c = 0; c < 3; ++c) {
        y[col * 3 + c] = static_cast<float>(__builtin_fma(static_cast<double>(from[c]), a.scale[c], a.shift[c]));
      }
    }
  }
}
