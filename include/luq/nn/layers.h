// Layers that own parameters, and Sequential.
#pragma once

#include "luq/nn/module.h"
#include "luq/ops/attention.h"
#include "luq/ops/batch_norm.h"
#include "luq/ops/layer_norm.h"
#include "luq/ops/loss.h"
#include "luq/ops/matmul.h"
#include "luq/ops/pointwise.h"
#include "luq/ops/pool.h"

namespace luq {

// Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
Init xavier_uniform(int64_t fan_in, int64_t fan_out);

// How a convolution starts.
enum class ConvInit {
  he,       // weight normal as He et al. 2015 with fan_out O K K (gain for ReLU), bias 0
  lecun,    // weight normal with variance 1 / fan_in (LeCun et al. 1998), bias 0
  uniform,  // weight and bias uniform in +-1 / sqrt(fan_in), fan_in = K K C / groups: PyTorch's Conv2d left to itself
};

struct Conv2dLayerOptions {
  int64_t kernel = 3;
  Conv2dOptions conv = {};
  bool bias = false;
  ConvInit init = ConvInit::he;
};

// weight (O, K, K, C / groups).
class Conv2d : public Module {
 public:
  Conv2d(int64_t in_channels, int64_t out_channels, const Conv2dLayerOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  Conv2dOptions options_;
  Parameter& weight_;
  Parameter* bias_ = nullptr;
  Buffer& activation_scale_;
};

// weight (O, C); weight and bias start as PyTorch's Linear: uniform in +-1 / sqrt(C).
class Linear : public Module {
 public:
  Linear(int64_t in_features, int64_t out_features, bool bias = true);
  Linear(int64_t in_features, int64_t out_features, bool bias, const Init& weight_init, const Init& bias_init);
  // Its input is a flattened (H, W, channels), so that files hold its columns as PyTorch has them, (channels, H, W).
  void reads_flattened(int64_t channels) { weight_.flattened_channels = channels; }
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  Parameter& weight_;
  Parameter* bias_ = nullptr;
  Buffer& activation_scale_;
};

class BatchNorm2d : public Module {
 public:
  explicit BatchNorm2d(int64_t channels, const BatchNormOptions& options = {});
  Var forward(Ctx& ctx, const Var& x) override { return forward(ctx, x, {}); }
  // With what follows it, in fewer passes.
  Var forward(Ctx& ctx, const Var& x, const NormActivation& activation);

 private:
  BatchNormOptions options_;
  Parameter& weight_;
  Parameter& bias_;
  Buffer& running_mean_;
  Buffer& running_var_;
};

class ReLU : public Module {
 public:
  Var forward(Ctx& ctx, const Var& x) override { return relu(ctx, x); }
};

class ReLU6 : public Module {
 public:
  Var forward(Ctx& ctx, const Var& x) override { return relu6(ctx, x); }
};

class LayerNorm : public Module {
 public:
  explicit LayerNorm(int64_t channels, float eps = 1e-5f);
  Var forward(Ctx& ctx, const Var& x) override { return layer_norm(ctx, x, weight_.var, bias_.var, eps_, name()); }

 private:
  float eps_;
  Parameter& weight_;
  Parameter& bias_;
};

class GELU : public Module {
 public:
  Var forward(Ctx& ctx, const Var& x) override { return gelu(ctx, x); }
};

// Attention of the tokens (N, T, C) of each image to each other, with the parameters of PyTorch's MultiheadAttention:
// in_proj_weight (3 C, C) and in_proj_bias, which make queries, keys and values in one linear layer of this module's
// name, and the linear layer out_proj. They start as there.
class SelfAttention : public Module {
 public:
  SelfAttention(int64_t channels, int64_t heads);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  int64_t heads_;
  Parameter& in_proj_weight_;
  Parameter& in_proj_bias_;
  Buffer& activation_scale_;
  Linear& out_proj_;
};

class MaxPool2d : public Module {
 public:
  explicit MaxPool2d(const Pool2dOptions& options) : options_(options) {}
  Var forward(Ctx& ctx, const Var& x) override { return max_pool2d(ctx, x, options_); }

 private:
  Pool2dOptions options_;
};

class Dropout : public Module {
 public:
  explicit Dropout(float probability = 0.5f) : probability_(probability) {}
  Var forward(Ctx& ctx, const Var& x) override { return dropout(ctx, x, probability_, name()); }

 private:
  float probability_;
};

// Modules one after the other, named "0", "1", ... as in PyTorch. A BatchNorm2d and the ReLU or ReLU6 behind it run
// as one.
class Sequential : public Module {
 public:
  template <typename M, typename... Args>
  M& append(Args&&... args) {
    M& module = register_module<M>(std::to_string(modules_.size()), std::forward<Args>(args)...);
    modules_.push_back(&module);
    return module;
  }
  size_t size() const { return modules_.size(); }
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  std::vector<Module*> modules_;
};

}  // namespace luq
