// Vision transformer (Dosovitskiy et al. 2021, "An image is worth 16x16 words"), torchvision's shape and names.
#pragma once

#include "luq/nn/layers.h"

namespace luq {

struct ViTOptions {
  int64_t image_size = 224;  // height = width, a multiple of patch_size
  int64_t patch_size = 16;
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t hidden = 768;  // a multiple of heads
  int64_t mlp = 3072;
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// Layer norm, self-attention, addition; layer norm, two linear layers with GELU between them, addition: (N, T, hidden).
class EncoderBlock : public Module {
 public:
  explicit EncoderBlock(const ViTOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  LayerNorm& ln_1_;
  SelfAttention& self_attention_;
  LayerNorm& ln_2_;
  Sequential& mlp_;
};

// x (N, image_size, image_size, in_channels) -> logits (N, num_classes). A convolution makes a token of each patch; a
// class token comes before them, embeddings of the positions are added, blocks follow, and the class token's last
// value, behind a layer norm, goes into a linear layer, which starts at 0. Without dropout, as torchvision's default.
// Throws UserError when the sizes do not divide each other.
class VisionTransformer : public Module {
 public:
  explicit VisionTransformer(const ViTOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  class Encoder : public Module {
   public:
    explicit Encoder(const ViTOptions& options);
    Var forward(Ctx& ctx, const Var& x) override;  // of tokens with their positions
    const Var& positions() const { return pos_embedding_.var; }

   private:
    class Blocks : public Module {
     public:
      explicit Blocks(const ViTOptions& options);
      Var forward(Ctx& ctx, const Var& x) override;

     private:
      std::vector<EncoderBlock*> blocks_;
    };

    Parameter& pos_embedding_;
    Blocks& layers_;
    LayerNorm& ln_;
  };
  class Heads : public Module {
   public:
    explicit Heads(const ViTOptions& options);
    Var forward(Ctx& ctx, const Var& x) override { return head_.forward(ctx, x); }

   private:
    Linear& head_;
  };

  int64_t image_size_;
  Parameter& class_token_;
  Conv2d& conv_proj_;
  Encoder& encoder_;
  Heads& heads_;
};

}  // namespace luq
