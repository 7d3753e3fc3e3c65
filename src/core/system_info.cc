#include "luq/core/system_info.h"

#include <fmt/ranges.h>
#include <omp.h>
#include <unistd.h>

#include <fstream>

#include "kernels/kernels.h"

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
  rows.emplace_back("cores", std::to_string(omp_get_num_procs()));
  const double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  rows.emplace_back("memory", fmt::format("{:.1f} GiB", bytes / (1 << 30)));
  rows.emplace_back("oneDNN", kernel_library_version());
  rows.emplace_back("OpenMP", fmt::format("{} (date of the specification)", _OPENMP));
  return rows;
}

}  // namespace luq
