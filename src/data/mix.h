// Mixup and CutMix: a batch mixed with itself. The labels are mixed here, the images by finish_images().
#pragma once

#include "luq/data/loader.h"
#include "src/data/random.h"

namespace luq {

// As torchvision's MixUp and CutMix (v2): image i is mixed with image i - 1, the first one with the last, all in the
// same proportion, which Beta(alpha, alpha) gives. Does nothing where both are off. key.index: the number of the batch
// in its epoch, on which the random numbers depend.
void mix(const TransformOptions& options, const ImageKey& key, Batch& batch);

// Beta(alpha, alpha), as the ratio of two gamma numbers (Marsaglia and Tsang 2000), in logarithms.
double draw_beta(RngStream& random, double alpha);

}  // namespace luq
