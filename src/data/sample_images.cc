#include "src/data/sample_images.h"

#include <cstdio>  // jpeglib.h wants FILE

#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>
#include <filesystem>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/rng.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

struct Kind {
  int64_t height, width, channels;
  bool progressive;
};
constexpr Kind kKinds[] = {{375, 500, 3, false}, {500, 375, 3, false}, {333, 500, 3, true},  {480, 640, 3, false},
                           {256, 341, 1, false}, {400, 400, 3, true},  {301, 227, 3, false}, {768, 1024, 3, false}};

// Libjpeg's errors jump back past its own frames alone: nothing between has a destructor.
struct ErrorHandler {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];

  [[noreturn]] static void on_error(j_common_ptr info) {
    ErrorHandler& handler = *static_cast<ErrorHandler*>(info->client_data);
    info->err->format_message(info, handler.message);
    std::longjmp(handler.jump, 1);
  }
};

// False when libjpeg gave up; what is in `bytes` and `size` is then for free() all the same.
bool compress(const uint8_t* pixels, const Kind& kind, int quality, ErrorHandler& handler, unsigned char** bytes,
              unsigned long* size) {
  jpeg_compress_struct info{};
  info.err = jpeg_std_error(&handler.manager);
  handler.manager.error_exit = ErrorHandler::on_error;
  info.client_data = &handler;
  if (setjmp(handler.jump) != 0) {
    jpeg_destroy_compress(&info);
    return false;
  }
  jpeg_create_compress(&info);
  jpeg_mem_dest(&info, bytes, size);
  info.image_width = static_cast<JDIMENSION>(kind.width);
  info.image_height = static_cast<JDIMENSION>(kind.height);
  info.input_components = static_cast<int>(kind.channels);
  info.in_color_space = kind.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, quality, TRUE);
  if (kind.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPROW>(pixels + static_cast<int64_t>(info.next_scanline) * kind.width * kind.channels);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  return true;
}

// Slopes of colour with a little noise.
std::vector<uint8_t> draw(const Kind& kind, uint64_t number) {
  std::vector<uint8_t> pixels(static_cast<size_t>(kind.height * kind.width * kind.channels));
  RngStream random(make_rng_key(number, "data:sample_images"));
  int64_t at[3], down[3], across[3];
  for (int c = 0; c < 3; ++c) {
    at[c] = random.below(128);
    down[c] = random.below(256);
    across[c] = random.below(256);
  }
  size_t i = 0;
  for (int64_t y = 0; y < kind.height; ++y) {
    for (int64_t x = 0; x < kind.width; ++x) {
      const uint32_t noise = random.below(32);
      for (int64_t c = 0; c < kind.channels; ++c) {
        pixels[i++] = static_cast<uint8_t>(at[c] + down[c] * y / kind.height + across[c] * x / kind.width + noise);
      }
    }
  }
  return pixels;
}

}  // namespace

std::vector<uint8_t> encode_jpeg(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels, int quality,
                                 bool progressive) {
  ErrorHandler handler;
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  const bool done = compress(pixels, {height, width, channels, progressive}, quality, handler, &bytes, &size);
  std::vector<uint8_t> file;
  if (done) file.assign(bytes, bytes + size);
  std::free(bytes);
  if (!done) fail("[data] a JPEG file cannot be made: {}", handler.message);
  return file;
}

void write_sample_images(const std::string& folder, int64_t classes) {
  const fs::path root = fs::absolute(folder);
  std::error_code error;
  const auto check = [&error](const fs::path& path) {
    if (error) fail("[data] {}: cannot be written: {}", path.string(), error.message());
  };
  fs::create_directories(root / "images", error);
  check(root);
  std::vector<fs::path> files;
  for (const Kind& kind : kKinds) {
    const std::vector<uint8_t> pixels = draw(kind, files.size());
    const std::vector<uint8_t> bytes =
        encode_jpeg(pixels.data(), kind.height, kind.width, kind.channels, 90, kind.progressive);
    files.push_back(root / "images" / fmt::format("{}.JPEG", files.size()));
    write_output("data", files.back().string(), {bytes.begin(), bytes.end()});
  }
  for (const char* split : {"train", "val"}) {
    for (int64_t label = 0; label < classes; ++label) {
      const fs::path of_class = root / split / fmt::format("n{:08}", label);
      fs::create_directories(of_class, error);
      check(of_class);
      const fs::path& file = files[static_cast<size_t>(label) % files.size()];
      fs::create_symlink(file, of_class / fmt::format("{}_{}.JPEG", split, label), error);
      check(of_class);
    }
  }
}

}  // namespace luq
