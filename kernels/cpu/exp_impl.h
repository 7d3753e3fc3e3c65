// Exponentials in vectors of any width.
//
// An ISA file includes its `Simd` and then, in an anonymous namespace, this file.
//
// exp: x = n ln 2 + r with |r| <= ln 2 / 2; e^r is a polynomial of degree 6 (minimax, 2e-9), 2^n goes into the
// exponent. The result is within 1e-7 of e^x, relatively, and 0 below -87, where it would not stay normal; NaN passes.
//
// The normal distribution's Phi(x) = erfc(-x / sqrt(2)) / 2 comes from the tail Phi(-|x|) = e^(-x^2 / 2) t P(t) / 2
// with t = 1 / (1 + 0.35 z), z = |x| / sqrt(2). There t P(t) stands for e^(z^2) erfc(z) for all z >= 0, with a
// polynomial P of degree 9 (minimax, 1e-8 relatively). Phi is within 2.5e-7 of its value, and within 5e-7 of it
// relatively where it is small, but for the rounding of x^2 / 2. e^(-x^2 / 2) is also what the derivative needs.

#include "kernels/cpu/pair_impl.h"
#include "kernels/exp_coefficients.h"

template <int kCount>
[[gnu::always_inline]] inline Float polynomial(Float x, const float (&coefficients)[kCount]) {
  Float sum = Simd::set(coefficients[kCount - 1]);
#pragma GCC unroll 16
  for (int i = kCount - 2; i >= 0; --i) sum = Simd::multiply_add(sum, x, Simd::set(coefficients[i]));
  return sum;
}

// x <= 88.
[[gnu::always_inline]] inline Float exp(Float x) {
  constexpr float kCoefficients[] = {LUQ_EXP_COEFFICIENTS};
  const Float least = Simd::set(-87.0f), inside = Simd::max(least, x);
  const Int n = Simd::round(Simd::mul(inside, Simd::set(1.44269504f)));
  const Float whole = Simd::to_float(n);
  const Float high = Simd::multiply_add(whole, Simd::set(-0.693359375f), inside);  // exact
  const Float r = Simd::multiply_add(whole, Simd::set(2.12194440e-4f), high);
  const Int result = Simd::add_int(Simd::bits(polynomial(r, kCoefficients)), Simd::template shift_left<23>(n));
  const Int kept = Simd::add_where_greater(Simd::set_int(0xffffffffu), least, x);  // 0 where x is below
  return Simd::as_floats(Simd::and_int(result, kept));
}

struct Normal {
  Float cumulative;  // Phi(x)
  Float kernel;      // e^(-x^2 / 2)
};

[[gnu::always_inline]] inline Normal normal(Float x) {
  constexpr float kCoefficients[] = {LUQ_TAIL_COEFFICIENTS};
  const Float one = Simd::set(1.0f), half_x = Simd::mul(x, Simd::set(-0.5f));
  const Float kernel = exp(Simd::mul(half_x, x));
  const Float t = Simd::div(one, Simd::multiply_add(Simd::abs(x), Simd::set(0.247487373f), one));
  const Float tail = Simd::mul(Simd::mul(Simd::mul(kernel, Simd::set(0.5f)), t), polynomial(t, kCoefficients));
  const Int not_negative = Simd::add_int(Simd::template shift_right<31>(Simd::bits(x)), Simd::set_int(0xffffffffu));
  const Int chosen = Simd::choose(Simd::bits(tail), Simd::bits(Simd::sub(one, tail)), not_negative);
  return {Simd::as_floats(chosen), kernel};
}
