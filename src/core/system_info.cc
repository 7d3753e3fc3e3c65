#include "luq/core/system_info.h"

#include <fmt/ranges.h>
#include <omp.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "kernels/kernels.h"
#include "luq/core/device.h"
#include "luq/core/threads.h"

namespace luq {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

InfoRows system_info() {
  InfoRows rows;
  rows.emplace_back("processor", processor_name());
  std::vector<std::string> tables;
  for (const NamedKernels& table : cpu_kernel_tables()) tables.push_back(table.name);
  rows.emplace_back("kernel tables", fmt::format("{} (LUQ_KERNELS=<name> caps them)", fmt::join(tables, ", ")));
  std::vector<std::string> device_tables;
  for (const NamedKernels& table : cuda_kernel_tables()) device_tables.push_back(table.name);
  if (!device_tables.empty()) {
    rows.emplace_back("device tables",
                      fmt::format("{} (LUQ_CUDA_KERNELS=<name> chooses)", fmt::join(device_tables, ", ")));
  }
  rows.emplace_back("cores", std::to_string(omp_get_num_procs()));
  rows.emplace_back("threads", describe_default_threads());
  const double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  rows.emplace_back("memory", fmt::format("{:.1f} GiB", bytes / (1 << 30)));
  rows.emplace_back("oneDNN", kernel_library_version());
  rows.emplace_back("OpenMP", fmt::format("{} (date of the specification)", _OPENMP));
  return rows;
}

std::string describe_kernels() {
  std::set<std::string> required, on_host;
#define LUQ_REQUIRED(name, Args) required.insert(#name);
#define LUQ_ON_HOST(name, Args) on_host.insert(#name);
  LUQ_REQUIRED_KERNEL_ENTRIES(LUQ_REQUIRED)
  LUQ_HOST_KERNEL_ENTRIES(LUQ_ON_HOST)
#undef LUQ_REQUIRED
#undef LUQ_ON_HOST
  const auto cpu = describe(kernels_for({}));
  const bool has_cuda = !cuda_kernel_tables().empty();
  const auto cuda = describe(cuda_kernels());
  const auto row = [has_cuda](const std::string& entry, const std::string& on_cpu, const std::string& on_cuda) {
    return has_cuda ? fmt::format("{:<28} {:<12} {}\n", entry, on_cpu, on_cuda)
                    : fmt::format("{:<28} {}\n", entry, on_cpu);
  };
  std::string text = row("kernel", "cpu", "cuda"), missing;
  for (size_t i = 0; i < cpu.size(); ++i) {
    const std::string& entry = cpu[i].first;
    const bool nothing = cuda[i].second == "-";
    if (nothing && required.contains(entry)) missing += " " + entry;
    text += row(entry, cpu[i].second, nothing && on_host.contains(entry) ? "host" : cuda[i].second);
  }
  text += fmt::format("\nCUDA: {}\n", describe_cuda());
  return has_cuda ? text + fmt::format("missing:{}\n", missing.empty() ? " nothing" : missing) : text;
}

}  // namespace luq
