// A look at every image of a data set before a long run meets the broken ones.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "luq/config/experiment.h"

namespace luq {

struct ValidationReport {
  int64_t train_images = 0, test_images = 0;
  std::vector<std::string> broken;  // "path: reason", training images first, in the order of the data set
  std::vector<std::string>
      warnings;  // whole sentences: files that are not used, test images that are training images too
};

// Decodes every image of both splits of config.data (of a set of pixels, whose reader checks all of it, nothing is left
// to be done) in `workers` threads; 0: default_threads(). progress, when given, is called now and then, by one
// thread at a time, with the images done and all. Throws UserError where the data set cannot be opened at all.
ValidationReport validate_data(const ExperimentConfig& config, int64_t workers,
                               const std::function<void(int64_t, int64_t)>& progress = {});

// The data set of a folder: webdataset where it holds shards train-*.tar or val-*.tar, else image_folder.
ExperimentConfig config_of_folder(const std::string& path);

}  // namespace luq
