// Everything an op needs beside its tensors, in one explicit argument.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "luq/autograd/tape.h"
#include "luq/core/denormals.h"
#include "luq/core/device.h"
#include "luq/core/rng.h"
#include "luq/quant/policy.h"

namespace luq {

// One line of the plan that --dry-run prints, reported by ops while a PlanRecorder is set.
struct PlanEntry {
  std::string name;  // layer name, or the op's where it has none
  std::string op;    // "conv2d", "linear", "batch_norm", "relu", ...
  Shape input, output;
  int64_t parameters = 0;
  int64_t macs = 0;  // of the forward pass, for the batch in `input`
  // Formats of the operands, "uint4 x int4", "int4 x fp4", or the type of floats; "-" where there is no such product.
  std::string forward, backward_data, backward_weight;
  // Kernel::implementation, "-" where there is none.
  std::string forward_kernel, backward_data_kernel, backward_weight_kernel;
};

// One op of a forward pass as an exporter needs it, reported by ops while Ctx::trace is set. The recorded values stay
// alive, so no op overwrites its argument then.
struct TraceNode {
  struct Operand {
    std::string role;       // "x", "weight", "bias", "residual", ...
    Var value;              // its identity() is that of a parameter, of the model's input, or of another node's output
    QTensor codes = {};     // what the op read in place of the value
    bool constant = false;  // not a parameter: running statistics
  };
  std::string op;     // "conv2d", "batch_norm", "relu", ...
  std::string layer;  // may be empty
  std::vector<Operand> operands;
  std::map<std::string, double> attributes;  // "stride", "eps", ...
  Var output;

  // nullptr when the op has no operand of this role.
  const Operand* find(std::string_view role) const {
    for (const Operand& operand : operands) {
      if (operand.role == role) return &operand;
    }
    return nullptr;
  }
};

struct Ctx {
  Device device;
  const Kernels* kernels = nullptr;         // never null while ops run
  Tape* tape = nullptr;                     // null: no gradients are recorded
  const QuantPlan* quant = nullptr;         // null: everything in float32
  std::vector<PlanEntry>* plan = nullptr;   // ops append to it when set
  std::vector<TraceNode>* trace = nullptr;  // likewise
  uint64_t seed = 0;
  uint64_t step = 0;  // global step
  uint32_t micro_batch = 0;
  bool training = false;
  bool recompute = false;  // train.recompute
  // Statistics of weights, by their memory, that were taken for all of them at the beginning of a step.
  const std::unordered_map<const void*, Stats>* weight_statistics = nullptr;
  DenormalWatch* denormals = nullptr;  // is shown inputs and gradients of layers when set; outlives the tape's closures

  // The stream of random bits of a layer and role at this step: make_rng_key(seed, "<layer>:<role>", step, ...).
  RngKey rng(std::string_view layer, std::string_view role, uint32_t sample = 0) const;
  // Ops that pass over a tensor anyway should take the statistics that quantisers need.
  bool wants_statistics() const { return training && quant != nullptr && quant->quantizes(); }
  bool records(const Var& input) const { return tape != nullptr && input.needs_grad(); }
};

}  // namespace luq
