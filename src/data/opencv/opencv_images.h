// What luq_opencv.so exports: OpenCV's readers of images, behind an interface of C. The library is loaded when the
// first file comes that it must read (src/data/opencv_library.h): OpenCV's imgcodecs brings more than a hundred shared
// libraries, which take a tenth of a second to load.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct LuqOpenCvPixels {
  const uint8_t* first;  // rows row_bytes apart; grey, BGR or BGRA, of 8 or 16 bits each
  size_t row_bytes;
  int64_t height, width;
  int channels, bits;
};

enum LuqOpenCvResult { luq_opencv_done = 0, luq_opencv_refused = 1, luq_opencv_no_memory = 2 };

// Each thread has a reader of its own. The pixels stay until the next call. `message` gets OpenCV's reason.
void* luq_opencv_new();
void luq_opencv_delete(void* reader);
int luq_opencv_decode(void* reader, const uint8_t* file, size_t bytes, LuqOpenCvPixels* pixels, char* message,
                      size_t message_bytes);
}
