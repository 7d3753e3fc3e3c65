// A traced forward pass as an ONNX model.
#pragma once

#include <string>
#include <vector>

#include "luq/autograd/ctx.h"
#include "luq/nn/module.h"

namespace luq {

// The bytes of a model of opset 21 with the input "images" (batch, channels, height, width) and the output "logits"
// (batch, classes), float32, for any batch. Values of four dimensions are NCHW; parameters keep their names,
// convolution weights are (O, I, KH, KW). Codes become INT4 initializers behind DequantizeLinear, and codes of
// activations a pair of QuantizeLinear and DequantizeLinear with their scale, UINT4 or INT4. input: (1, H, W, C), what
// the pass began with; output: (1, classes). Throws UserError `[onnx] ...` for an op without an ONNX form, and where
// the trace has a gap: a value that no recorded op made.
std::string to_onnx(const std::vector<TraceNode>& trace, Module& model, const Var& input, const Var& output,
                    const std::string& name);

}  // namespace luq
