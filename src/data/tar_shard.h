// A tar shard of WebDataset: files that belong together follow one another and share their path up to the first dot of
// the file name; .jpg, .png or another extension of images holds an image, .cls (a number) or .json its label. And the
// index of a shard, with which an image is read without reading what lies before it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "luq/data/dataset.h"

namespace luq {

// A data set has this many classes at most, as data.num_classes: each has a row of weights in the model's head.
constexpr int32_t max_classes = 1000000;

struct ShardImage {
  std::string name;     // of its entry in the shard
  uint64_t offset = 0;  // of the image's first byte in the shard
  uint64_t size = 0;
  int32_t label = 0;  // in 0..max_classes - 1
};

struct ShardIndex {
  uint64_t shard_bytes = 0;
  uint32_t shard_checksum =
      0;  // CRC-32 of sixteen blocks of 4 KiB that are spread over the shard, first and last included
  std::vector<ShardImage> images;
  UnusedFiles unused;  // entries that are passed over, by their names in the shard
  std::string note;    // what load_shard_index found wrong with the index's file, or ""
};

// By one pass over the shard; `shard` is what messages call it. Throws UserError naming shard and entry: truncated,
// damaged, compressed, an image without label or a label without image, a label that is no number or no class
// (ShardImage), two of either, no image at all.
ShardIndex scan_shard(const std::string& shard);
ShardIndex scan_shard(std::span<const uint8_t> bytes, const std::string& shard);

// The label in a .cls file (digits, white space around them, a byte order mark before them) or a .json file (an object
// with "label", or else "cls", neither of them twice); nothing where there is none in 0..2^31-1.
std::optional<int32_t> parse_cls_label(const std::string& text);
std::optional<int32_t> parse_json_label(const std::string& text);

// <shard>.index.json where it is sound (its own checksum) and fits the shard (size and checksum), or else scan_shard,
// whose result is kept there when the folder is writable. Throws as scan_shard.
ShardIndex load_shard_index(const std::string& shard);
std::string shard_index_file(const std::string& shard);
std::string to_json(const ShardIndex& index);
// False when text is no index, does not fit the checksum at its beginning (CRC-32 of the rest), or holds an image that
// does not lie in the shard.
bool parse_shard_index(const std::string& text, ShardIndex& index);
// Of the first version, which had no checksum.
bool is_old_shard_index(const std::string& text);

}  // namespace luq
