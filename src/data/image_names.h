// Which files are taken for images, by their names, and what is said of the others.
#pragma once

#include <string>
#include <string_view>

#include "luq/data/dataset.h"

namespace luq {

// The name ends as an image's does, in capitals or not: .jpg .jpeg .jpe .jfif .png .bmp .dib .gif .tif .tiff .webp .pbm
// .pgm .ppm .pnm. What the file holds is told by its first bytes.
bool has_image_extension(std::string_view name);
// "(.jpg, .png, .bmp, .gif, .tif, .webp, .ppm ...)": for messages.
extern const char* const image_extensions;

// The last component of a path begins with "._": what macOS keeps beside a file where its disk or tar cannot.
bool is_apple_double(std::string_view path);
// A folder that a system or a program made for itself: __MACOSX, @eaDir, .ipynb_checkpoints, ...
bool is_system_folder(std::string_view name);

// The end of a name in small letters, from its last dot; "._*" for is_apple_double, a name that begins with its only
// dot as it is, "without extension".
std::string kind_of_file(std::string_view path);

}  // namespace luq
