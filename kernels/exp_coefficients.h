// The polynomials of exponentials, once for host and device; kernels/cpu/exp_impl.h says what they are and how close.
// Lists, lowest power first, because an array of the host's cannot be read on a device.
#pragma once

// e^r for |r| <= ln 2 / 2.
#define LUQ_EXP_COEFFICIENTS 1.0f, 1.0f, 0.4999999f, 0.1666642f, 0.041668225f, 0.008374823f, 0.0013836824f

// P(t) with t P(t) = e^(z^2) erfc(z), t = 1 / (1 + 0.35 z), z >= 0.
#define LUQ_TAIL_COEFFICIENTS                                                                             \
  0.19746958f, 0.19740823f, 0.18570766f, 0.1612185f, 0.11758847f, 0.13904756f, -0.08917155f, 0.22679803f, \
      -0.17791335f, 0.04184687f
