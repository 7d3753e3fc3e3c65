// The rate of a multiply-add unit: twelve sums that do not wait for each other, enough to hide any latency, and nothing
// else in the loop. What a matmul kernel reaches is measured against it.
//
// An ISA file includes this file in an anonymous namespace.

// step(sum): one multiply-add instruction, of `operations` operations.
template <typename Vector, typename Step>
void run_peak(const PeakArgs& a, Vector zero, double operations, Step step) {
  Vector s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero;
  Vector s6 = zero, s7 = zero, s8 = zero, s9 = zero, s10 = zero, s11 = zero;
  for (int64_t iteration = 0; iteration < a.iterations; ++iteration) {
    s0 = step(s0), s1 = step(s1), s2 = step(s2), s3 = step(s3), s4 = step(s4), s5 = step(s5);
    s6 = step(s6), s7 = step(s7), s8 = step(s8), s9 = step(s9), s10 = step(s10), s11 = step(s11);
    // As if the sums were used: the loop stays.
    asm volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5));
    asm volatile("" : "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11));
  }
  *a.operations = operations * 12 * static_cast<double>(a.iterations);
}

// Four loads in flight that do not wait for each other.
template <typename Vector, typename Load, typename Or>
Vector read_all(const PeakReadArgs& a, Vector zero, Load load, Or either) {
  Vector v0 = zero, v1 = zero, v2 = zero, v3 = zero;
  constexpr int64_t kBytes = sizeof(Vector);
  for (int64_t i = 0; i < a.bytes; i += 4 * kBytes) {
    v0 = either(v0, load(a.x + i));
    v1 = either(v1, load(a.x + i + kBytes));
    v2 = either(v2, load(a.x + i + 2 * kBytes));
    v3 = either(v3, load(a.x + i + 3 * kBytes));
  }
  return either(either(v0, v1), either(v2, v3));
}
