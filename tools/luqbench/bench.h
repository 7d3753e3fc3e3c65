// The four benchmarks. Each checks what it times first, prints a table, and adds its numbers to a JSON object.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "luq/config/experiment.h"
#include "luq/core/device.h"

namespace luq::bench {

using Json = nlohmann::ordered_json;

struct StepOptions {
  std::string device = "cpu";  // or cuda
  std::string model = "resnet50";
  int64_t batch = 16;
  int64_t image_size = 0, channels = 0, classes = 0;  // 0: what the model is usually trained on
  int64_t threads = 0;                                // 0: default_threads()
  int64_t rounds = 5;                                 // turns of each configuration
  std::vector<std::string> only;                      // configurations to run; empty: all
  std::vector<std::string> overrides;                 // key=value for luqtrain's configurations
  bool compare_torch = false;
  std::string python;  // of the virtual environment; empty: where tools/setup_torch.sh makes it
};

// Whole training steps, each configuration in a process of its own, in turns.
Json bench_step(const StepOptions& options);
// Runs in such a process: a step for each line of standard input, answered by seconds, loss and peak memory in bytes:
// resident in the process, or on a CUDA device in tensors.
void run_step_worker(const std::string& configuration, const StepOptions& options);

struct LayersOptions {
  std::string device = "cpu";
  std::string model = "resnet50";
  int64_t batch = 16;
  int64_t image_size = 0, channels = 0, classes = 0;
  int64_t threads = 0;
  int64_t repeats = 7;
};
// The three 4-bit matmuls on every convolution shape of a model, against int8 products of the same size, oneDNN's or
// cuBLASLt's, and the machine's peak.
Json bench_layers(const LayersOptions& options);

struct KernelsOptions {
  std::string device = "cpu";
  int64_t mebibytes = 256;  // of float32 input
  int64_t threads = 0;
  int64_t repeats = 9;
};
// Statistics, encoders and other passes over memory, against this machine's read bandwidth; on a CUDA device against
// the bandwidth of copies within its memory.
Json bench_kernels(const KernelsOptions& options);

struct LoaderBenchOptions {
  std::string path;    // a folder of classes of image files
  int64_t images = 0;  // of an epoch; 0: all
  int64_t batch = 64;
  int64_t workers = 1;  // threads of ours, processes of PyTorch's
  int64_t epochs = 4;   // the first one warms up
  bool compare_torch = false;
  std::string python;  // as in StepOptions
};
// Training batches of 224 x 224 from JPEG files: random resized crop, flip, normalisation; whole and scaled decoding.
Json bench_loader(const LoaderBenchOptions& options);

// The Python with PyTorch: `given`, or where tools/setup_torch.sh makes it. Throws UserError where there is none.
std::string torch_python(const std::string& given);
// A PyTorch script beside this program: in the sources that hold the build folder, or installed.
std::string torch_program(const std::string& script);

// Puts what the model is usually trained on into the fields that are 0.
void fill_input(const std::string& model, int64_t& image_size, int64_t& channels, int64_t& classes);
double median(std::vector<double> values);
double time_once(const std::function<void()>& run);  // seconds
// Seconds of a run on the device, of several in a row where one is short; what it leaves there is waited for.
double time_on(Device device, const std::function<void()>& run);
// Every operand in 4 bits, as the paper has it.
LayerQuant luq_quantization();

}  // namespace luq::bench
