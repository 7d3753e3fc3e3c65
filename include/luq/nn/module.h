// Layers and models: named trees of parameters, buffers and sub-modules.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "luq/autograd/ctx.h"

namespace luq {

enum class ParameterRole { weight, bias, norm };  // norm: gamma and beta of normalisation layers

// How a parameter starts.
struct Init {
  enum class Kind { constant, normal, uniform } kind = Kind::constant;
  float value = 0;  // the constant, the standard deviation, or the bound of the uniform (-value, value)
};

struct Parameter {
  std::string name;  // full, torchvision style: "layer1.0.conv1.weight"
  ParameterRole role = ParameterRole::weight;
  Init init;
  Var var;  // value and gradient slot; needs_grad
  // Above 0: of a linear layer that reads flattened images of this many channels. Its columns are (H, W, C).
  int64_t flattened_channels = 0;
};

// State that is saved but not trained: running mean and variance, running activation scales.
struct Buffer {
  std::string name;
  Tensor value;
  bool stays_on_host = false;  // read by the host at every step
};

class Module {
 public:
  virtual ~Module() = default;
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  virtual Var forward(Ctx& ctx, const Var& x) = 0;

  // Names this module and everything below; called once by the owner of the root, with "".
  void set_name(const std::string& name);
  // Fills every parameter from its Init with random numbers keyed by (seed, parameter name); set_name comes first.
  void initialize(uint64_t seed);
  const std::string& name() const { return name_; }
  // Moves the parameters' values and the buffers.
  void to(Device device);

  // Own and sub-modules' in the order of registration. Pointers stay valid as long as the module.
  std::vector<Parameter*> parameters();
  std::vector<Buffer*> buffers();
  // Layers that multiply matrices, for QuantPlan.
  std::vector<MatmulLayer> matmul_layers() const;

 protected:
  Parameter& register_parameter(const std::string& name, const Shape& shape, ParameterRole role, const Init& init);
  Buffer& register_buffer(const std::string& name, Tensor value, bool stays_on_host = false);
  template <typename M, typename... Args>
  M& register_module(const std::string& name, Args&&... args) {
    auto module = std::make_unique<M>(std::forward<Args>(args)...);
    M& reference = *module;
    children_.emplace_back(name, std::move(module));
    return reference;
  }
  // Set by layers that multiply matrices.
  void set_matmul_kind(LayerKind kind) {
    is_matmul_ = true;
    kind_ = kind;
  }

 private:
  std::string name_;
  bool is_matmul_ = false;
  LayerKind kind_ = LayerKind::conv;
  std::vector<std::pair<std::string, std::unique_ptr<Parameter>>> parameters_;
  std::vector<std::pair<std::string, std::unique_ptr<Buffer>>> buffers_;
  std::vector<std::pair<std::string, std::unique_ptr<Module>>> children_;
};

}  // namespace luq
