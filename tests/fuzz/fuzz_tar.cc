// Tar shards and the indexes beside them: what is found must lie in the shard.
#include <zlib.h>

#include "luq/core/error.h"
#include "src/data/tar_shard.h"

namespace {

void check(const luq::ShardIndex& index, uint64_t bytes) {
  for (const luq::ShardImage& image : index.images) {
    if (image.offset > bytes || image.size > bytes - image.offset || image.label < 0) __builtin_trap();
  }
}

// The body of an index behind the checksum that fits it, so that what is behind the look at the checksum is reached.
std::string sealed(const std::string& body) {
  const uLong checksum = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return "{\"checksum\":" + std::to_string(checksum) + "," + body.substr(1) + "\n";
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') {
    const std::string body(reinterpret_cast<const char*>(data), size);
    luq::ShardIndex index, again;
    if (luq::parse_shard_index(body, index)) check(index, index.shard_bytes);
    if (!luq::parse_shard_index(sealed(body), index)) return 0;
    check(index, index.shard_bytes);
    if (!luq::parse_shard_index(luq::to_json(index), again) || again.images.size() != index.images.size())
      __builtin_trap();
    return 0;
  }
  try {
    const luq::ShardIndex index = luq::scan_shard(std::span(data, size), "shard");
    check(index, size);
    luq::ShardIndex kept;
    if (!luq::parse_shard_index(luq::to_json(index), kept)) __builtin_trap();
  } catch (const luq::UserError&) {
  }
  return 0;
}
