// Batches of augmented images, prepared ahead by threads of their own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "luq/core/tensor.h"
#include "luq/data/dataset.h"
#include "luq/data/image_batch.h"
#include "luq/data/transform.h"

namespace luq {

// What becomes of an image file that cannot be read or decoded.
enum class BrokenImages {
  error,       // next() throws, naming it
  skip,        // its batch has an image less
  substitute,  // another image stands in, drawn by (seed, epoch, index of the broken one)
};
// Throws UserError for another word.
BrokenImages parse_broken_images(const std::string& word);

struct LoaderOptions {
  int64_t batch_size = 128;
  bool shuffle = false;    // a permutation keyed by (seed, epoch)
  bool augment = false;    // Transform::training instead of Transform::evaluation
  bool drop_last = false;  // leave out an incomplete last batch
  int64_t max_images = 0;  // 0: all; so many, evenly spread over the set
  int64_t workers = 1;
  int64_t prefetch = 4;
  uint64_t seed = 0;
  BrokenImages broken_images = BrokenImages::error;
  Device device = {};  // batches lie in memory that uploads to it may come from
};

struct BrokenImage {
  std::string name, reason;
};

struct Batch {
  ImageBatch images;
  Tensor labels;  // (N) int32
  // Mixed images (mixup, cutmix): the label of the other image, and the part of the first one. Else not defined.
  Tensor other_labels = {};              // (N) int32
  Tensor label_weight = {};              // (N) float32
  std::vector<BrokenImage> broken = {};  // that were left out or replaced
  int64_t size() const { return labels.numel(); }
  // `count` images from `first`, with copies of the labels; shares the pixels.
  Batch part(int64_t first, int64_t count) const;
};

// The batches of an epoch, in an order and with contents that depend on (seed, epoch) alone, not on workers.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, const TransformOptions& transform, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t batches_per_epoch() const;
  // Begins an epoch at batch `first_batch` (resuming in mid-epoch); what was being prepared is dropped.
  void start(int64_t epoch, int64_t first_batch = 0);
  // The next batch; false at the end of the epoch. Rethrows an error of a worker: Error naming a broken image where
  // that is the policy, or when a hundred substitutes for it are broken too. With BrokenImages::skip a batch may be
  // empty.
  bool next(Batch& batch);
  // The next batch where that takes no waiting; false where it is not ready, or an error, which next() then throws, and
  // at the end of the epoch.
  bool next_if_ready(Batch& batch);
  // Seconds spent waiting in next() since the last call of this function.
  double take_wait_seconds();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace luq
