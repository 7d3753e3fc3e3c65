// AlexNet as in Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"; torchvision's shape
// and names.
#pragma once

#include "luq/nn/layers.h"

namespace luq {

struct AlexNetOptions {
  int64_t pooled_size = 6;  // side of the features' average pooling before the classifier
  int64_t hidden = 4096;
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
};

// x (N, H, W, in_channels) -> logits (N, num_classes); H and W at least 63.
class AlexNet : public Module {
 public:
  explicit AlexNet(const AlexNetOptions& options);
  Var forward(Ctx& ctx, const Var& x) override;

 private:
  int64_t pooled_size_;
  Sequential& features_;
  Sequential& classifier_;
};

}  // namespace luq
