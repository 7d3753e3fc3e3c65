// VGG (Simonyan and Zisserman 2015), with or without batch norm, torchvision's shape and names.
#pragma once

#include "luq/nn/layers.h"

namespace luq {

struct VggOptions {
  std::vector<int64_t> features;  // channels of a 3x3 convolution, followed by ReLU; 0: max pool 2x2
  bool batch_norm = true;         // between convolution and ReLU
  int64_t pooled_size = 7;        // side of the features' average pooling before the classifier
  int64_t hidden = 4096;
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// x (N, H, W, in_channels) -> logits (N, num_classes); H and W at least 2 to the number of pools.
class Vgg : public Module {
 public:
  explicit Vgg(const VggOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  int64_t pooled_size_;
  Sequential& features_;
  Sequential& classifier_;
};

}  // namespace luq
