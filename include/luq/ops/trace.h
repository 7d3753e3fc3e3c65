// Reporting ops to a trace, for exporters.
#pragma once

#include <map>
#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// Appends an op of one operand without parameters to ctx.trace when it is set.
inline void record_trace(Ctx& ctx, const char* op, const Var& x, const Var& y,
                         const std::map<std::string, double>& attributes = {}) {
  if (ctx.trace == nullptr) return;
  ctx.trace->push_back(
      {.op = op, .layer = "", .operands = {{.role = "x", .value = x}}, .attributes = attributes, .output = y});
}

}  // namespace luq
