// What differs between oneDNN 2 and 3 in what is used here: how a primitive's descriptor is made.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

namespace luq::onednn {

// The descriptor of a forward primitive. `operands` are those of oneDNN 3 without the engine, in its order: kind and
// algorithm where the primitive has them, memory descriptors, strides and so on. Throws dnnl::error as oneDNN does.
template <typename Primitive, typename... Operands>
typename Primitive::primitive_desc describe(const dnnl::engine& engine, const Operands&... operands) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, operands...};
#else
  return {typename Primitive::desc(operands...), engine};
#endif
}

// The same of a backward primitive; `forward` describes the forward one that it belongs to.
template <typename Primitive, typename Forward, typename... Operands>
typename Primitive::primitive_desc describe_backward(const dnnl::engine& engine, const Forward& forward,
                                                     const Operands&... operands) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, operands..., forward};
#else
  return {typename Primitive::desc(operands...), engine, forward};
#endif
}

}  // namespace luq::onednn
