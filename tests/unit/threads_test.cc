#include "luq/core/threads.h"

#include <omp.h>

#include <filesystem>

#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

// A system whose control groups are these files.
std::optional<double> quota(const std::string& groups, const std::vector<std::pair<std::string, std::string>>& files) {
  const TemporaryFolder root;
  const auto put = [&root](const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root / name).parent_path());
    write_file(root / name, text);
  };
  put("proc/self/cgroup", groups);
  for (const auto& [name, text] : files) put("sys/fs/cgroup/" + name, text);
  return cpu_quota(root / "");
}

}  // namespace

TEST_CASE("threads: the quota of control groups, the least of a group and those above it", "[threads]") {
  CHECK(!quota("", {}));
  CHECK(!quota("0::/\n", {{"cpu.max", "max 100000\n"}}));
  CHECK(quota("0::/\n", {{"cpu.max", "250000 100000\n"}}) == 2.5);
  CHECK(quota("0::/a/b\n", {{"a/cpu.max", "50000 100000\n"}, {"a/b/cpu.max", "200000 100000\n"}}) == 0.5);
  CHECK(quota("0::/a/b\n", {{"a/cpu.max", "max 100000\n"}, {"a/b/cpu.max", "200000 100000\n"}}) == 2);
  // In a container, whose group is the root of what it sees, by the host's name.
  CHECK(quota("0::/docker/1f\n", {{"cpu.max", "100000 100000\n"}}) == 1);
  CHECK(quota("0::/../other\n", {{"cpu.max", "100000 100000\n"}}) == 1);
  CHECK(!quota("0::/\n", {{"cpu.max", "nonsense\n"}}));
  const std::string version_1 = "12:cpuset:/\n4:cpu,cpuacct:/job\n3:cpuacct:/other\n";
  CHECK(quota(version_1, {{"cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n"},
                          {"cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"}}) == 3);
  CHECK(quota(version_1, {{"cpu/job/cpu.cfs_quota_us", "50000\n"}, {"cpu/job/cpu.cfs_period_us", "100000\n"}}) == 0.5);
  CHECK(!quota(version_1, {{"cpu/job/cpu.cfs_quota_us", "-1\n"}, {"cpu/job/cpu.cfs_period_us", "100000\n"}}));
}

TEST_CASE("threads: a number, or the default", "[threads]") {
  const int before = omp_get_max_threads();
  CHECK(default_threads() >= 1);
  CHECK(use_threads(3) == 3);
  CHECK(omp_get_max_threads() == 3);
  CHECK(use_threads(0) == default_threads());
  CHECK(omp_get_max_threads() == default_threads());
  CHECK(describe_default_threads().starts_with(std::to_string(default_threads()) + " ("));
  omp_set_num_threads(before);
}

}  // namespace luq
