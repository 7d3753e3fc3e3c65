// OpenCV's readers of images, loaded when they are first wanted.
#pragma once

#include <span>

#include "src/data/opencv/opencv_images.h"

namespace luq {

// One reader; not thread-safe.
class OpenCvReader {
 public:
  OpenCvReader() = default;
  ~OpenCvReader();
  OpenCvReader(const OpenCvReader&) = delete;
  OpenCvReader& operator=(const OpenCvReader&) = delete;

  // The pixels stay until the next call. Throws UserError when luq_opencv.so cannot be loaded, std::bad_alloc, and
  // Error `[image] broken <format>: ...`.
  LuqOpenCvPixels decode(std::span<const uint8_t> file, const char* format);

 private:
  void* reader_ = nullptr;
};

}  // namespace luq
