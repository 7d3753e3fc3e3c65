// The loader against torchvision's on the same files, epochs in turns. On a machine that does other things too, images
// per second of CPU say more than images per second.
#include <fmt/core.h>
#include <omp.h>
#include <sys/resource.h>

#include <memory>
#include <optional>
#include <sstream>

#include "luq/core/error.h"
#include "luq/data/loader.h"
#include "tools/luqbench/bench.h"
#include "tools/luqbench/process.h"

namespace luq::bench {
namespace {

struct Epoch {
  double images = 0, seconds = 0, cpu_seconds = 0;
};

struct Contender {
  std::string name;
  std::function<Epoch()> run;
  std::vector<double> per_second, per_cpu_second;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * 1024;
}

Epoch run_epoch(Loader& loader, int64_t number) {
  Epoch epoch;
  const double before = cpu_seconds();
  epoch.seconds = time_once([&] {
    loader.start(number);
    for (Batch batch; loader.next(batch);) {
      finish_images(kernels_for({}), batch.images, DType::float32);
      epoch.images += static_cast<double>(batch.size());
    }
  });
  epoch.cpu_seconds = cpu_seconds() - before;
  return epoch;
}

Epoch read_epoch(Process& process) {
  process.write_line("epoch");
  std::istringstream line(process.read_line());
  Epoch epoch;
  if (!(line >> epoch.images >> epoch.seconds >> epoch.cpu_seconds)) {
    fail("[luqbench] torch_loader.py: expected three numbers, got '{}'", line.str());
  }
  return epoch;
}

}  // namespace

Json bench_loader(const LoaderBenchOptions& options) {
  omp_set_num_threads(1);  // others would spin while the loader is waited for, which is no work of its
  const std::shared_ptr<const Dataset> dataset = open_dataset("image_folder", options.path, Split::train);
  const int64_t images = options.images > 0 ? std::min(options.images, dataset->info().images) : dataset->info().images;
  std::vector<Contender> contenders;
  std::vector<std::unique_ptr<Loader>> loaders;
  for (const bool scaled : {false, true}) {
    TransformOptions transform;
    transform.random_resized_crop = transform.horizontal_flip = true;
    transform.scaled_decode = scaled;
    const LoaderOptions loader{.batch_size = options.batch,
                               .shuffle = true,
                               .augment = true,
                               .max_images = images,
                               .workers = options.workers};
    loaders.push_back(std::make_unique<Loader>(dataset, transform, loader));
    contenders.push_back(
        {scaled ? "luqtrain, scaled_decode" : "luqtrain",
         [loader = loaders.back().get(), number = int64_t{0}]() mutable { return run_epoch(*loader, number++); },
         {},
         {}});
  }
  std::optional<Process> torch;
  if (options.compare_torch) {
    torch.emplace(std::vector<std::string>{torch_python(options.python), torch_program("torch_loader.py"), "--path",
                                           options.path + "/train", "--images", std::to_string(images), "--batch",
                                           std::to_string(options.batch), "--workers", std::to_string(options.workers)},
                  std::vector<std::string>{});
    contenders.push_back({"torchvision and PIL", [&torch] { return read_epoch(*torch); }, {}, {}});
  }

  int64_t first_peak = 0;
  for (int64_t number = 0; number < options.epochs; ++number) {
    for (Contender& contender : contenders) {
      const Epoch epoch = contender.run();
      if (number == 0) continue;  // warms up
      contender.per_second.push_back(epoch.images / epoch.seconds);
      contender.per_cpu_second.push_back(epoch.images / epoch.cpu_seconds);
    }
    if (number == 0) first_peak = peak_rss_bytes();
  }

  fmt::print("{} images of {}, batches of {}, {} worker{}; medians of {} epochs; {}\n\n", images, options.path,
             options.batch, options.workers, options.workers == 1 ? "" : "s", options.epochs - 1,
             image_library_versions());
  fmt::print("{:<26}{:>12}{:>20}\n", "", "images/s", "images/CPU second");
  Json result{{"images", images}, {"batch", options.batch}, {"workers", options.workers}};
  for (const Contender& contender : contenders) {
    const double per_second = median(contender.per_second), per_cpu_second = median(contender.per_cpu_second);
    fmt::print("{:<26}{:>12.0f}{:>20.0f}\n", contender.name, per_second, per_cpu_second);
    result["images_per_second"][contender.name] = per_second;
    result["images_per_cpu_second"][contender.name] = per_cpu_second;
  }
  const int64_t last_peak = peak_rss_bytes();
  fmt::print("\npeak memory of luqtrain's: {} MiB after the first epoch, {} MiB after the last\n", first_peak >> 20,
             last_peak >> 20);
  result["peak_rss_bytes"] = {{"first_epoch", first_peak}, {"last_epoch", last_peak}};
  return result;
}

}  // namespace luq::bench
