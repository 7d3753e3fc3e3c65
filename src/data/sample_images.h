// A few made-up JPEG files in folders of classes, to try everything where the data set is not there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace luq {

// Makes `folder` with train/<class>/ and val/<class>/ for classes n00000000, n00000001 ...: one training image and one
// test image of each, links to eight files of different sizes, colours and kinds (baseline, progressive, grey). Throws
// Error naming the file that cannot be written.
void write_sample_images(const std::string& folder, int64_t classes);

// pixels: (height, width, channels) with 1 or 3 channels. A JPEG file.
std::vector<uint8_t> encode_jpeg(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels, int quality,
                                 bool progressive);

}  // namespace luq
