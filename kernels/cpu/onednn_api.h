// oneDNN 2 and 3 differ, in what is used here, in how a primitive's descriptor is made.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

namespace luq::onednn {

// Scratch memory is an argument of each call, so that threads may share a primitive.
inline dnnl::primitive_attr with_scratchpad_argument() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

// The descriptor of a forward primitive. `operands` are those of oneDNN 3 without the engine, in its order: kind and
// algorithm where the primitive has them, memory descriptors, strides and so on. Throws dnnl::error as oneDNN does.
template <typename Primitive, typename... Operands>
typename Primitive::primitive_desc describe(const dnnl::engine& engine, const dnnl::primitive_attr& attributes,
                                            const Operands&... operands) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, operands..., attributes};
#else
  return {typename Primitive::desc(operands...), attributes, engine};
#endif
}

// The same of a backward primitive; `forward` describes the forward one that it belongs to.
template <typename Primitive, typename Forward, typename... Operands>
typename Primitive::primitive_desc describe_backward(const dnnl::engine& engine, const dnnl::primitive_attr& attributes,
                                                     const Forward& forward, const Operands&... operands) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, operands..., forward, attributes};
#else
  return {typename Primitive::desc(operands...), attributes, engine, forward};
#endif
}

}  // namespace luq::onednn
