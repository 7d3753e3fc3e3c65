// What a data set's images are, as it stands in checkpoints, so that a model can be used without its data set.
#pragma once

#include <string>

#include "luq/data/dataset.h"

namespace luq {

// Everything but the number of images, which differs between the splits.
std::string to_json(const DatasetInfo& info);
// Throws UserError naming the source.
DatasetInfo parse_dataset_info(const std::string& json, const std::string& source);

// "class 2 was 'cat' and is 'dog'" for the first class of another name; "" when all agree or names are not known.
std::string differing_classes(const DatasetInfo& before, const DatasetInfo& now);

}  // namespace luq
