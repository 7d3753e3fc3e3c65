// What a data set of image files holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "luq/data/dataset.h"

namespace luq::test {

// Each image's content and label, in order.
inline std::vector<std::string> contents(const Dataset& dataset) {
  std::vector<std::string> list;
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < dataset.info().images; ++i) {
    const int32_t label = dataset.read_file(i, bytes);
    list.push_back(std::string(bytes.begin(), bytes.end()) + ":" + std::to_string(label));
  }
  return list;
}

}  // namespace luq::test
