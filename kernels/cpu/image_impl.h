// Images, for the vectors of image_avx2.cc and image_avx512.cc. Resampling is of RGB images, others are left to ref;
// bytes become floats for all numbers of channels that divide 24.
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
        for_numbers<kResizeTaps>([&](auto tap) __attribute__((always_inline)) {
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

// ---- From bytes to floats -------------------------------------------------------------------------------------------

constexpr int64_t kPattern = 24;           // values after which scale and shift repeat, for channels that divide it
constexpr int64_t kPiece = 16 * kPattern;  // values of a row that are made at once
constexpr int64_t kBand = 16;              // rows that a thread makes at once
constexpr int64_t kSmallImages = 1 << 14;  // values that one thread makes by itself

// One image, normalised and erased.
struct ImageRows {
  const uint8_t* x;  // (h, w, c)
  int64_t w, c;
  const ImageEdit& edit;
  double scale[kPattern], shift[kPattern];

  ImageRows(const FinishImagesArgs& a, int64_t i)
      : x(a.x + i * a.h * a.w * a.c), w(a.w), c(a.c), edit(image_edit(a.edits, a.c, i)) {
    const double* values = image_scales(edit);
    for (int64_t at = 0; at < kPattern; ++at) {
      scale[at] = values[at % c];
      shift[at] = values[c + at % c];
    }
  }

  // Columns begin .. end of a row, kPiece values at most.
  void make(int64_t row, int64_t begin, int64_t end, float* y) const {
    const uint8_t* bytes = x + row * w * c;
    const int64_t count = (end - begin) * c;
    if (edit.flip == 0) {
      normalize(bytes + begin * c, count, y);
    } else if (c == 3) {
      normalize_mirrored(bytes + (w - end) * 3, count, y);
    } else {
      uint8_t mirrored[kPiece];
      for (int64_t col = begin; col < end; ++col) {
        for (int64_t k = 0; k < c; ++k) mirrored[(col - begin) * c + k] = bytes[(w - 1 - col) * c + k];
      }
      normalize(mirrored, count, y);
    }
    if (row < edit.top || row >= edit.top + edit.height) return;
    const int64_t left = edit.left > begin ? edit.left : begin;
    const int64_t right = edit.left + edit.width < end ? edit.left + edit.width : end;
    for (int64_t at = (left - begin) * c; at < (right - begin) * c; ++at) y[at] = 0;
  }

 private:
  static __m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  void normalize24(__m128i first, __m128i second, __m128i third, float* y) const {  // 8 bytes of each
    Lanes::normalize8(first, scale, shift, y);
    Lanes::normalize8(second, scale + 8, shift + 8, y + 8);
    Lanes::normalize8(third, scale + 16, shift + 16, y + 16);
  }
  void normalize1(uint8_t byte, int64_t at, float* y) const {
    *y = static_cast<float>(__builtin_fma(static_cast<double>(byte), scale[at], shift[at]));
  }
  void normalize(const uint8_t* bytes, int64_t count, float* y) const {
    int64_t i = 0;
    for (; i + kPattern <= count; i += kPattern) {
      const __m128i low = load(bytes + i), end = load(bytes + i + 8);
      normalize24(low, end, _mm_srli_si128(end, 8), y + i);
    }
    for (int64_t at = 0; at < kPattern && i + at < count; ++at) normalize1(bytes[i + at], at, y + i + at);
  }
  // The pixels of `bytes` from the last to the first; of three channels.
  void normalize_mirrored(const uint8_t* bytes, int64_t count, float* y) const {
    const __m128i order = _mm_setr_epi8(9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, -1, -1, -1, -1);  // of four pixels
    int64_t i = 0;
    for (; i + kPattern <= count; i += kPattern) {
      const uint8_t* from = bytes + count - kPattern - i;
      const __m128i first = _mm_shuffle_epi8(_mm_srli_si128(load(from + 8), 4), order);
      const __m128i second = _mm_shuffle_epi8(load(from), order);
      const __m128i sixteen = _mm_or_si128(first, _mm_slli_si128(second, 12));
      normalize24(sixteen, _mm_srli_si128(sixteen, 8), _mm_srli_si128(second, 4), y + i);
    }
    for (int64_t at = 0; at < kPattern && i + at < count; ++at) {
      normalize1(bytes[(count - i - at - 1) / 3 * 3 + at % 3], at, y + i + at);
    }
  }
};

template <typename T>
void finish_row(const FinishImagesArgs& a, const ImageRows& image, const ImageRows& other, int64_t row, T* y) {
  constexpr bool kInPlace = sizeof(T) == sizeof(float);
  const ImageMix& mix = a.mix;
  const bool mixup = mix.kind == ImageMix::Kind::mixup;
  const bool cutmix = mix.kind == ImageMix::Kind::cutmix && row >= mix.top && row < mix.top + mix.height;
  float made[kPiece], others[kPiece];
  const int64_t step = kPiece / a.c;
  for (int64_t begin = 0; begin < a.w; begin += step) {
    const int64_t end = begin + step < a.w ? begin + step : a.w, count = (end - begin) * a.c;
    T* to = y + begin * a.c;
    float* values = made;
    if constexpr (kInPlace) values = to;
    image.make(row, begin, end, values);
    if (cutmix) {
      const int64_t left = mix.left > begin ? mix.left : begin;
      const int64_t right = mix.left + mix.width < end ? mix.left + mix.width : end;
      if (left < right) other.make(row, left, right, values + (left - begin) * a.c);
    }
    if (mixup) {
      other.make(row, begin, end, others);
      const auto own_part = Simd::set(mix.own), others_part = Simd::set(mix.others);
      for (int64_t i = 0; i < count; i += Simd::kLanes) {
        const auto mixed = Simd::add(Simd::mul(Simd::load(others + i, count - i), others_part),
                                     Simd::mul(Simd::load(values + i, count - i), own_part));
        Simd::store(values + i, mixed, count - i);
      }
    }
    if constexpr (!kInPlace) {
      for (int64_t i = 0; i < count; i += Simd::kLanes) {
        Simd::store(to + i, Simd::load(values + i, count - i), count - i);
      }
    }
  }
}

void finish_images(const FinishImagesArgs& a) {
  if (a.c < 1 || kPattern % a.c != 0) {
    ref_finish_images(a);
    return;
  }
  const int64_t bands = (a.h + kBand - 1) / kBand, values = a.count * a.h * a.w * a.c;
#pragma omp parallel for schedule(static) if (values > kSmallImages)
  for (int64_t item = 0; item < a.count * bands; ++item) {
    const int64_t at = item / bands, band = item % bands, i = a.first + at;
    const ImageRows image(a, i), other(a, i > 0 ? i - 1 : a.n - 1);
    for (int64_t row = band * kBand; row < a.h && row < (band + 1) * kBand; ++row) {
      const int64_t offset = (at * a.h + row) * a.w * a.c;
      with_type(a.y.bfloat16, [&](auto type) { finish_row(a, image, other, row, a.y.as<decltype(type)>() + offset); });
    }
  }
}
