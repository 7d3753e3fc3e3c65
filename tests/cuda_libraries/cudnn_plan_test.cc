// cuDNN plans convolutions for a device that is only described to it: what plan_convolution tells it is accepted, and
// gives an engine of the wanted properties. Nothing runs.
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/cuda/nvcc/cudnn_conv.h"
#include "tests/catch.h"

using namespace luq;
using namespace luq::kernels::cuda;

namespace {

struct DeviceNumbers {
  const char* name;
  int capability, multiprocessors, shared_bytes_opt_in;
  int64_t memory, l2;
  int threads, blocks;  // of a multiprocessor
};
constexpr DeviceNumbers kA100{"NVIDIA A100-SXM4-80GB", 800, 108, 166912, 85899345920, 41943040, 2048, 32};
constexpr DeviceNumbers kH100{"NVIDIA H100 80GB HBM3", 900, 132, 232448, 85899345920, 52428800, 2048, 32};

// As cuDNN writes down a device.
std::string description(const DeviceNumbers& d) {
  const auto number = [](const char* key, int64_t value) {
    return std::string("\"") + key + "\":" + std::to_string(value) + ",";
  };
  return std::string("{\"deviceName\":\"") + d.name + "\"," + number("cudaDeviceId", 0) +
         number("deviceVer", d.capability) + number("multiProcessorCount", d.multiprocessors) +
         number("driverVer", 13000) + number("maxSharedMemoryPerBlockOptin", d.shared_bytes_opt_in) +
         number("totalGlobalMem", d.memory) + number("regsPerBlock", 65536) + number("smClockRateKHz", 1410000) +
         number("memClockRateKHz", 1512000) + number("l2CacheSize", d.l2) + number("warpSize", 32) +
         number("maxSharedMemoryPerBlock", 49152) + number("reservedSharedMemoryPerBlock", 1024) +
         number("maxRegistersPerSM", 65536) + number("pciDeviceId", 0) + number("maxCtasPerSM", d.blocks) +
         number("maxThreadsPerBlock", 1024) + number("maxThreadsPerSM", d.threads) + number("isTccDriver", 0) +
         number("supportCoopLaunch", 1) + "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64]}";
}

CudnnDescriptor described(const DeviceNumbers& numbers) {
  CudnnDescriptor device(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  const std::string text = description(numbers);
  device.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, text.data(),
             static_cast<int64_t>(text.size()));
  REQUIRE(device.finalize());
  return device;
}

}  // namespace

TEST_CASE("cuDNN has an engine for the convolutions of the zoo", "[cudnn]") {
  const ConvShape shapes[] = {
      {.n = 256,
       .h = 224,
       .w = 224,
       .c = 3,
       .o = 64,
       .kh = 7,
       .kw = 7,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 3,
       .pad_w = 3},
      {.n = 256, .h = 56, .w = 56, .c = 64, .o = 64, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
      {.n = 256, .h = 56, .w = 56, .c = 256, .o = 512, .kh = 1, .kw = 1, .stride_h = 2, .stride_w = 2},
      {.n = 128,
       .h = 28,
       .w = 28,
       .c = 32,
       .o = 16,
       .kh = 3,
       .kw = 3,
       .stride_h = 2,
       .stride_w = 2,
       .pad_h = 1,
       .pad_w = 1},
      {.n = 64, .h = 112, .w = 112, .c = 32, .o = 32, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 32},
      {.n = 64, .h = 56, .w = 56, .c = 128, .o = 128, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1, .groups = 32},
      {.n = 64, .h = 224, .w = 224, .c = 3, .o = 192, .kh = 16, .kw = 16, .stride_h = 16, .stride_w = 16},
      {.n = 128, .h = 28, .w = 28, .c = 1, .o = 16, .kh = 3, .kw = 3, .pad_h = 1, .pad_w = 1},
  };
  for (const DeviceNumbers& numbers : {kA100, kH100}) {
    const CudnnDescriptor device = described(numbers);
    for (const ConvShape& s : shapes) {
      for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weight}) {
        for (const bool bfloat16 : {false, true}) {
          INFO(numbers.name << ", " << s.c << " to " << s.o << " channels, kernel " << s.kh << ", groups " << s.groups
                            << ", pass " << static_cast<int>(pass) << ", bfloat16 " << bfloat16);
          CHECK(plan_convolution({.device = device.get()}, {pass, s, bfloat16, false}).has_value());
        }
      }
    }
  }
}

namespace {

ConvShape layer_of(int64_t size, int64_t c, int64_t o, int64_t kernel, int64_t stride) {
  return {.n = 256,
          .h = size,
          .w = size,
          .c = c,
          .o = o,
          .kh = kernel,
          .kw = kernel,
          .stride_h = stride,
          .stride_w = stride,
          .pad_h = kernel / 2,
          .pad_w = kernel / 2};
}

// ResNet-50's convolutions, or ResNet-18's, of 256 images of 224x224.
std::vector<ConvShape> layers_of_resnet(bool bottleneck) {
  std::vector<ConvShape> layers{layer_of(224, 3, 64, 7, 2)};
  int64_t channels = 64, size = 56;
  for (int64_t width = 64; width <= 512; width *= 2) {
    const int64_t stride = width == 64 ? 1 : 2, out = bottleneck ? 4 * width : width;
    if (channels != out) layers.push_back(layer_of(size, channels, out, 1, stride));
    for (const bool first : {true, false}) {  // blocks that follow have the second's shapes
      const int64_t step = first ? stride : 1;
      if (bottleneck) {
        layers.push_back(layer_of(size, channels, width, 1, 1));
        layers.push_back(layer_of(size, width, width, 3, step));
        size /= step;
        layers.push_back(layer_of(size, width, out, 1, 1));
      } else {
        layers.push_back(layer_of(size, channels, width, 3, step));
        size /= step;
        layers.push_back(layer_of(size, width, width, 3, 1));
      }
      channels = out;
    }
  }
  return layers;
}

}  // namespace

// Not run of itself: the figures of docs/results.md, which are the library's.
TEST_CASE("Workspaces of ResNets on an H100, batch 256", "[.workspaces]") {
  const CudnnDescriptor device = described(kH100);
  for (const bool bottleneck : {true, false}) {
    for (const bool bfloat16 : {true, false}) {
      int64_t first = 0, most = 0;
      for (const ConvShape& s : layers_of_resnet(bottleneck)) {
        for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weight}) {
          if (s.c == 3 && pass == ConvPass::backward_data) continue;  // images have no gradient
          const auto plan = plan_convolution({.device = device.get()}, {pass, s, bfloat16, false});
          REQUIRE(plan.has_value());
          most = std::max(most, plan->workspace_bytes);
          if (s.c == 3) first = most;
        }
      }
      WARN((bottleneck ? "ResNet-50, " : "ResNet-18, ")
           << (bfloat16 ? "bfloat16" : "float32") << ": MiB " << (first >> 20) << " of the first convolution, "
           << (most >> 20) << " at most");
    }
  }
}

TEST_CASE("What cuDNN does not support is no error", "[cudnn]") {
  const CudnnDescriptor device = described(kH100);
  const ConvShape depthwise{.n = 8, .h = 9, .w = 9, .c = 6, .o = 6, .kh = 3, .kw = 3, .groups = 6};
  // Float32 results of bfloat16.
  CHECK(!plan_convolution({.device = device.get()}, {ConvPass::backward_weight, depthwise, true, true}).has_value());
}

TEST_CASE("A call of cuDNN that fails names the call and the library's reason", "[cudnn]") {
  CudnnDescriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  CHECK_THROWS_WITH(tensor.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, int64_t{1}),
                    contains_text("[cudnn] cudnnBackendSetAttribute: CUDNN_STATUS_"));
}
