// `luqtrain quantize`: the quantisers of training applied to a file of tensors.
#pragma once

#include <cstdint>
#include <string>

namespace luq {

struct QuantizeFileOptions {
  std::string input, output;   // safetensors
  std::string format;          // int4_sawb, uint4_sawb (clip/15), fp4_luq
  std::string device = "cpu";  // or cuda: the same codes
  uint64_t seed = 0;
  uint64_t step = 0;
  uint32_t sample = 0;
};

// For each float tensor <name> of the input writes <name>.codes (U8, flat, row-major, two a byte, low nibble first,
// only the last byte padded; logical shape and format in the metadata), <name>.scale (F32, (1)) and <name>.dequantized
// (F32). fp4_luq draws its bits from make_rng_key(seed, <name>, step, 0, sample), element i of the flat tensor from
// block i / 8. Integer tensors are left out, and said. Returns a report: scale, code histogram, clip or underflow rate,
// SQNR. Throws UserError for an unknown format, a file that cannot be read, NaN or infinity, and negative values in
// uint4_sawb.
std::string quantize_file(const QuantizeFileOptions& options);

}  // namespace luq
