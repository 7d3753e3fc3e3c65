// cublasLt and cuDNN, loaded when they are first asked for: a program starts, and trains on the CPU, without them.
// Nothing is linked to them; all of their functions are called through the structs here. They stay loaded.
#pragma once

#include <cublasLt.h>
#include <cudnn.h>

#include <string>

#include "kernels/cuda/library_facts.h"

namespace luq::kernels::cuda {

#define LUQ_CUBLASLT_FUNCTIONS(X)         \
  X(cublasLtGetVersion)                   \
  X(cublasLtGetStatusString)              \
  X(cublasLtCreate)                       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)          \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmul)

#define LUQ_CUDNN_FUNCTIONS(X)     \
  X(cudnnGetVersion)               \
  X(cudnnGetErrorString)           \
  X(cudnnGetLastErrorString)       \
  X(cudnnCreate)                   \
  X(cudnnSetStream)                \
  X(cudnnBackendCreateDescriptor)  \
  X(cudnnBackendDestroyDescriptor) \
  X(cudnnBackendSetAttribute)      \
  X(cudnnBackendGetAttribute)      \
  X(cudnnBackendFinalize)          \
  X(cudnnBackendExecute)

#define LUQ_FUNCTION_POINTER(name) decltype(&::name) name = nullptr;
struct CublasLtFunctions {
  LUQ_CUBLASLT_FUNCTIONS(LUQ_FUNCTION_POINTER)
};
struct CudnnFunctions {
  LUQ_CUDNN_FUNCTIONS(LUQ_FUNCTION_POINTER)
};
#undef LUQ_FUNCTION_POINTER

// Throw UserError where the library is missing or too old.
const CublasLtFunctions& cublaslt_library();
const CudnnFunctions& cudnn_library();

// Say what was found; these throw nothing.
const LibraryFacts& cublaslt_facts();
const LibraryFacts& cudnn_facts();

// A library by the name that the dynamic linker knows, looked for in LD_LIBRARY_PATH, the program's RUNPATH, and
// where the system keeps libraries.
class SharedLibrary {
 public:
  explicit SharedLibrary(const std::string& file);

  // Leaves `function` alone where the library has none of the name.
  template <typename Function>
  void find(const char* name, Function*& function) {
    if (void* address = address_of(name)) function = reinterpret_cast<Function*>(address);
  }
  // The first thing that was not there, in the dynamic linker's words; empty where all was.
  const std::string& error() const { return error_; }

 private:
  void* address_of(const char* name);

  void* library_;
  std::string error_;
};

}  // namespace luq::kernels::cuda
