#include "src/data/opencv_library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "luq/core/error.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr const char* library_name = "luq_opencv.so";
constexpr size_t loading_bytes = size_t{64} << 20;  // more than loading takes

struct Library {
  decltype(&luq_opencv_new) create = nullptr;
  decltype(&luq_opencv_delete) remove = nullptr;
  decltype(&luq_opencv_decode) decode = nullptr;
  std::string problem;
};

// Beside the program, as a build leaves it; where an installation puts it, which may have been moved as a whole; and
// where it was to be installed.
std::vector<fs::path> places() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error).parent_path();
  return {program / library_name, program.parent_path() / LUQ_MODULE_SUBFOLDER / library_name,
          fs::path(LUQ_MODULE_FOLDER) / library_name};
}

// OpenCV does so when it decodes for the first time.
void register_formats(const Library& library) {
  constexpr uint8_t no_image[64] = {};
  LuqOpenCvPixels pixels{};
  char message[256];
  void* reader = library.create();
  if (reader == nullptr) return;
  library.decode(reader, no_image, sizeof no_image, &pixels, message, sizeof message);
  library.remove(reader);
}

// Libraries behind OpenCV call abort() when they are loaded or register their formats and get no memory.
void say_and_end(int) {
  constexpr char text[] = "luqtrain: error: [image] out of memory when OpenCV was loaded\n";
  if (::write(STDERR_FILENO, text, sizeof text - 1) < 0) ::_exit(1);
  ::_exit(1);
}

Library load() {
  // They are read when OpenCV is loaded: its limits are not this program's, and its log is switched off.
  for (const char* name :
       {"OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT", "OPENCV_LOG_LEVEL"}) {
    unsetenv(name);
  }
  Library library;
  for (const fs::path& place : places()) {
    std::error_code error;
    if (!fs::exists(place, error)) {
      library.problem += fmt::format("{}{} is not there", library.problem.empty() ? "" : ", ", place.string());
      continue;
    }
    void* volatile room = std::malloc(loading_bytes);
    if (room == nullptr) throw std::bad_alloc();
    std::free(room);
    struct sigaction saying {
    }, before{};
    saying.sa_handler = say_and_end;
    sigaction(SIGABRT, &saying, &before);
    void* handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      sigaction(SIGABRT, &before, nullptr);
      library.problem = dlerror();
      return library;
    }
    library.create = reinterpret_cast<decltype(library.create)>(dlsym(handle, "luq_opencv_new"));
    library.remove = reinterpret_cast<decltype(library.remove)>(dlsym(handle, "luq_opencv_delete"));
    library.decode = reinterpret_cast<decltype(library.decode)>(dlsym(handle, "luq_opencv_decode"));
    library.problem = library.create && library.remove && library.decode ? "" : place.string() + " is of another build";
    if (library.problem.empty()) register_formats(library);
    sigaction(SIGABRT, &before, nullptr);
    return library;
  }
  return library;
}

const Library& library() {
  static const Library loaded = load();
  if (!loaded.problem.empty()) {
    fail_user("[image] BMP, PNM and WebP files are read by OpenCV, by way of {}, which cannot be loaded: {}",
              library_name, loaded.problem);
  }
  return loaded;
}

}  // namespace

OpenCvReader::~OpenCvReader() {
  if (reader_ != nullptr) library().remove(reader_);
}

LuqOpenCvPixels OpenCvReader::decode(std::span<const uint8_t> file, const char* format) {
  const Library& opencv = library();
  if (reader_ == nullptr) reader_ = opencv.create();
  if (reader_ == nullptr) throw std::bad_alloc();
  LuqOpenCvPixels pixels{};
  char message[256];
  const int result = opencv.decode(reader_, file.data(), file.size(), &pixels, message, sizeof message);
  if (result == luq_opencv_no_memory) throw std::bad_alloc();
  if (result != luq_opencv_done) fail("[image] broken {}: {}", format, static_cast<const char*>(message));
  return pixels;
}

std::string opencv_version() { return std::string("OpenCV ") + LUQ_OPENCV_VERSION; }

}  // namespace luq
