// Reporting ops to the plan that --dry-run prints.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// Appends a float32 op that multiplies no matrices to ctx.plan when it is set. layer: may be empty.
inline void record_plan(Ctx& ctx, const char* op, const std::string& layer, const Var& x, const Var& y,
                        int64_t parameters = 0) {
  if (ctx.plan == nullptr) return;
  PlanEntry entry;
  entry.name = layer;
  entry.op = op;
  entry.input = x.shape();
  entry.output = y.shape();
  entry.parameters = parameters;
  entry.forward = entry.backward = "float32";
  entry.update = "-";
  ctx.plan->push_back(std::move(entry));
}

}  // namespace luq
