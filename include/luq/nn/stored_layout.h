// How files hold parameters: as a torchvision state_dict does.
//
//   convolution weights             (O, KH, KW, I) here         (O, I, KH, KW) in files
//   linear layers behind flatten    columns (H, W, C) here      columns (C, H, W) in files
//   everything else                 as it is
#pragma once

#include "luq/nn/module.h"

namespace luq {

// The parameter's shape in files.
Shape stored_shape(const Parameter& parameter);

// value: float32, of the parameter's shape: its value, gradient or velocity. Shares the buffer where nothing changes.
Tensor to_stored_layout(const Parameter& parameter, const Tensor& value);

// The inverse. stored: float32, of stored_shape(parameter). Throws Error for another shape.
Tensor from_stored_layout(const Parameter& parameter, const Tensor& stored);

}  // namespace luq
