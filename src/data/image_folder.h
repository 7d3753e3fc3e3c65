// Image files in folders named after their classes, as torchvision's ImageFolder reads them, and ImageNet in the same
// layout.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "luq/data/dataset.h"

namespace luq {

// The folder in `location` that holds train/ (for the test split without training images: val/ or test/), or "": the
// location itself, or ILSVRC/Data/CLS-LOC in it, where ImageNet's archive of Kaggle puts them.
std::string find_image_folder(const std::string& location);

// name: image_folder or imagenet (1,000 classes). root: from find_image_folder. location: where root was found, for
// files of labels beside it. Throws UserError naming the folder.
std::unique_ptr<Dataset> open_image_folder(const std::string& name, const std::string& root,
                                           const std::string& location, Split split, const ImageFileOptions& options);

// The images in a folder and those below, by folder and then by name; other files go to `unused`. Throws UserError
// naming a folder that cannot be read, or that is a link to one in which it lies.
std::vector<std::string> images_below(const std::string& folder, UnusedFiles& unused);

}  // namespace luq
