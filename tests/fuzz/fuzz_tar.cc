// Tar shards and the indexes beside them: what is found must lie in the shard.
#include "luq/core/error.h"
#include "src/data/tar_shard.h"

namespace {

void check(const luq::ShardIndex& index, uint64_t bytes) {
  for (const luq::ShardImage& image : index.images) {
    if (image.offset > bytes || image.size > bytes - image.offset || image.label < 0) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') {
    luq::ShardIndex index, again;
    if (!luq::parse_shard_index({reinterpret_cast<const char*>(data), size}, index)) return 0;
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
