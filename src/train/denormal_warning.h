// Looks for denormal values in some steps of a run, and says once what was found.
#pragma once

#include "luq/core/denormals.h"
#include "luq/nn/module.h"
#include "luq/train/optimizer.h"
#include "src/train/run_log.h"

namespace luq {

class DenormalWarning {
 public:
  // What the layers are to show their tensors to in this step (from 0); null where nothing is looked for.
  DenormalWatch* watch(int64_t step);
  // Behind a step with a watch: looks at what layers do not show, and warns where something was found.
  void look(int64_t step, Module& model, const Optimizer& optimizer, RunLog& log);

 private:
  DenormalWatch watch_;
};

}  // namespace luq
