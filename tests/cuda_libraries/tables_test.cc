// The tables of a CUDA device, which nothing needs a device to look at.
#include <string>

#include "kernels/kernels.h"
#include "tests/catch.h"

using namespace luq;

TEST_CASE("A device has the plain table and those with libraries", "[cuda_tables]") {
  const std::vector<NamedKernels> tables = cuda_kernel_tables();
  REQUIRE(tables.size() == 3);
  CHECK(tables[0].name == "cuda-plain");
  CHECK(tables[1].name == "cuda");
  CHECK(tables[2].name == "cuda-cublaslt");
  for (const auto& [name, table] : tables) {
#define LUQ_CHECK_ENTRY(entry, Args) \
  INFO(name << ": " #entry);         \
  CHECK(table.entry);
    LUQ_REQUIRED_KERNEL_ENTRIES(LUQ_CHECK_ENTRY)
#undef LUQ_CHECK_ENTRY
    const std::string expected = name == "cuda-plain" ? "cuda" : "cudnn";
    CHECK(table.conv_forward.implementation == expected);
    CHECK(table.conv_backward_data.implementation == expected);
    CHECK(table.conv_backward_weight.implementation == expected);
    const std::string product = name == "cuda-cublaslt" ? "cublaslt" : "cuda";
    CHECK(table.qconv_forward.implementation == product);
    CHECK(table.qconv_backward_data.implementation == product);
    CHECK(table.qconv_backward_weight.implementation == product);
    CHECK(static_cast<bool>(table.qconv_forward_moments) == (product == "cuda"));
  }
}
