// The checksum that our own files carry in their metadata.
#pragma once

#include <string>

#include "luq/core/safetensors.h"

namespace luq {

// Sets the metadata `crc32`: over names, shapes, values and the other metadata, so that any damage that leaves the file
// readable is noticed. Nothing else may change afterwards.
void add_checksum(SafeTensors& content);

// load_safetensors of a file whose checksum, where it carries one, must fit. Throws UserError naming the file. Every
// reader of a user's safetensors file goes through it.
SafeTensors load_checked(const std::string& file);

}  // namespace luq
