// What lies in a data set's own folder, looks as if it belonged to the data set, and is not read.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "luq/data/dataset.h"

namespace luq {

// The split to which an entry of the folder seems to belong: the test split for names such as val_2.tar, test or valid.
// Where the split is not there it is the other one, so that every entry is named once when all splits are opened.
using SplitOf = std::function<Split(const std::string& name)>;
SplitOf split_by_name(bool has_train, bool has_test);

// Adds what is of `split`, by split_of, and not in `used` (names in `location`): files that are tar shards by their
// names, compressed or half copied ones too, folders that hold such files, and images. Indexes, checksums and the like
// beside a shard belong to it. Nothing is added where the folder cannot be read.
void add_unused_shards(const std::string& location, Split split, const SplitOf& split_of,
                       const std::vector<std::string>& used, UnusedFiles& unused);

// The same for a folder of folders of images: `used` are the splits' folders. Adds images, and folders in which there
// are images, or in whose folders there are.
void add_unused_images(const std::string& root, Split split, const SplitOf& split_of,
                       const std::vector<std::string>& used, UnusedFiles& unused);

}  // namespace luq
