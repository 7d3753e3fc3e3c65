#include "src/data/passed_over.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>

#include "luq/core/error.h"
#include "src/core/folder_entries.h"
#include "src/data/image_names.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr int most_entries = 1000;  // that are looked at to tell what a folder holds

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

bool is_image(const std::string& name) { return has_image_extension(name) && !is_apple_double(name); }

// ".tar.gz" of train-1.tar.gz; "" for what is no shard.
std::string end_of_shard(const std::string& name) {
  if (is_apple_double(name)) return "";
  const std::string small = lower(name);
  if (small.find(".index.json") != std::string::npos) return "";
  for (const char* companion : {".md5", ".sha1", ".sha256", ".sha512", ".json", ".idx", ".index", ".txt", ".csv",
                                ".tsv", ".log", ".asc", ".sig", ".torrent"}) {
    if (small.ends_with(companion)) return "";
  }
  for (const char* end : {".tar", ".tgz", ".tbz", ".txz", ".tzst"}) {
    const size_t at = small.rfind(end);
    if (at != std::string::npos) return name.substr(at);
  }
  return "";
}

bool is_shard(const std::string& name) { return !end_of_shard(name).empty(); }

struct Entry {
  std::string name;
  bool is_folder;
};

std::vector<Entry> entries_of(const fs::path& folder, size_t most) {
  std::vector<Entry> found;
  for_folder_entries(folder, [&](const fs::directory_entry& entry) {
    std::error_code no_matter;
    found.push_back({entry.path().filename().string(), entry.is_directory(no_matter)});
    return found.size() < most;
  });
  std::sort(found.begin(), found.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return found;
}

// In the folder or, to `depth`, in those below it.
bool holds(const fs::path& folder, int depth, bool (*wanted)(const std::string&)) {
  const std::vector<Entry> entries = entries_of(folder, most_entries);
  return std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.is_folder ? depth > 0 && !is_system_folder(entry.name) && holds(folder / entry.name, depth - 1, wanted)
                           : wanted(entry.name);
  });
}

// The entries of a split that are not used; kind_of gives "" for a file that does not matter.
template <typename KindOf>
void add_unused(const std::string& folder, Split split, const SplitOf& split_of, const std::vector<std::string>& used,
                const KindOf& kind_of, bool (*wanted)(const std::string&), int depth, UnusedFiles& unused) {
  for (const Entry& entry : entries_of(folder, SIZE_MAX)) {
    if (split_of(entry.name) != split || std::find(used.begin(), used.end(), entry.name) != used.end()) continue;
    std::string kind;
    if (!entry.is_folder) {
      kind = kind_of(entry.name);
    } else if (!is_system_folder(entry.name) && holds(fs::path(folder) / entry.name, depth, wanted)) {
      kind = "folder " + entry.name;
    }
    if (!kind.empty()) unused.add(kind, (fs::path(folder) / entry.name).string());
  }
}

}  // namespace

SplitOf split_by_name(bool has_train, bool has_test) {
  return [has_train, has_test](const std::string& name) {
    constexpr std::array<const char*, 4> of_test = {"val", "test", "eval", "dev"};
    const std::string small = lower(name);
    const bool is_test =
        std::any_of(of_test.begin(), of_test.end(), [&](const char* start) { return small.starts_with(start); });
    return has_test && (is_test || !has_train) ? Split::test : Split::train;
  };
}

void add_unused_shards(const std::string& location, Split split, const SplitOf& split_of,
                       const std::vector<std::string>& used, UnusedFiles& unused) {
  const auto kind_of = [](const std::string& name) {
    if (is_image(name)) return kind_of_file(name) + " beside the shards";
    const std::string end = end_of_shard(name);
    return end == ".tar" ? ".tar called neither train-* nor val-*" : end;
  };
  add_unused(location, split, split_of, used, kind_of, is_shard, 0, unused);
}

void add_unused_images(const std::string& root, Split split, const SplitOf& split_of,
                       const std::vector<std::string>& used, UnusedFiles& unused) {
  const auto kind_of = [&](const std::string& name) {
    return is_image(name) ? fmt::format("{} beside {}/", kind_of_file(name), used.front()) : "";
  };
  add_unused(root, split, split_of, used, kind_of, is_image, 1, unused);
}

}  // namespace luq
