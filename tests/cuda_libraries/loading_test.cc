// cublasLt and cuDNN are loaded when they are first asked for, and what is missing is told.
#include <dlfcn.h>

#include "kernels/cuda/nvcc/loaded_libraries.h"
#include "tests/catch.h"

using namespace luq::kernels::cuda;

namespace {

using Function = double (*)(double);

}  // namespace

TEST_CASE("A library is opened by name, and its functions found", "[loading]") {
  SharedLibrary library("libm.so.6");
  Function cosine = nullptr;
  library.find("cos", cosine);
  REQUIRE(cosine != nullptr);
  CHECK(cosine(0) == 1);
  CHECK(library.error() == "");
}

TEST_CASE("A library that is not there is told, and has no functions", "[loading]") {
  SharedLibrary library("libluq_nowhere.so.9");
  Function function = nullptr;
  library.find("cos", function);
  CHECK(function == nullptr);
  CHECK(library.error() == "libluq_nowhere.so.9: cannot open shared object file: No such file or directory");
}

TEST_CASE("The first function that a library lacks is told", "[loading]") {
  SharedLibrary library("libm.so.6");
  Function first = nullptr, second = nullptr, there = nullptr;
  library.find("luq_first", first);
  library.find("luq_second", second);
  library.find("cos", there);
  CHECK(first == nullptr);
  CHECK(second == nullptr);
  CHECK(there != nullptr);
  CHECK_THAT(library.error(), contains_text("libm.so.6: undefined symbol: luq_first"));
}

TEST_CASE("The libraries are where the build found them, by the names that their headers give", "[loading]") {
  CHECK(cublaslt_facts().file == "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR));
  CHECK(cudnn_facts().file == "libcudnn.so." + std::to_string(CUDNN_MAJOR));
  for (const LibraryFacts& facts : {cublaslt_facts(), cudnn_facts()}) {
    INFO(facts.name);
    CHECK(why_unusable(facts) == "");
    CHECK(facts.version >= facts.least);
    CHECK(dlopen(facts.file.c_str(), RTLD_NOW | RTLD_NOLOAD) != nullptr);
  }
#define LUQ_CHECK_FOUND(name) CHECK(library.name != nullptr);
  const auto check_cublaslt = [](const CublasLtFunctions& library) { LUQ_CUBLASLT_FUNCTIONS(LUQ_CHECK_FOUND) };
  const auto check_cudnn = [](const CudnnFunctions& library) { LUQ_CUDNN_FUNCTIONS(LUQ_CHECK_FOUND) };
#undef LUQ_CHECK_FOUND
  check_cublaslt(cublaslt_library());
  check_cudnn(cudnn_library());
}
