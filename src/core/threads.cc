#include "luq/core/threads.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr int most_threads = 4096;

// What the OpenMP library read from the environment, before anything sets another number.
const int threads_at_start = omp_get_max_threads();

std::string first_line(const fs::path& file) {
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  return line;
}

// quota of period, in the same unit.
std::optional<double> share(const std::string& quota, const std::string& period) {
  double parts[2];
  for (int i = 0; const std::string* text : {&quota, &period}) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), parts[i]);
    if (error != std::errc() || !(parts[i++] > 0)) return std::nullopt;
  }
  return parts[0] / parts[1];
}

std::optional<double> quota_of(const fs::path& group, bool is_version_2) {
  if (!is_version_2) return share(first_line(group / "cpu.cfs_quota_us"), first_line(group / "cpu.cfs_period_us"));
  std::istringstream words(first_line(group / "cpu.max"));
  std::string quota, period;
  words >> quota >> period;
  return share(quota, period);
}

bool holds_cpu(const std::string& controllers) { return ("," + controllers + ",").find(",cpu,") != std::string::npos; }

// The first of a list; nothing for what OpenMP does not take either.
std::optional<int> parse_threads(std::string_view text) {
  const auto trim = [](std::string_view part) {
    while (!part.empty() && std::isspace(static_cast<unsigned char>(part.front()))) part.remove_prefix(1);
    while (!part.empty() && std::isspace(static_cast<unsigned char>(part.back()))) part.remove_suffix(1);
    return part;
  };
  std::optional<int> first;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view part = trim(text.substr(0, comma));
    int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1) return std::nullopt;
    if (!first) first = static_cast<int>(std::min<int64_t>(value, most_threads));
    if (comma == std::string_view::npos) return first;
    text.remove_prefix(comma + 1);
  }
}

bool is_given() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  return text != nullptr && parse_threads(text).has_value();
}

struct Default {
  int threads = 1;
  const char* reason = "";
};

Default find_default() {
  if (is_given()) return {std::clamp(threads_at_start, 1, most_threads), "OMP_NUM_THREADS"};
  const int processors = std::clamp(omp_get_num_procs(), 1, most_threads);
  const std::optional<double> quota = cpu_quota();
  if (!quota || *quota >= processors) return {processors, "processors that this process may use"};
  return {std::max(static_cast<int>(std::ceil(*quota)), 1), "the CPU quota of its control group"};
}

const Default& the_default() {
  static const Default found = find_default();
  return found;
}

}  // namespace

int default_threads() { return the_default().threads; }

std::string describe_default_threads() { return fmt::format("{} ({})", the_default().threads, the_default().reason); }

int use_threads(int64_t threads) {
  const int count = threads > 0 ? static_cast<int>(threads) : default_threads();
  omp_set_num_threads(count);
  return count;
}

std::optional<double> cpu_quota(const std::string& root) {
  std::optional<double> least;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // number:controllers:path
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_version_2 = controllers.empty();
    if (!is_version_2 && !holds_cpu(controllers)) continue;
    const fs::path mounts = root + "/sys/fs/cgroup";
    for (const fs::path& mount : is_version_2 ? std::vector<fs::path>{mounts, mounts / "unified"}
                                              : std::vector<fs::path>{mounts / controllers, mounts / "cpu"}) {
      // A container may see the path of the host, which is not there, above its own group at the mount's root.
      for (fs::path group = line.substr(second + 1);; group = group.parent_path()) {
        const std::optional<double> quota = quota_of(mount / group.relative_path(), is_version_2);
        if (quota && (!least || *quota < *least)) least = quota;
        if (!group.has_relative_path()) break;
      }
    }
  }
  return least;
}

std::string check_thread_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr || is_given()) return "";
  const std::string given = text;
  unsetenv("OMP_NUM_THREADS");
  return fmt::format(
      "OMP_NUM_THREADS: expected a number of threads, 1 or more, or a list of them, got '{}'; it is not used", given);
}

}  // namespace luq
