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
  ImageBatch there = batch.images;
  for (Tensor ImageBatch::*const part : {&ImageBatch::pixels, &ImageBatch::edits}) {
    const Tensor& from = batch.images.*part;
    there.*part = Tensor::empty(from.shape(), from.dtype(), device_);
    memory_->start_upload((there.*part).raw(), from.raw(), from.bytes());
  }
  copied_.push_back(std::exchange(batch.images, std::move(there)));
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
