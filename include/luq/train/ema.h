// An exponential moving average (EMA) of a model's weights.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "luq/nn/module.h"

namespace luq {

// After each step, for every parameter and buffer (running statistics of norms, running activation scales):
// average = decay average + (1 - decay) value, as timm's ModelEmaV2. The average starts as a copy of the model after
// the first step, since running activation scales have no value before it.
class ModelEma {
 public:
  // The model must outlive the average. 0 < decay < 1.
  ModelEma(Module& model, double decay);

  // step: updates done, this one included; 1 starts the average.
  void update(int64_t step);
  // Exchanges the values of the model and the average; done twice, everything is as it was.
  void swap();
  // The average's tensors under "ema.<parameter or buffer>", sharing their memory; parameters first.
  std::vector<std::pair<std::string, Tensor>> state() const;

 private:
  struct Entry {
    std::string name;
    Tensor value, average;
  };
  double decay_;
  std::vector<Entry> entries_;
};

}  // namespace luq
