// What a user is told where CUDA kernels cannot run.
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/library_facts.h"
#include "tests/catch.h"

using namespace luq::kernels::cuda;

namespace {

DeviceFacts good() {
  DeviceFacts facts;
  facts.driver = 13010;
  facts.runtime = 13000;
  facts.devices = 1;
  facts.name = "NVIDIA X";
  facts.major = 9;
  return facts;
}

}  // namespace

TEST_CASE("A device that can run the kernels has no problem", "[cuda_device]") {
  DeviceFacts facts = good();
  CHECK(why_unusable(facts) == "");
  facts.driver = 13000;
  facts.runtime = 13020;  // another minor version
  CHECK(why_unusable(facts) == "");
  facts.major = 8;
  CHECK(why_unusable(facts) == "");
}

TEST_CASE("What is wrong with a device is told, the first cause before what follows from it", "[cuda_device]") {
  DeviceFacts facts = good();
  facts.probe_error = "cudaErrorX: broken";
  CHECK(why_unusable(facts) ==
        "[cuda] expected NVIDIA X to run a kernel, got cudaErrorX: broken; look at nvidia-smi, or train with "
        "device=cpu");
  facts.has_image = false;
  facts.minor = 3;
  CHECK(why_unusable(facts) ==
        "[cuda] expected kernels for compute capability 9.3 (NVIDIA X), got none in this build; build with "
        "-DCMAKE_CUDA_ARCHITECTURES=93, or train with device=cpu");
  facts.major = 7;
  facts.minor = 5;
  CHECK(why_unusable(facts) ==
        "[cuda] expected compute capability 8.0 or above, got 7.5 (NVIDIA X); take another device, or train with "
        "device=cpu");
  facts.devices = 0;
  CHECK(why_unusable(facts) ==
        "[cuda] expected a device, got none; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or train with device=cpu");
  facts.devices_error = "cudaErrorNoDevice: none";
  CHECK_THAT(why_unusable(facts), contains_text("got none (cudaErrorNoDevice: none); look"));
  facts.driver = 12080;
  CHECK(why_unusable(facts) ==
        "[cuda] expected a driver for CUDA 13.0 or newer, got one for 12.8; install a newer driver, or train with "
        "device=cpu");
  facts.driver = 0;
  CHECK(why_unusable(facts) ==
        "[cuda] expected an NVIDIA driver, got none; install one for CUDA 13.0 or newer, or train with device=cpu");
}

TEST_CASE("A library that is missing or too old is named, with what to do", "[cuda_device]") {
  LibraryFacts facts{.name = "cuDNN", .file = "libcudnn.so.9", .least = 90800, .version = 90800};
  CHECK(why_unusable(facts) == "");
  CHECK(found_text(facts) == "cuDNN 9.8.0");
  facts.version = 100203;
  CHECK(why_unusable(facts) == "");
  CHECK(found_text(facts) == "cuDNN 10.2.3");
  facts.version = 90701;
  CHECK(why_unusable(facts) ==
        "[cuda] expected cuDNN 9.8 or newer (libcudnn.so.9), got 9.7.1; install it or put its folder first in "
        "LD_LIBRARY_PATH, set LUQ_CUDA_KERNELS=cuda-plain to do without, or train with device=cpu");
  CHECK(found_text(facts) == "cuDNN 9.7.1 (too old)");
  facts.version = 0;
  facts.error = "libcudnn.so.9: cannot open";
  CHECK(why_unusable(facts) ==
        "[cuda] expected cuDNN 9.8 or newer (libcudnn.so.9), got libcudnn.so.9: cannot open; install it or put its "
        "folder first in LD_LIBRARY_PATH, set LUQ_CUDA_KERNELS=cuda-plain to do without, or train with device=cpu");
  CHECK(found_text(facts) == "no cuDNN (libcudnn.so.9: cannot open)");
}
