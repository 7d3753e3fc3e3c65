#include "src/train/batch_feeder.h"

#include <chrono>
#include <utility>

namespace luq {

BatchFeeder::BatchFeeder(std::shared_ptr<const Dataset> dataset, const TransformOptions& transform,
                         const LoaderOptions& options)
    : loader_(std::move(dataset), transform, options),
      device_(options.device),
      memory_(device_memory(options.device)) {}

BatchFeeder::~BatchFeeder() {
  try {
    finish_uploads();
  } catch (...) {  // a broken device, which whatever is called next will tell
  }
}

void BatchFeeder::start(int64_t epoch, int64_t first_batch) {
  finish_uploads();
  ahead_.reset();
  loader_.start(epoch, first_batch);
}

bool BatchFeeder::next(Batch& batch) {
  if (memory_ == nullptr) return loader_.next(batch);
  finish_uploads();
  if (!ahead_) {
    Batch late;
    if (!loader_.next(late)) return false;
    upload(std::move(late));
    memory_->join_uploads();
  }
  batch = std::move(*ahead_);
  ahead_.reset();
  if (Batch ready; loader_.next_if_ready(ready)) upload(std::move(ready));
  return true;
}

double BatchFeeder::take_wait_seconds() { return loader_.take_wait_seconds() + std::exchange(wait_seconds_, 0.0); }

// To ahead_.
void BatchFeeder::upload(Batch&& batch) {
  const ImageBatch& from = batch.images;
  ImageBatch there = from;
  there.pixels = Tensor::empty(from.pixels.shape(), from.pixels.dtype(), device_);
  there.edits = Tensor::empty(from.edits.shape(), from.edits.dtype(), device_);
  copied_.push_back(from);
  memory_->start_upload(there.pixels.raw(), from.pixels.raw(), from.pixels.bytes());
  memory_->start_upload(there.edits.raw(), from.edits.raw(), from.edits.bytes());
  batch.images = std::move(there);
  ahead_ = std::move(batch);
}

// Copies that were started during the last step have long been made.
void BatchFeeder::finish_uploads() {
  if (copied_.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  memory_->wait_for_uploads();
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  copied_.clear();
}

}  // namespace luq
