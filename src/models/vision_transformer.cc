#include "luq/models/vision_transformer.h"

#include "luq/core/error.h"

namespace luq {
namespace {

constexpr float kEps = 1e-6f;
constexpr Init kZero{Init::Kind::constant, 0.0f};
constexpr Init kMlpBias{Init::Kind::normal, 1e-6f};
constexpr Init kPositions{Init::Kind::normal, 0.02f};

const ViTOptions& checked(const ViTOptions& options) {
  if (options.patch_size < 1 || options.image_size < 1 || options.image_size % options.patch_size != 0) {
    fail_user("[model.name] a vision transformer needs images of a multiple of {0}x{0}, got {1}x{1}",
              options.patch_size, options.image_size);
  }
  if (options.heads < 1 || options.hidden % options.heads != 0) {
    fail_user("[model.name] a vision transformer needs a hidden size that {} heads divide, got {}", options.heads,
              options.hidden);
  }
  return options;
}

int64_t token_count(const ViTOptions& options) {
  const int64_t side = options.image_size / options.patch_size;
  return 1 + side * side;
}

}  // namespace

EncoderBlock::EncoderBlock(const ViTOptions& options)
    : ln_1_(register_module<LayerNorm>("ln_1", options.hidden, kEps)),
      self_attention_(register_module<SelfAttention>("self_attention", options.hidden, options.heads)),
      ln_2_(register_module<LayerNorm>("ln_2", options.hidden, kEps)),
      mlp_(register_module<Sequential>("mlp")) {
  const Init weight = xavier_uniform(options.hidden, options.mlp);
  mlp_.append<Linear>(options.hidden, options.mlp, true, weight, kMlpBias);
  mlp_.append<GELU>();
  mlp_.append<Dropout>(0.0f);
  mlp_.append<Linear>(options.mlp, options.hidden, true, weight, kMlpBias);
}

Var EncoderBlock::forward(Ctx& ctx, const Var& x) {
  const Var y = add(ctx, self_attention_.forward(ctx, ln_1_.forward(ctx, x)), x);
  return add(ctx, mlp_.forward(ctx, ln_2_.forward(ctx, y)), y);
}

VisionTransformer::Encoder::Blocks::Blocks(const ViTOptions& options) {
  for (int64_t i = 0; i < options.layers; ++i) {
    blocks_.push_back(&register_module<EncoderBlock>("encoder_layer_" + std::to_string(i), options));
  }
}

Var VisionTransformer::Encoder::Blocks::forward(Ctx& ctx, const Var& x) {
  Var y = x;
  for (EncoderBlock* block : blocks_) y = block->forward(ctx, y);
  return y;
}

VisionTransformer::Encoder::Encoder(const ViTOptions& options)
    : pos_embedding_(register_parameter("pos_embedding", {1, token_count(options), options.hidden},
                                        ParameterRole::weight, kPositions)),
      layers_(register_module<Blocks>("layers", options)),
      ln_(register_module<LayerNorm>("ln", options.hidden, kEps)) {}

Var VisionTransformer::Encoder::forward(Ctx& ctx, const Var& x) {
  return ln_.forward(ctx, first_token(ctx, layers_.forward(ctx, x)));
}

VisionTransformer::Heads::Heads(const ViTOptions& options)
    : head_(register_module<Linear>("head", options.hidden, options.num_classes, true, kZero, kZero)) {}

VisionTransformer::VisionTransformer(const ViTOptions& options)
    : image_size_(checked(options).image_size),
      class_token_(register_parameter("class_token", {1, 1, options.hidden}, ParameterRole::weight, kZero)),
      conv_proj_(register_module<Conv2d>("conv_proj", options.in_channels, options.hidden,
                                         Conv2dLayerOptions{.kernel = options.patch_size,
                                                            .conv = {.stride = options.patch_size},
                                                            .bias = true,
                                                            .init = ConvInit::lecun})),
      encoder_(register_module<Encoder>("encoder", options)),
      heads_(register_module<Heads>("heads", options)) {}

Var VisionTransformer::forward(Ctx& ctx, const Var& x) {
  if (x.shape().rank() != 4 || x.shape()[1] != image_size_ || x.shape()[2] != image_size_) {
    fail("[vision_transformer] expected x of shape (N,{0},{0},C), got {1}", image_size_, to_string(x.shape()));
  }
  const Var tokens = embed_tokens(ctx, conv_proj_.forward(ctx, x), class_token_.var, encoder_.positions());
  return heads_.forward(ctx, encoder_.forward(ctx, tokens));
}

}  // namespace luq
