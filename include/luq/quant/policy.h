// Which operand of which layer is quantised how: the one place that decides.
#pragma once

#include <string>
#include <string_view>
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

// The operands of a layer's three matmuls; each of the two that read the gradient has a quantiser of its own for it,
// and shares the codes where they are equal. A matmul whose two operands both have 4 bits runs in integers; any other
// runs in floats, of the experiment's precision, on the (dequantised) operands.
struct LayerQuant {
  QuantSpec weights, activations;
  QuantSpec gradient_for_data{Format::float32, ScaleMethod::max, Rounding::stochastic};
  QuantSpec gradient_for_weights = gradient_for_data;

  LayerQuant() = default;
  LayerQuant(const QuantSpec& weights, const QuantSpec& activations, const QuantSpec& gradients)
      : LayerQuant(weights, activations, gradients, gradients) {}
  LayerQuant(const QuantSpec& weights, const QuantSpec& activations, const QuantSpec& gradient_for_data,
             const QuantSpec& gradient_for_weights)
      : weights(weights),
        activations(activations),
        gradient_for_data(gradient_for_data),
        gradient_for_weights(gradient_for_weights) {}

  bool quantized() const {
    return weights.format.quantized() || activations.format.quantized() || gradient_for_data.format.quantized() ||
           gradient_for_weights.format.quantized();
  }
};

// Throws UserError `[<op>] <layer>: <operand>: expected ..., got ...` for a quantiser that a layer cannot have: a
// format without signs, which a signed one becomes by itself where it may, one that is not registered, or a scale
// method that the format does not have.
void check_quantisers(const LayerQuant& quant, std::string_view op, std::string_view layer);

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
