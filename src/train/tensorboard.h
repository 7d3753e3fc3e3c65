// TensorBoard's view of a run: <run>/tensorboard/events.out.tfevents.*, beside metrics.jsonl.
//
// The folder holds one event file, whose content is a function of metrics.jsonl: opening it writes what metrics.jsonl
// holds at that moment into a new file and removes older ones, so a run that went on from a checkpoint has no step
// twice. A TensorBoard that is looking on drops what it read from the older file.
//
// The file is a sequence of TFRecord frames: length (uint64, little endian), masked CRC-32C of the length, the bytes of
// an Event message, masked CRC-32C of these bytes. Masked: rotated right by 15 bits, plus 0xa282ead8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/train/line_file.h"
#include "src/train/metrics.h"

namespace luq {

class TensorBoardFile {
 public:
  // folder: made when missing. time: seconds since 1970, in the file's name, at which TensorBoard sorts. Throws Error
  // naming the file when it cannot be written.
  TensorBoardFile(const std::string& folder, double time, const std::vector<Metrics>& so_far);

  // The scalars of a line, as far as they are there: train/ loss, top1, lr, gradient_norm, images_per_second; eval/
  // loss, top1, top5; ema/ loss, top1, top5. False when the system refuses.
  bool append(const Metrics& metrics);

 private:
  std::optional<LineFile> file_;
};

// Whether a name in the folder is one of the program's.
bool is_tensorboard_file(const std::string& name);

// Removes the event files of a run's folder, and the folder when it is then empty.
void remove_tensorboard(const std::string& folder);

// CRC-32C (Castagnoli), masked, as frames store it.
uint32_t masked_crc32c(std::string_view bytes);
// One frame around the bytes of a message.
std::string tf_record(std::string_view message);

}  // namespace luq
