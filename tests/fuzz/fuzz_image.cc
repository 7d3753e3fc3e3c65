// Decoding of image files of every format: headers, parts, reductions and orientations. The last bytes choose what is
// decoded.
#include <algorithm>

#include "luq/core/error.h"
#include "luq/data/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static luq::ImageDecoder plain({.exif_rotate = false, .max_pixels = 1 << 16});
  static luq::ImageDecoder turned({.exif_rotate = true, .max_pixels = 1 << 16});
  static luq::Image image;
  const uint8_t choice = size > 0 ? data[size - 1] : 0;
  luq::ImageDecoder& decoder = (choice & 1) != 0 ? turned : plain;
  try {
    decoder.open({data, size});
    const int64_t height = decoder.height(), width = decoder.width();
    if ((choice & 2) == 0) {
      decoder.decode(image);
    } else {
      const int64_t top = (choice >> 4) * height / 16, left = (choice >> 3) % 16 * width / 16;
      const luq::Region region{top, left, std::max<int64_t>(1, (height - top) / 2),
                               std::max<int64_t>(1, (width - left) / 2)};
      decoder.decode(region, image, int64_t{1} << ((choice >> 2) % 4));
    }
    if (image.height < 1 || image.width < 1 || image.height * image.width > 1 << 16) __builtin_trap();
    volatile uint8_t last = image.pixels()[(image.height - 1) * image.row_bytes + 3 * image.width - 1];
    static_cast<void>(last);
  } catch (const luq::Error&) {
  }
  return 0;
}
