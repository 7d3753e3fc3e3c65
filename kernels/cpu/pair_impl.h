// Pair<T>: 2 kLanes neighbouring values in memory as two vectors of float32, for passes over float and over bfloat16.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// float: the first vector and the second, in order. bfloat16: one vector in memory, of which one vector of float32
// takes the elements of even and the other those of odd index, as a shift and a mask are all that it costs; back, they
// are rounded and lie in one vector again. Which element is where matters only to what is added up by position:
// in_order undoes it, and tables of parameters are laid out by `lane`.

constexpr int kPair = 2 * Simd::kLanes;
using Float = typename Simd::Float;
using Int = typename Simd::Int;

constexpr uint32_t kAllBits = static_cast<uint32_t>((uint64_t{1} << kPair) - 1);
inline uint32_t first_of_pair(int64_t count) { return count >= kPair ? kAllBits : (1u << count) - 1; }

template <typename T>
struct Pair;

template <>
struct Pair<float> {
  Float halves[2];

  // The first `count` values of p; the others are 0.
  static Pair load(const float* p, int64_t count = kPair) {
    if (count >= kPair) return {{Simd::load(p), Simd::load(p + Simd::kLanes)}};
    if (count >= Simd::kLanes) {
      return {
          {Simd::load(p), count > Simd::kLanes ? Simd::load(p + Simd::kLanes, count - Simd::kLanes) : Simd::zero()}};
    }
    return {{Simd::load(p, count), Simd::zero()}};
  }
  static Pair of(Float first, Float second) { return {{first, second}}; }
  void store(float* p, int64_t count = kPair) const {
    if (count >= Simd::kLanes) {
      Simd::store(p, halves[0]);
      if (count > Simd::kLanes) Simd::store(p + Simd::kLanes, halves[1], count - Simd::kLanes);
    } else {
      Simd::store(p, halves[0], count);
    }
  }
  Float first() const { return halves[0]; }
  Float second() const { return halves[1]; }
  Pair keep(uint32_t bits) const {
    constexpr uint32_t half = (1u << Simd::kLanes) - 1;
    return {{Simd::keep(halves[0], bits & half), Simd::keep(halves[1], bits >> Simd::kLanes)}};
  }
  Pair magnitude() const { return {{Simd::abs(halves[0]), Simd::abs(halves[1])}}; }
  Pair relu() const { return {{Simd::relu(halves[0]), Simd::relu(halves[1])}}; }
  // Bit i: value i is not 0. For values without negative zeros.
  uint32_t nonzero() const {
    return Simd::nonzero_bits(Simd::bits(halves[0])) | Simd::nonzero_bits(Simd::bits(halves[1])) << Simd::kLanes;
  }
  // Bit i: the bits of value i differ from those of other's.
  uint32_t differing(const Pair& other) const {
    const auto differ = [](Float a, Float b) {
      return Simd::nonzero_bits(Simd::xor_int(Simd::bits(a), Simd::bits(b)));
    };
    return differ(halves[0], other.halves[0]) | differ(halves[1], other.halves[1]) << Simd::kLanes;
  }

  static Int most(Int so_far, const Pair& magnitudes) {
    return Simd::max_int(so_far, Simd::max_int(Simd::bits(magnitudes.halves[0]), Simd::bits(magnitudes.halves[1])));
  }
  static uint32_t largest(Int most) { return Simd::largest(most); }
  static void in_order(Float&, Float&) {}
  static constexpr int lane(int index) { return index; }
};

template <>
struct Pair<BFloat16> {
  Int both;

  static Pair load(const BFloat16* p, int64_t count = kPair) {
    return {count >= kPair ? Simd::load_int(p) : Simd::load_halves(p, count)};
  }
  static Pair of(Float even, Float odd) {
    const Int low = Simd::template shift_right<16>(Simd::rounded(even));
    return {Simd::choose(low, Simd::rounded(odd), Simd::set_int(0xffff0000u))};
  }
  void store(BFloat16* p, int64_t count = kPair) const {
    if (count >= kPair) {
      Simd::store_int(p, both);
    } else {
      Simd::store_halves(p, both, count);
    }
  }
  Float first() const { return Simd::as_floats(Simd::template shift_left<16>(both)); }
  Float second() const { return Simd::as_floats(Simd::and_int(both, Simd::set_int(0xffff0000u))); }
  Pair keep(uint32_t bits) const { return {Simd::keep_halves(both, bits)}; }
  Pair magnitude() const { return {Simd::and_int(both, Simd::set_int(0x7fff7fffu))}; }
  Pair relu() const { return {Simd::relu_halves(both)}; }
  uint32_t nonzero() const { return Simd::nonzero_halves(both); }
  uint32_t differing(const Pair& other) const { return Simd::nonzero_halves(Simd::xor_int(both, other.both)); }

  static Int most(Int so_far, const Pair& magnitudes) { return Simd::max_halves(so_far, magnitudes.both); }
  static uint32_t largest(Int most) {
    return Simd::largest(Simd::max_int(Simd::bits(Pair{most}.first()), Simd::bits(Pair{most}.second())));
  }
  static void in_order(Float& even, Float& odd) {
    const Float from = even;
    Simd::merge(from, odd, even, odd);
  }
  static constexpr int lane(int index) { return index % 2 * Simd::kLanes + index / 2; }
};

// ---- Masks: bit i % 8 of byte i / 8 is element i's -----------------------------------------------------------------

// The bits of `count` <= kPair elements from `at` of a mask.
inline uint32_t mask_bits(const uint8_t* mask, int64_t at, int64_t count) {
  uint64_t bits = 0;
  const int64_t shift = at % 8;
  if (shift == 0 && count == kPair) {
    memcpy(&bits, mask + at / 8, kPair / 8);
  } else {
    for (int64_t byte = 0; 8 * byte < shift + count; ++byte) {
      bits |= static_cast<uint64_t>(mask[at / 8 + byte]) << (8 * byte);
    }
  }
  return static_cast<uint32_t>(bits >> shift);
}

// Writes those of `count` elements from `at`, a multiple of 8.
inline void store_mask_bits(uint8_t* mask, int64_t at, int64_t count, uint32_t bits) {
  memcpy(mask + at / 8, &bits, static_cast<size_t>((count + 7) / 8));
}
