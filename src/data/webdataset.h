// WebDataset: images and labels in tar shards.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "luq/data/dataset.h"

namespace luq {

// The paths that a pattern stands for, in its order: "a,b" is a and b, "s-{000..146}.tar" counts (to the width of the
// longer bound, upwards or downwards), "{x,y}" lists; several braces multiply, braces in braces are taken apart. Throws
// UserError for braces that are not closed, an empty name, and more than a million paths.
std::vector<std::string> expand_braces(const std::string& pattern);

// Whether `location` holds shards by their usual names, train-*.tar or val-*.tar.
bool holds_shards(const std::string& location);
// It has .tar files of any name.
bool holds_tar_files(const std::string& location);

// location: "" where the patterns are whole paths.
std::unique_ptr<Dataset> open_webdataset(const std::string& location, Split split, const ImageFileOptions& options);

}  // namespace luq
