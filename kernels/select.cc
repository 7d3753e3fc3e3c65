// Builds the kernel tables: ref first, then what the CPU can run, in rising order, each overwriting the entries it has.

#include <cpuid.h>

#include <cstdlib>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/tables.h"
#ifdef LUQ_CUDA
#include <luq_cuda/libraries.h>

#include "kernels/cuda/tables.h"
#endif
#include "luq/core/error.h"

namespace luq {
namespace {

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"); }
bool has_bf16() { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }

// Leaf 7 of CPUID and what the system enabled; clang 14 has no name for it. Only where there is AVX-512.
bool has_amx_bfloat16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, enabled = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 22 & 1) == 0) return false;
  asm("xgetbv" : "=a"(enabled), "=d"(edx) : "c"(0));
  return (enabled >> 17 & 3) == 3;
}

// Intel's CPUs without AMX take twice as long for products of bfloat16 as for those of float32.
bool has_fast_bfloat16() { return has_bf16() && (has_amx_bfloat16() || !__builtin_cpu_is("intel")); }

struct Level {
  const char* name;
  bool (*available)();
  void (*add)(Kernels&);
};

constexpr Level kLevels[] = {
    {"ref", [] { return true; },
     [](Kernels& table) {
       kernels::add_ref_quantize(table);
       kernels::add_ref_qconv(table);
       kernels::add_ref_float(table);
       kernels::add_ref_image(table);
     }},
    {"avx2", has_avx2,
     [](Kernels& table) {
       kernels::add_avx2_quantize(table);
       kernels::add_avx2_qconv(table);
       kernels::add_avx2_attention(table);
       kernels::add_avx2_float(table);
       kernels::add_avx2_image(table);
       kernels::add_avx2_norm(table);
       kernels::add_avx2_peak(table);
       kernels::add_onednn(table);
     }},
    {"avx512", has_avx512,
     [](Kernels& table) {
       kernels::add_avx512_quantize(table);
       kernels::add_avx512_qconv(table);
       kernels::add_avx512_attention(table);
       kernels::add_avx512_float(table);
       kernels::add_avx512_image(table);
       kernels::add_avx512_norm(table);
       kernels::add_avx512_peak(table);
     }},
    {"vnni", has_vnni,
     [](Kernels& table) {
       kernels::add_avx512vnni_qconv(table);
       kernels::add_avx512vnni_peak(table);
     }},
    {"bf16", has_bf16,
     [](Kernels& table) {
       kernels::add_avx512bf16_qconv(table);
       kernels::add_avx512bf16_peak(table);
       if (has_fast_bfloat16()) kernels::add_onednn_bfloat16(table);
     }},
};

const Kernels& require_complete(const Kernels& table, bool on_host) {
  std::string missing;
#define LUQ_REQUIRE_ENTRY(name, Args) \
  if (table.name.run == nullptr) missing += " " #name;
  LUQ_REQUIRED_KERNEL_ENTRIES(LUQ_REQUIRE_ENTRY)
  if (on_host) {
    LUQ_HOST_KERNEL_ENTRIES(LUQ_REQUIRE_ENTRY)
  }
#undef LUQ_REQUIRE_ENTRY
  if (!missing.empty()) fail("[kernels] entries without an implementation:{}", missing);
  return table;
}

Kernels select_cpu() {
  const char* cap = std::getenv("LUQ_KERNELS");
  if (cap != nullptr && *cap == '\0') cap = nullptr;
  bool known = cap == nullptr;
  for (const Level& level : kLevels) known = known || std::strcmp(cap, level.name) == 0;
  if (!known) fail_user("[kernels] expected LUQ_KERNELS to be ref, avx2, avx512, vnni or bf16, got '{}'", cap);
  Kernels table;
  for (const Level& level : kLevels) {
    if (level.available()) level.add(table);
    if (cap != nullptr && std::strcmp(cap, level.name) == 0) break;
  }
  return table;
}

constexpr const char* kPlainCuda = "cuda-plain";

#ifdef LUQ_CUDA

Kernels plain_cuda() {
  Kernels table;
  kernels::cuda::add_quantize(table);
  kernels::cuda::add_qconv_forward(table);
  kernels::cuda::add_qconv_backward_data(table);
  kernels::cuda::add_qconv_backward_weight(table);
  kernels::cuda::add_conv(table);
  kernels::cuda::add_batch_norm(table);
  kernels::cuda::add_layer_norm(table);
  kernels::cuda::add_pointwise(table);
  kernels::cuda::add_rows(table);
  kernels::cuda::add_pool(table);
  kernels::cuda::add_loss(table);
  kernels::cuda::add_optimizer(table);
  kernels::cuda::add_attention(table);
  kernels::cuda::add_images(table);
  return table;
}

const DeviceMemory& cuda_memory() { return kernels::cuda::memory(); }
std::string cuda_problem() { return kernels::cuda::device_problem(); }
std::string cuda_description() { return kernels::cuda::description(); }
void open_cuda_libraries() { kernels::cuda::open_libraries(); }

std::vector<NamedKernels> cuda_tables() {
  std::vector<NamedKernels> tables{{kPlainCuda, plain_cuda()}};
  if (kernels::cuda::kHasLibraries) {
    tables.push_back({"cuda", tables.back().table});
    kernels::cuda::add_libraries(tables.back().table);
    tables.push_back({"cuda-cublaslt", tables.back().table});
    kernels::cuda::add_cublaslt_int8(tables.back().table);
  }
  return tables;
}

NamedKernels select_cuda() {
  const char* given = std::getenv("LUQ_CUDA_KERNELS");
  const std::string wanted = given != nullptr && *given != '\0' ? given
                             : kernels::cuda::kHasLibraries     ? "cuda"
                                                                : kPlainCuda;
  std::string known;
  for (const NamedKernels& named : cuda_tables()) {
    if (named.name == wanted) return named;
    known += (known.empty() ? "" : ", ") + named.name;
  }
  fail_user("[kernels] expected LUQ_CUDA_KERNELS to be one of {}, got '{}'", known, wanted);
}

#else

std::string cuda_problem() {
  return "[kernels] device cuda: this build has no CUDA kernels; --set device=cpu trains on the processor, and eval, "
         "predict and quantize take --device cpu";
}
std::string cuda_description() { return "not built in: this build has no CUDA kernels"; }
void open_cuda_libraries() {}
NamedKernels select_cuda() { return {}; }
const DeviceMemory& cuda_memory() { fail_user("{}", cuda_problem()); }
std::vector<NamedKernels> cuda_tables() { return {}; }

#endif

// The table of a device that can be used, with what it needs.
Kernels open_cuda() {
  if (const std::string problem = cuda_problem(); !problem.empty()) fail_user("{}", problem);
  const NamedKernels chosen = select_cuda();
  if (chosen.name != kPlainCuda) open_cuda_libraries();
  return chosen.table;
}

}  // namespace

const Kernels& kernels_for(Device device) {
  if (device.type == DeviceType::cuda) {
    static const Kernels cuda = open_cuda();
    return require_complete(cuda, false);
  }
  static const Kernels cpu = select_cpu();
  return require_complete(cpu, true);
}

bool is_available(Device device) { return device.type == DeviceType::cpu || cuda_problem().empty(); }

const DeviceMemory* device_memory(Device device) { return device.type == DeviceType::cuda ? &cuda_memory() : nullptr; }

std::string describe_cuda() { return cuda_description(); }

std::vector<NamedKernels> cpu_kernel_tables() {
  std::vector<NamedKernels> tables;
  Kernels table;
  for (const Level& level : kLevels) {
    if (!level.available()) break;
    level.add(table);
    tables.push_back({level.name, table});
  }
  return tables;
}

std::vector<NamedKernels> cuda_kernel_tables() { return cuda_tables(); }

Kernels cuda_kernels() { return select_cuda().table; }

std::vector<std::pair<std::string, std::string>> describe(const Kernels& kernels) {
  std::vector<std::pair<std::string, std::string>> rows;
#define LUQ_DESCRIBE_ENTRY(name, Args) \
  rows.emplace_back(#name, kernels.name.implementation == nullptr ? "-" : kernels.name.implementation);
  LUQ_KERNEL_ENTRIES(LUQ_DESCRIBE_ENTRY)
#undef LUQ_DESCRIBE_ENTRY
  return rows;
}

}  // namespace luq
