#include "kernels/cuda/nvcc/loaded_libraries.h"

#include <dlfcn.h>

#include "kernels/cuda/runtime.h"

namespace luq::kernels::cuda {
namespace {

constexpr size_t kLeastCudnn = 90800;  // as cmake/cuda_libraries.cmake says of its headers
static_assert(CUDNN_VERSION >= kLeastCudnn);

template <typename Functions>
struct Loaded {
  LibraryFacts facts;
  Functions functions;
};

template <typename Functions>
Loaded<Functions> load(const LibraryFacts& wanted, void (*find_all)(SharedLibrary&, Functions&),
                       decltype(&::cudnnGetVersion) Functions::*version) {
  Loaded<Functions> loaded{wanted, {}};
  SharedLibrary library(wanted.file);
  find_all(library, loaded.functions);
  loaded.facts.error = library.error();
  if (library.error().empty()) loaded.facts.version = (loaded.functions.*version)();
  return loaded;
}

#define LUQ_FIND(name) library.find(#name, functions.name);

const Loaded<CublasLtFunctions>& loaded_cublaslt() {
  static const auto loaded = load<CublasLtFunctions>(
      {.name = "cublasLt",
       .file = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR),
       .least = CUBLAS_VER_MAJOR * 10000},
      [](SharedLibrary& library, CublasLtFunctions& functions) { LUQ_CUBLASLT_FUNCTIONS(LUQ_FIND) },
      &CublasLtFunctions::cublasLtGetVersion);
  return loaded;
}

const Loaded<CudnnFunctions>& loaded_cudnn() {
  static const auto loaded = load<CudnnFunctions>(
      {.name = "cuDNN", .file = fmt::format("libcudnn.so.{}", CUDNN_MAJOR), .least = kLeastCudnn},
      [](SharedLibrary& library, CudnnFunctions& functions) { LUQ_CUDNN_FUNCTIONS(LUQ_FIND) },
      &CudnnFunctions::cudnnGetVersion);
  return loaded;
}

#undef LUQ_FIND

template <typename Functions>
const Functions& usable(const Loaded<Functions>& loaded) {
  if (const std::string problem = why_unusable(loaded.facts); !problem.empty()) fail_unusable(problem);
  return loaded.functions;
}

}  // namespace

const CublasLtFunctions& cublaslt_library() {
  static const CublasLtFunctions& functions = usable(loaded_cublaslt());
  return functions;
}

const CudnnFunctions& cudnn_library() {
  static const CudnnFunctions& functions = usable(loaded_cudnn());
  return functions;
}

const LibraryFacts& cublaslt_facts() { return loaded_cublaslt().facts; }
const LibraryFacts& cudnn_facts() { return loaded_cudnn().facts; }

SharedLibrary::SharedLibrary(const std::string& file) : library_(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (library_ == nullptr) error_ = dlerror();
}

void* SharedLibrary::address_of(const char* name) {
  if (library_ == nullptr) return nullptr;
  void* address = dlsym(library_, name);
  if (address == nullptr && error_.empty()) error_ = dlerror();
  return address;
}

}  // namespace luq::kernels::cuda
