// The safetensors file format: a u64 header length, a JSON header, then the tensors' bytes, little-endian, row-major.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "luq/core/tensor.h"

namespace luq {

struct SafeTensors {
  std::vector<std::pair<std::string, Tensor>> tensors;  // in file order
  std::map<std::string, std::string> metadata;          // the header's __metadata__

  // nullptr when there is none of this name.
  const Tensor* find(const std::string& name) const;
};

// F32, U8, I32 and I64 as they are; F16, BF16 and F64 are converted to float32. Throws UserError naming the file and
// what is wrong: missing, truncated, a header that is not JSON, overlapping or out-of-range offsets, another dtype.
SafeTensors load_safetensors(const std::string& file);
// Writes as OutputFile does (luq/core/output_file.h): a file is replaced whole, synced, or stays as it was. Returns the
// bytes of the file. Error names the file and the system's reason.
uint64_t save_safetensors(const std::string& file, const SafeTensors& content);

}  // namespace luq
