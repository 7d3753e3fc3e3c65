// libjpeg-turbo reports errors by a function that may not return. Here that is a longjmp back into attempt(), past
// frames of libjpeg and of the step alone, and a step holds nothing that has a destructor.
//
// A part is decoded exactly: columns are cropped at blocks that lie one chroma sample further out than the region, as
// the interpolation of chroma looks at its neighbours; rows above are skipped, which still reads their codes but
// neither transforms nor converts them; rows below are not read at all.
#include <cstdio>  // jpeglib.h wants FILE

#include <jpeglib.h>

#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include "luq/core/error.h"
#include "src/core/no_memory.h"
#include "src/data/image_formats.h"

namespace luq {
namespace {

constexpr int kMaxScans = 500;  // a progressive file of many scans takes minutes

// The end marker behind `from`. Without it a file is truncated, whatever part of it is wanted.
bool has_end(std::span<const uint8_t> file, size_t from) {
  for (size_t i = file.size(); i >= from + 2; --i) {
    if (file[i - 1] == JPEG_EOI && file[i - 2] == 0xff) return true;
  }
  return false;
}

}  // namespace

struct JpegDecoder::State {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  std::vector<uint8_t> line;
  std::span<const uint8_t> file;

  [[noreturn]] static void on_error(j_common_ptr info) {
    State& state = *static_cast<State*>(info->client_data);
    info->err->format_message(info, state.message);
    std::longjmp(state.jump, 1);
  }
  // Data that end early are an error; other warnings are not, as in PIL.
  static void on_message(j_common_ptr info, int level) {
    const int code = info->err->msg_code;
    if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)) on_error(info);
  }
  static void on_progress(j_common_ptr info) {
    State& state = *static_cast<State*>(info->client_data);
    if (state.info.input_scan_number <= kMaxScans) return;
    std::snprintf(state.message, sizeof state.message, "more than %d scans", kMaxScans);
    std::longjmp(state.jump, 1);
  }

  template <typename Step>
  bool attempt(Step step) {
    if (setjmp(jump) != 0) return false;
    step();
    return true;
  }
  template <typename Step>
  void run(Step step) {
    if (attempt(step)) return;
    const bool no_memory = errors.msg_code == JERR_OUT_OF_MEMORY;
    jpeg_abort_decompress(&info);
    if (no_memory) fail_out_of_memory("[image] a JPEG is decoded:");
    fail("[image] broken JPEG: {}", static_cast<const char*>(message));
  }
};

JpegDecoder::JpegDecoder() : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.info.err = jpeg_std_error(&state.errors);
  state.errors.error_exit = State::on_error;
  state.errors.emit_message = State::on_message;
  state.progress.progress_monitor = State::on_progress;
  state.info.client_data = &state;
  if (!state.attempt([&state] { jpeg_create_decompress(&state.info); })) {
    if (state.errors.msg_code == JERR_OUT_OF_MEMORY) fail_out_of_memory("[image] a decoder of JPEG is made:");
    fail("[image] libjpeg-turbo: {}", static_cast<const char*>(state.message));
  }
  state.info.client_data = &state;
}

JpegDecoder::~JpegDecoder() { jpeg_destroy_decompress(&state_->info); }

ImageHeader JpegDecoder::open(std::span<const uint8_t> file, bool with_exif) {
  State& state = *state_;
  jpeg_decompress_struct& info = state.info;
  state.file = file;
  jpeg_abort_decompress(&info);
  state.run([&] {
    info.progress = &state.progress;
    jpeg_mem_src(&info, file.data(), file.size());
    jpeg_save_markers(&info, JPEG_APP0 + 1, with_exif ? 0xffff : 0);
    jpeg_read_header(&info, TRUE);
  });
  if (!has_end(file, file.size() - info.src->bytes_in_buffer)) fail("[image] truncated JPEG: no end marker");
  ImageHeader header{.height = info.image_height, .width = info.image_width, .exif = {}};
  for (jpeg_saved_marker_ptr marker = info.marker_list; marker != nullptr; marker = marker->next) {
    if (header.exif.empty() && marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
      header.exif.assign(marker->data, marker->data + marker->data_length);
    }
  }
  return header;
}

void JpegDecoder::decode(const Region& region, int64_t reduction, Image& image) {
  State& state = *state_;
  jpeg_decompress_struct& info = state.info;
  const bool cmyk = info.num_components == 4;
  state.run([&] {
    info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    info.scale_num = 1;
    info.scale_denom = static_cast<unsigned>(reduction);
    jpeg_start_decompress(&info);
  });
  // The region in pixels of the reduced image.
  const int64_t full_height = info.output_height, full_width = info.output_width;
  const auto reduce = [reduction](int64_t position, int64_t limit) {
    return std::min((position + reduction / 2) / reduction, limit);
  };
  const int64_t top = std::min(reduce(region.top, full_height), full_height - 1);
  const int64_t left = std::min(reduce(region.left, full_width), full_width - 1);
  const int64_t bottom = std::max(reduce(region.top + region.height, full_height), top + 1);
  const int64_t right = std::max(reduce(region.left + region.width, full_width), left + 1);

  const int64_t margin = 2 * info.max_h_samp_factor;
  JDIMENSION first_column = static_cast<JDIMENSION>(std::max<int64_t>(0, left - margin));
  JDIMENSION columns = static_cast<JDIMENSION>(std::min(full_width, right + margin)) - first_column;
  const bool crop = columns < info.output_width;
  if (crop) state.run([&] { jpeg_crop_scanline(&info, &first_column, &columns); });

  image.resize(bottom - top, columns);
  image.width = right - left;
  image.first = (left - first_column) * 3;
  if (cmyk) state.line.resize(static_cast<size_t>(columns) * 4);
  state.run([&] {
    if (top > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(top));
    for (int64_t y = 0; y < image.height; ++y) {
      uint8_t* row = image.storage.data() + y * image.row_bytes;
      JSAMPROW target = cmyk ? state.line.data() : row;
      jpeg_read_scanlines(&info, &target, 1);
      if (!cmyk) continue;
      for (JDIMENSION x = 0; x < columns; ++x) {
        const uint8_t* ink = target + 4 * x;  // stored as 255 - ink
        for (int c = 0; c < 3; ++c) row[3 * x + c] = from_cmyk(255u - ink[c], ink[3]);
      }
    }
  });
  jpeg_abort_decompress(&info);
}

std::string libjpeg_version() {
  jpeg_error_mgr errors;
  jpeg_std_error(&errors);
  const int version = LIBJPEG_TURBO_VERSION_NUMBER;  // 2001005 for 2.1.5
  return fmt::format("libjpeg-turbo {}.{}.{}", version / 1000000, version / 1000 % 1000, version % 1000);
}

}  // namespace luq
