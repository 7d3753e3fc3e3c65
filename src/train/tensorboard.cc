#include "src/train/tensorboard.h"

#include <fmt/format.h>

#include <array>
#include <boost/crc.hpp>
#include <filesystem>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "src/core/folder_entries.h"
#include "src/train/tensorboard_event.pb.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr const char* prefix = "events.out.tfevents.";

template <typename Number>
std::string little_endian(Number number) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(Number); ++i) bytes.push_back(static_cast<char>(number >> (8 * i) & 0xff));
  return bytes;
}

std::string to_record(const tensorboard::Event& event) { return tf_record(event.SerializeAsString()); }

std::string to_record(const Metrics& metrics) {
  tensorboard::Event event;
  event.set_wall_time(metrics.time);
  event.set_step(metrics.step);
  const auto add = [&event](const std::string& tag, const std::optional<double>& value) {
    if (!value) return;
    tensorboard::Summary::Value& scalar = *event.mutable_summary()->add_value();
    scalar.set_tag(tag);
    scalar.set_simple_value(static_cast<float>(*value));
  };
  const std::string kind = metrics.kind;
  add(kind + "/loss", metrics.loss);
  add(kind + "/top1", metrics.top1);
  add(kind + "/top5", metrics.top5);
  add(kind + "/broken_images", metrics.broken_images);
  if (kind == "train") {
    add("train/lr", metrics.lr);
    add("train/gradient_norm", metrics.gradient_norm);
    add("train/images_per_second", metrics.images_per_second);
  }
  add("ema/loss", metrics.ema_loss);
  add("ema/top1", metrics.ema_top1);
  add("ema/top5", metrics.ema_top5);
  return to_record(event);
}

// TensorBoard drops what it has of this run at START's step and after it.
std::string header(double time) {
  tensorboard::Event version, start;
  version.set_wall_time(time);
  version.set_file_version("brain.Event:2");
  start.set_wall_time(time);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  return to_record(version) + to_record(start);
}

std::vector<fs::path> event_files(const std::string& folder) {
  std::vector<fs::path> files;
  const std::error_code error = for_folder_entries(folder, [&](const fs::directory_entry& entry) {
    if (is_tensorboard_file(entry.path().filename().string())) files.push_back(entry.path());
    return true;
  });
  if (error && error != std::errc::no_such_file_or_directory) {
    fail("[train] {}: cannot be read: {}", folder, error.message());
  }
  return files;
}

}  // namespace

bool is_tensorboard_file(const std::string& name) { return name.starts_with(prefix); }

uint32_t masked_crc32c(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;
  crc.process_bytes(bytes.data(), bytes.size());
  const uint32_t sum = crc.checksum();
  return ((sum >> 15) | (sum << 17)) + 0xa282ead8u;
}

std::string tf_record(std::string_view message) {
  const std::string length = little_endian(static_cast<uint64_t>(message.size()));
  return length + little_endian(masked_crc32c(length)) + std::string(message) + little_endian(masked_crc32c(message));
}

TensorBoardFile::TensorBoardFile(const std::string& folder, double time, const std::vector<Metrics>& so_far) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("[train] {}: cannot be made: {}", folder, error.message());
  const std::string file = fmt::format("{}/{}{}.luqtrain", folder, prefix, static_cast<int64_t>(time));
  std::string content = header(so_far.empty() ? time : so_far.front().time);
  for (const Metrics& metrics : so_far) content += to_record(metrics);
  write_text_file(file, content);
  for (const fs::path& other : event_files(folder)) {
    if (other != file) fs::remove(other);
  }
  file_.emplace(file, false);
}

bool TensorBoardFile::append(const Metrics& metrics) { return file_->append_bytes(to_record(metrics)); }

void remove_tensorboard(const std::string& folder) {
  for (const fs::path& file : event_files(folder)) fs::remove(file);
  std::error_code error;
  fs::remove(folder, error);
}

}  // namespace luq
