// Folders of classes to WebDataset's tar shards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace luq {

struct PackOptions {
  std::string input = "";  // folder of an image_folder data set: train/<class>/..., val/<class>/... or test/<class>/...
  std::string output = "";               // folder to make; must not exist
  std::string val_labels = "";           // as ImageFileOptions::val_labels
  int64_t shard_size = 1000;             // images
  std::optional<uint64_t> shuffle = {};  // seed of the order of the training images; none: class after class
  int64_t workers = 4;                   // threads, each of which writes a shard
};

struct PackReport {
  int64_t train_images = 0, val_images = 0, train_shards = 0, val_shards = 0;
  uint64_t bytes = 0;                 // of all shards
  std::vector<std::string> warnings;  // as warnings_of
};

// Writes train-NNNNNN.tar and val-NNNNNN.tar, in which an image has the number of its place in the split (NNNNNNNN.jpg
// or the extension of what the file holds, with .cls), an index beside each, and classes.txt. The bytes depend on the
// images, their order and the options alone. Everything is written to `output`.partial and renamed in the end, so that
// `output` is whole when it is there; when something goes wrong, or a signal asks to stop, that folder is removed.
// Images are copied, not decoded. Throws UserError for what the input or the options get wrong, Error naming the file
// that cannot be read or written, and Stopped (luq/core/stop_signals.h).
PackReport pack_shards(const PackOptions& options);

}  // namespace luq
