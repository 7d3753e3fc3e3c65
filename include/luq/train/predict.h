// `luqtrain predict`: what a model says of image files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "luq/data/dataset.h"
#include "luq/train/checkpoint.h"

namespace luq {

struct PredictOptions {
  std::string checkpoint;           // a checkpoint, a packed file or a state_dict
  std::string model;                // for a state_dict: its name in the zoo
  std::vector<std::string> images;  // files
  std::string folder;               // then its image files (docs/data.md), with those of all folders below, by path
  std::string labels;               // file of class names, one a line; empty: the checkpoint's
  std::string logits;               // file to write; empty: none
  std::string device;               // cpu or cuda; empty: what the checkpoint was trained on
  CheckpointWeights weights = CheckpointWeights::ema_if_stored;
};

struct Prediction {
  std::string image;
  std::string problem;  // why the image could not be read; "" when it was
  struct Class {
    int64_t index = 0;
    std::string name;
    double probability = 0;  // 0..1, softmax over all classes
  };
  std::vector<Class> top;  // the five of the largest logits, the first of equals first; fewer where there are fewer
};

// Images in the order given. One image at a time runs, so what is said of an image depends on no other. A state_dict
// means float32 with ImageNet's preprocessing; a checkpoint carries its own. A quantised layer without an activation
// scale uses each image's own. options.logits gets `logits`, float32 (images, classes), rows of NaN for images that
// could not be read. unused, when given, gets what lies in options.folder and is no image by its name. Throws UserError
// for what is wrong with the options, and Error when the logits cannot be written.
std::vector<Prediction> predict(const PredictOptions& options, UnusedFiles* unused = nullptr);

// A block of text for each image.
std::string to_text(const std::vector<Prediction>& predictions);

}  // namespace luq
