// Workers claim whole batches in order and put them into a ring of `prefetch` places; next() takes them out in order.
// Which worker prepares a batch, and when, changes nothing in it: the order of the images is a Fisher-Yates shuffle on
// the stream "data:shuffle" at step = epoch, and the augmentation of an image is keyed by (seed, epoch, index).
//
// start() swaps in a new epoch; a worker still busy with the old one sees the flag in it, or drops what it has done.
#include "luq/data/loader.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "src/core/no_memory.h"
#include "src/data/mix.h"
#include "src/data/random.h"

namespace luq {
namespace {

struct Epoch {
  int64_t number = 0;
  std::vector<uint32_t> order;  // of the images; empty: as they come
  std::atomic<bool> cancelled = false;
};

constexpr int max_substitutes = 100;

struct Place {
  bool ready = false;
  Batch batch;
  std::exception_ptr error;
};

std::vector<uint32_t> shuffled(int64_t images, uint64_t seed, int64_t epoch) {
  std::vector<uint32_t> order(static_cast<size_t>(images));
  std::iota(order.begin(), order.end(), 0u);
  RngStream random(make_rng_key(seed, "data:shuffle", static_cast<uint64_t>(epoch)));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
  return order;
}

int64_t count_images(const DatasetInfo& info, const LoaderOptions& options) {
  if (options.batch_size < 1) fail_user("[loader] batch_size: expected 1 or more, got {}", options.batch_size);
  if (options.workers < 1 || options.workers > 256) {
    fail_user("[loader] workers: expected 1..256, got {}", options.workers);
  }
  if (options.prefetch < 1) fail_user("[loader] prefetch: expected 1 or more, got {}", options.prefetch);
  if (options.max_images < 0) fail_user("[loader] max_images: expected 0 (all) or more, got {}", options.max_images);
  if (info.images < 1) fail_user("[loader] expected images in {}, got an empty set", info.name);
  const int64_t images = options.max_images > 0 ? std::min(info.images, options.max_images) : info.images;
  if (images > int64_t{UINT32_MAX}) fail_user("[loader] expected fewer than 2^32 images, got {}", images);
  if (options.drop_last && options.batch_size > images) {
    fail_user(
        "[loader] batch_size: expected at most the {} images of {}, got {}; lower it, or keep the incomplete batch",
        images, info.name, options.batch_size);
  }
  return images;
}

// A copy of `count` values from `first`.
Tensor rows_of(const Tensor& values, int64_t first, int64_t count) {
  Tensor rows = Tensor::empty({count}, values.dtype());
  const char* from = static_cast<const char*>(values.raw()) + first * size_of(values.dtype());
  std::memcpy(rows.raw(), from, static_cast<size_t>(rows.bytes()));
  return rows;
}

}  // namespace

BrokenImages parse_broken_images(const std::string& word) {
  if (word == "error") return BrokenImages::error;
  if (word == "skip") return BrokenImages::skip;
  if (word == "substitute") return BrokenImages::substitute;
  fail_user("[loader] broken_images: expected error, skip or substitute, got '{}'", word);
}

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> dataset_, const TransformOptions& transform_options_,
       const LoaderOptions& options_)
      : dataset(std::move(dataset_)),
        options(options_),
        images(count_images(dataset->info(), options)),
        transform_options(transform_options_),
        transform(dataset->info(), transform_options),
        image_size(transform.height() * transform.width() * transform.channels()) {
    options.batch_size = std::min(options.batch_size, images);
    batches = images / options.batch_size;
    if (!options.drop_last && images % options.batch_size != 0) ++batches;
    ring.resize(static_cast<size_t>(std::min(options.prefetch, batches)));
    const int64_t wanted = std::min(options.workers, batches);
    workers.reserve(static_cast<size_t>(wanted));
    try {
      for (int64_t i = 0; i < wanted; ++i) {
        workers.emplace_back([this](const std::stop_token& stop) { work(stop); });
      }
    } catch (const std::system_error& error) {  // fewer do the same
      if (workers.empty()) fail("[loader] no thread can be started to prepare images: {}", error.what());
    }
  }

  ~Impl() {
    if (epoch) epoch->cancelled = true;
    for (std::jthread& worker : workers) worker.request_stop();
  }

  Place& place_of(int64_t batch) { return ring[static_cast<size_t>(batch) % ring.size()]; }
  bool may_claim() const { return epoch && claimed < batches && claimed < taken + static_cast<int64_t>(ring.size()); }

  void work(const std::stop_token& stop) {
    std::optional<Buffers> buffers;
    std::unique_lock lock(mutex);
    while (work_to_do.wait(lock, stop, [this] { return may_claim(); }) && !stop.stop_requested()) {
      const std::shared_ptr<const Epoch> of = epoch;
      const int64_t batch = claimed++;
      lock.unlock();
      Place place;
      try {
        or_out_of_memory("[loader] a batch is prepared:", [&] {
          if (!buffers) buffers.emplace(Buffers{transform.make_buffers(), {}});
          place.batch = prepare(*of, batch, *buffers);
        });
      } catch (...) {
        place.error = std::current_exception();
      }
      place.ready = true;
      lock.lock();
      if (of != epoch) continue;
      place_of(batch) = std::move(place);
      batch_ready.notify_one();
    }
  }

  struct Buffers {
    Transform::Buffers transform;
    std::vector<uint8_t> image;  // as the data set holds it
  };

  // False when the image is broken and left out.
  bool place_image(int64_t epoch_number, int64_t index, Buffers& buffers, Batch& out, int64_t at) const {
    int32_t& label = out.labels.data<int32_t>()[at];
    const auto problem_of = [&](int64_t i) -> std::string {
      try {
        label = load_image(epoch_number, i, buffers, out.images, at);
        return "";
      } catch (const OutOfMemory&) {  // says nothing about the image
        throw;
      } catch (const UserError&) {  // nor does a library that cannot be loaded
        throw;
      } catch (const Error& error) {
        if (!dataset->info().encoded) throw;
        return error.what();
      }
    };
    const std::string problem = problem_of(index);
    if (problem.empty()) return true;
    if (options.broken_images == BrokenImages::error) {
      fail("{}; luqtrain validate-data lists such images, and with data.broken_images a run goes on without them",
           problem);
    }
    out.broken.push_back({dataset->image_name(index), problem});
    if (options.broken_images == BrokenImages::skip) return false;
    RngStream random = image_stream({options.seed, epoch_number, index}, "data:substitute");
    for (int tries = 0; tries < max_substitutes; ++tries) {
      if (problem_of(random.below(static_cast<uint32_t>(dataset->info().images))).empty()) return true;
    }
    fail("[loader] {}: broken, and so are {} images drawn in its place; luqtrain validate-data lists broken ones",
         dataset->image_name(index), max_substitutes);
  }

  // Reads image `index` and makes it image `at` of a batch; returns its label. Throws Error naming the image.
  int32_t load_image(int64_t epoch_number, int64_t index, Buffers& buffers, ImageBatch& out, int64_t at) const {
    int32_t label = 0;
    if (dataset->info().encoded) {
      label = dataset->read_file(index, buffers.image);
    } else {
      buffers.image.resize(static_cast<size_t>(image_size));
      label = dataset->read(index, buffers.image.data());
    }
    try {
      or_out_of_memory("[image] it is decoded:", [&] {
        if (options.augment) {
          transform.training(buffers.image, {options.seed, epoch_number, index}, buffers.transform, out, at);
        } else {
          transform.evaluation(buffers.image, buffers.transform, out, at);
        }
      });
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(fmt::format("{}: {}", dataset->image_name(index), error.what()));
    } catch (const Error& error) {
      fail("{}: {}", dataset->image_name(index), error.what());
    }
    return label;
  }

  // The batch whose turn it is, which is ready.
  Batch take() {
    Batch batch;
    {
      const std::lock_guard lock(mutex);
      Place& place = place_of(taken);
      batch = std::move(place.batch);
      place = {};
      ++taken;
    }
    work_to_do.notify_one();
    return batch;
  }

  // Empty when the epoch was cancelled.
  Batch prepare(const Epoch& of, int64_t batch, Buffers& buffers) const {
    const int64_t first = batch * options.batch_size;
    const int64_t count = std::min(options.batch_size, images - first);
    Batch out{transform.make_batch(count, options.device), Tensor::empty({count}, DType::int32)};
    int64_t used = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (of.cancelled) return {};
      const int64_t place = of.order.empty() ? first + i : of.order[static_cast<size_t>(first + i)];
      const int64_t index = place * dataset->info().images / images;  // max_images of them, evenly spread
      if (place_image(of.number, index, buffers, out, used)) ++used;
    }
    if (used < count) shrink(out, used);
    if (options.augment && used > 0) mix(transform_options, {options.seed, of.number, batch}, out);
    return out;
  }

  // To its first images; they are mixed with each other only.
  void shrink(Batch& batch, int64_t images_left) const {
    ImageBatch rest = transform.make_batch(images_left, options.device);
    std::memcpy(rest.pixels.raw(), batch.images.pixels.raw(), static_cast<size_t>(rest.pixels.bytes()));
    std::memcpy(rest.edits.raw(), batch.images.edits.raw(), static_cast<size_t>(rest.edits.bytes()));
    batch.images = std::move(rest);
    batch.labels = rows_of(batch.labels, 0, images_left);
  }

  std::shared_ptr<const Dataset> dataset;
  LoaderOptions options;
  int64_t images, batches = 0;
  TransformOptions transform_options;
  Transform transform;
  int64_t image_size;  // bytes of an image as the network takes it

  std::mutex mutex;  // guards what follows, up to the workers
  std::condition_variable_any work_to_do, batch_ready;
  std::shared_ptr<Epoch> epoch;  // null before the first start
  std::vector<Place> ring;       // batch b of the epoch is at place b % size
  int64_t claimed = 0;           // the next batch to prepare
  int64_t taken = 0;             // the next batch to give out
  double wait_seconds = 0;
  std::vector<std::jthread> workers;  // last: joined before the rest is gone
};

Batch Batch::part(int64_t first, int64_t count) const {
  Batch taken{images.part(first, count), rows_of(labels, first, count)};
  if (other_labels.defined()) taken.other_labels = rows_of(other_labels, first, count);
  if (label_weight.defined()) taken.label_weight = rows_of(label_weight, first, count);
  return taken;
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, const TransformOptions& transform, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(dataset), transform, options)) {}

Loader::~Loader() = default;

int64_t Loader::batches_per_epoch() const { return impl_->batches; }

void Loader::start(int64_t number, int64_t first_batch) {
  Impl& impl = *impl_;
  if (number < 0) fail("[loader] start: expected an epoch of 0 or more, got {}", number);
  if (first_batch < 0 || first_batch > impl.batches) {
    fail("[loader] start: expected a first batch in 0..{}, got {}", impl.batches, first_batch);
  }
  auto epoch = std::make_shared<Epoch>();
  epoch->number = number;
  if (impl.options.shuffle) epoch->order = shuffled(impl.images, impl.options.seed, number);
  {
    const std::lock_guard lock(impl.mutex);
    if (impl.epoch) impl.epoch->cancelled = true;
    impl.epoch = std::move(epoch);
    for (Place& place : impl.ring) place = {};
    impl.claimed = impl.taken = first_batch;
  }
  impl.work_to_do.notify_all();
}

bool Loader::next(Batch& batch) {
  Impl& impl = *impl_;
  {
    std::unique_lock lock(impl.mutex);
    if (!impl.epoch) fail("[loader] next: expected start() before it");
    if (impl.taken == impl.batches) return false;
    Place& place = impl.place_of(impl.taken);
    if (!place.ready) {
      const auto begin = std::chrono::steady_clock::now();
      impl.batch_ready.wait(lock, [&] { return place.ready; });
      impl.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    if (place.error) std::rethrow_exception(place.error);
  }
  batch = impl.take();
  return true;
}

bool Loader::next_if_ready(Batch& batch) {
  Impl& impl = *impl_;
  {
    const std::lock_guard lock(impl.mutex);
    if (!impl.epoch || impl.taken == impl.batches) return false;
    const Place& place = impl.place_of(impl.taken);
    if (!place.ready || place.error) return false;
  }
  batch = impl.take();
  return true;
}

double Loader::take_wait_seconds() {
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->wait_seconds, 0.0);
}

}  // namespace luq
