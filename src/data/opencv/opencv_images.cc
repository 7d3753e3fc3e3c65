// OpenCV 4.6 writes what it thinks of a broken file to std::cerr, whatever its level of logging is: a buffer before
// that stream's own drops what a thread writes there while it decodes. The same release catches std::bad_alloc with all
// other exceptions and calls the file unreadable; who calls tells them apart by trying again.
#include "src/data/opencv/opencv_images.h"

#include <cstdio>
#include <iostream>
#include <new>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <streambuf>

namespace {

thread_local bool quiet = false;

class Filter : public std::streambuf {
 public:
  explicit Filter(std::streambuf* behind) : behind_(behind) {}

 protected:
  int_type overflow(int_type c) override {
    if (quiet || traits_type::eq_int_type(c, traits_type::eof())) return traits_type::not_eof(c);
    return behind_->sputc(traits_type::to_char_type(c));
  }
  std::streamsize xsputn(const char* text, std::streamsize count) override {
    return quiet ? count : behind_->sputn(text, count);
  }
  int sync() override { return quiet ? 0 : behind_->pubsync(); }

 private:
  std::streambuf* behind_;
};

void keep_quiet() {
  static const bool done = [] {
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    std::cerr.rdbuf(new Filter(std::cerr.rdbuf()));  // std::cerr is used until the process ends
    return true;
  }();
  static_cast<void>(done);
}

class Quiet {
 public:
  Quiet() { quiet = true; }
  ~Quiet() { quiet = false; }
};

struct Reader {
  cv::Mat pixels;
};

}  // namespace

extern "C" {

void* luq_opencv_new() {
  keep_quiet();
  return new (std::nothrow) Reader;
}

void luq_opencv_delete(void* reader) { delete static_cast<Reader*>(reader); }

int luq_opencv_decode(void* reader, const uint8_t* file, size_t bytes, LuqOpenCvPixels* pixels, char* message,
                      size_t message_bytes) {
  const Quiet quiet_while_decoding;
  cv::Mat& mat = static_cast<Reader*>(reader)->pixels;
  std::snprintf(message, message_bytes, "OpenCV cannot decode it");
  try {
    const cv::Mat encoded(1, static_cast<int>(bytes), CV_8UC1, const_cast<uint8_t*>(file));
    mat = cv::imdecode(encoded, cv::IMREAD_UNCHANGED);
  } catch (const cv::Exception& error) {
    std::snprintf(message, message_bytes, "OpenCV: %s", error.err.c_str());
    return error.code == cv::Error::StsNoMem ? luq_opencv_no_memory : luq_opencv_refused;
  } catch (const std::bad_alloc&) {
    return luq_opencv_no_memory;
  } catch (const std::exception& error) {
    std::snprintf(message, message_bytes, "OpenCV: %s", error.what());
    return luq_opencv_refused;
  } catch (...) {
    return luq_opencv_refused;
  }
  if (mat.empty() || (mat.depth() != CV_8U && mat.depth() != CV_16U)) return luq_opencv_refused;
  *pixels = {mat.data, mat.step[0], mat.rows, mat.cols, mat.channels(), mat.depth() == CV_8U ? 8 : 16};
  return luq_opencv_done;
}
}
