// A loader's batches on the device, one ahead: the next one is copied there while the network works on the one before.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "luq/data/loader.h"

namespace luq {

// Like the Loader that it holds. Images come on options.device, labels on the CPU. On the CPU it does nothing more.
class BatchFeeder {
 public:
  BatchFeeder(std::shared_ptr<const Dataset> dataset, const TransformOptions& transform, const LoaderOptions& options);
  ~BatchFeeder();
  BatchFeeder(const BatchFeeder&) = delete;
  BatchFeeder& operator=(const BatchFeeder&) = delete;

  int64_t batches_per_epoch() const { return loader_.batches_per_epoch(); }
  void start(int64_t epoch, int64_t first_batch = 0);
  // Kernels called from here on find the batch there. Where the batch after it is ready, its copy begins.
  bool next(Batch& batch);
  // Seconds spent in next() waiting for the loader and for copies, since the last call of this function.
  double take_wait_seconds();

 private:
  void upload(Batch&& batch);
  void finish_uploads();

  Loader loader_;
  Device device_;
  const DeviceMemory* memory_;      // null for the CPU
  std::optional<Batch> ahead_;      // its copy was started
  std::vector<ImageBatch> copied_;  // what copies that were started may still read
  double wait_seconds_ = 0;
};

}  // namespace luq
