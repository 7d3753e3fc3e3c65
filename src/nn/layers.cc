#include "luq/nn/layers.h"

#include <cmath>

namespace luq {
namespace {

Init he_normal(int64_t fan_out) { return {Init::Kind::normal, std::sqrt(2.0f / static_cast<float>(fan_out))}; }

Init torch_uniform(int64_t fan_in) { return {Init::Kind::uniform, 1.0f / std::sqrt(static_cast<float>(fan_in))}; }

constexpr Init kZero{Init::Kind::constant, 0.0f};
constexpr Init kOne{Init::Kind::constant, 1.0f};

Init conv_weight_init(int64_t in_channels, int64_t out_channels, const Conv2dLayerOptions& options) {
  const int64_t window = options.kernel * options.kernel;
  const int64_t fan_in = in_channels / options.conv.groups * window;
  switch (options.init) {
    case ConvInit::he:
      return he_normal(out_channels * window);
    case ConvInit::lecun:
      return {Init::Kind::normal, 1.0f / std::sqrt(static_cast<float>(fan_in))};
    case ConvInit::uniform:
      break;
  }
  return torch_uniform(fan_in);
}

}  // namespace

Init xavier_uniform(int64_t fan_in, int64_t fan_out) {
  return {Init::Kind::uniform, std::sqrt(6.0f / static_cast<float>(fan_in + fan_out))};
}

Conv2d::Conv2d(int64_t in_channels, int64_t out_channels, const Conv2dLayerOptions& options)
    : options_(options.conv),
      weight_(register_parameter("weight",
                                 {out_channels, options.kernel, options.kernel, in_channels / options.conv.groups},
                                 ParameterRole::weight, conv_weight_init(in_channels, out_channels, options))),
      activation_scale_(register_buffer("activation_scale", Tensor::zeros({1}), true)) {
  set_matmul_kind(LayerKind::conv);
  if (!options.bias) return;
  const Init init = options.init == ConvInit::uniform ? weight_.init : kZero;
  bias_ = &register_parameter("bias", {out_channels}, ParameterRole::bias, init);
}

Var Conv2d::forward(Ctx& ctx, const Var& x) {
  return conv2d(ctx, x, weight_.var, bias_ != nullptr ? &bias_->var : nullptr, options_, name(),
                activation_scale_.value);
}

Linear::Linear(int64_t in_features, int64_t out_features, bool bias)
    : Linear(in_features, out_features, bias, torch_uniform(in_features), torch_uniform(in_features)) {}

Linear::Linear(int64_t in_features, int64_t out_features, bool bias, const Init& weight_init, const Init& bias_init)
    : weight_(register_parameter("weight", {out_features, in_features}, ParameterRole::weight, weight_init)),
      activation_scale_(register_buffer("activation_scale", Tensor::zeros({1}), true)) {
  set_matmul_kind(LayerKind::linear);
  if (bias) bias_ = &register_parameter("bias", {out_features}, ParameterRole::bias, bias_init);
}

Var Linear::forward(Ctx& ctx, const Var& x) {
  return linear(ctx, x, weight_.var, bias_ != nullptr ? &bias_->var : nullptr, name(), activation_scale_.value);
}

BatchNorm2d::BatchNorm2d(int64_t channels, const BatchNormOptions& options)
    : options_(options),
      weight_(register_parameter("weight", {channels}, ParameterRole::norm, kOne)),
      bias_(register_parameter("bias", {channels}, ParameterRole::norm, kZero)),
      running_mean_(register_buffer("running_mean", Tensor::zeros({channels}))),
      running_var_(register_buffer("running_var", Tensor::full({channels}, 1.0f))) {}

Var BatchNorm2d::forward(Ctx& ctx, const Var& x, const NormActivation& activation) {
  return batch_norm(ctx, x, weight_.var, bias_.var, running_mean_.value, running_var_.value, options_, name(),
                    activation);
}

LayerNorm::LayerNorm(int64_t channels, float eps)
    : eps_(eps),
      weight_(register_parameter("weight", {channels}, ParameterRole::norm, kOne)),
      bias_(register_parameter("bias", {channels}, ParameterRole::norm, kZero)) {}

SelfAttention::SelfAttention(int64_t channels, int64_t heads)
    : heads_(heads),
      in_proj_weight_(register_parameter("in_proj_weight", {3 * channels, channels}, ParameterRole::weight,
                                         xavier_uniform(channels, 3 * channels))),
      in_proj_bias_(register_parameter("in_proj_bias", {3 * channels}, ParameterRole::bias, kZero)),
      activation_scale_(register_buffer("activation_scale", Tensor::zeros({1}), true)),
      out_proj_(register_module<Linear>("out_proj", channels, channels, true, torch_uniform(channels), kZero)) {
  set_matmul_kind(LayerKind::linear);
}

Var SelfAttention::forward(Ctx& ctx, const Var& x) {
  const Var qkv = linear(ctx, x, in_proj_weight_.var, &in_proj_bias_.var, name(), activation_scale_.value);
  return out_proj_.forward(ctx, attention(ctx, qkv, heads_, name()));
}

Var Sequential::forward(Ctx& ctx, const Var& x) {
  Var y = x;
  for (size_t i = 0; i < modules_.size(); ++i) {
    auto* norm = dynamic_cast<BatchNorm2d*>(modules_[i]);
    Module* next = i + 1 < modules_.size() ? modules_[i + 1] : nullptr;
    const bool relu = dynamic_cast<ReLU*>(next) != nullptr, relu6 = dynamic_cast<ReLU6*>(next) != nullptr;
    if (norm != nullptr && (relu || relu6)) {
      y = norm->forward(ctx, y, {.relu = true, .ceiling = relu6 ? 6.0f : 0.0f});
      ++i;
    } else {
      y = modules_[i]->forward(ctx, y);
    }
  }
  return y;
}

}  // namespace luq
