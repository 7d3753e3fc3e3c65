// Which operand of which layer is quantised how: the one place that decides.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "luq/quant/quantize.h"

namespace luq {

enum class LayerKind { conv, linear };

// One layer that multiplies matrices, in the order of registration.
struct MatmulLayer {
  std::string name;  // "layer1.0.conv1"
  LayerKind kind = LayerKind::conv;
};

// The names of the first convolution and of the last linear layer, which gives the logits; "" when there is none.
std::string first_conv(const std::vector<MatmulLayer>& layers);
std::string last_linear(const std::vector<MatmulLayer>& layers);

// The three operands of a layer's three matmuls. A matmul whose two operands both have 4 bits runs in integers; any
// other runs in floats, of the experiment's precision, on the (dequantised) operands.
struct LayerQuant {
  QuantSpec weights, activations;
  QuantSpec gradients{Format::float32, ScaleMethod::max, Rounding::stochastic};
  bool quantized() const { return is_4bit(weights.format) || is_4bit(activations.format) || is_4bit(gradients.format); }
};

// The configuration's section `quantization`.
struct QuantPolicy {
  LayerQuant spec;  // of every layer that is not exempt
  bool exempt_first_conv = true;
  bool exempt_last_linear = true;
  std::vector<std::string> exempt;  // glob patterns over layer names, '*' and '?' ("*.downsample.*")
};

// The policy applied to a model's layers; a name it does not hold runs in float32.
class QuantPlan {
 public:
  QuantPlan() = default;
  // layers in the model's order. Throws UserError when a pattern of `exempt` matches no layer.
  QuantPlan(const QuantPolicy& policy, const std::vector<MatmulLayer>& layers);
  const LayerQuant& operator[](const std::string& name) const;
  // Some layer quantises something.
  bool quantizes() const;

 private:
  std::unordered_map<std::string, LayerQuant> layers_;
};

}  // namespace luq
