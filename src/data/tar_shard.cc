#include "src/data/tar_shard.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "src/core/no_memory.h"
#include "src/data/image_names.h"
#include "src/data/whole_file.h"

namespace luq {
namespace {

using Json = nlohmann::json;

constexpr uint64_t max_image_bytes = uint64_t{1} << 30;
constexpr uint64_t max_label_bytes = uint64_t{1} << 20;
constexpr size_t block = 512;     // of tar
constexpr int index_version = 2;  // 1 had no checksum of its own

// ---- Bytes of a shard
// ------------------------------------------------------------------------------------------------

class Source {
 public:
  explicit Source(std::string name) : name_(std::move(name)) {}
  virtual ~Source() = default;
  const std::string& name() const { return name_; }
  virtual uint64_t size() const = 0;
  // Bytes put into out; fewer than asked for at the end only.
  virtual size_t read_at(uint64_t offset, std::span<uint8_t> out) const = 0;
  [[noreturn]] void refuse(const std::string& problem) const { fail_user("[data] {}: {}", name_, problem); }

 private:
  std::string name_;
};

class MemorySource : public Source {
 public:
  MemorySource(std::span<const uint8_t> bytes, const std::string& name) : Source(name), bytes_(bytes) {}
  uint64_t size() const override { return bytes_.size(); }
  size_t read_at(uint64_t offset, std::span<uint8_t> out) const override {
    const size_t count = std::min<uint64_t>(out.size(), bytes_.size() - std::min<uint64_t>(offset, bytes_.size()));
    if (count > 0) std::memcpy(out.data(), bytes_.data() + offset, count);
    return count;
  }

 private:
  std::span<const uint8_t> bytes_;
};

class FileSource : public Source {
 public:
  explicit FileSource(const std::string& file) : Source(file), file_(file) {
    if (!file_.regular()) refuse("is not a file");
  }
  uint64_t size() const override { return file_.size(); }
  size_t read_at(uint64_t offset, std::span<uint8_t> out) const override { return file_.read_at(offset, out); }

 private:
  RandomAccessFile file_;
};

constexpr std::string_view index_start = "{\"checksum\":";

uint32_t checksum_of(const std::string& text) {
  return static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
}

uint32_t checksum_of(const Source& source) {
  constexpr uint64_t blocks = 16, bytes = 4096;
  std::vector<uint8_t> buffer(bytes);
  uint32_t checksum = 0;
  const uint64_t last = source.size() > bytes ? source.size() - bytes : 0;
  for (uint64_t i = 0; i < blocks; ++i) {
    const size_t count = source.read_at(last * i / (blocks - 1), buffer);
    checksum = static_cast<uint32_t>(crc32(checksum, buffer.data(), static_cast<uInt>(count)));
  }
  return checksum;
}

// ---- libarchive
// ------------------------------------------------------------------------------------------------------

class TarReader {
 public:
  explicit TarReader(const Source& source) : source_(source), archive_(archive_read_new(), archive_read_free) {
    if (archive_ == nullptr) fail_out_of_memory(fmt::format("[data] {} is read:", source.name()));
    archive_read_support_format_tar(archive_.get());
    archive_read_set_options(archive_.get(), "read_concatenated_archives");
    archive_read_set_read_callback(archive_.get(), read);
    archive_read_set_skip_callback(archive_.get(), skip);
    archive_read_set_callback_data(archive_.get(), this);
    if (archive_read_open1(archive_.get()) != ARCHIVE_OK) refuse();
  }

  // The next entry that is a file, or null at the end.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int code = archive_read_next_header(archive_.get(), &entry);
    if (code == ARCHIVE_EOF) return nullptr;
    if (code != ARCHIVE_OK && code != ARCHIVE_WARN) refuse();
    return entry;
  }
  // Of the entry's first byte.
  uint64_t data_offset() const { return static_cast<uint64_t>(archive_filter_bytes(archive_.get(), 0)); }
  std::string read_data(uint64_t size) {
    std::string data(size, '\0');
    const la_ssize_t got = archive_read_data(archive_.get(), data.data(), data.size());
    if (got < 0 || static_cast<uint64_t>(got) != size) refuse();
    return data;
  }

 private:
  [[noreturn]] void refuse() const {
    if (read_error_) std::rethrow_exception(read_error_);
    if (archive_errno(archive_.get()) == ENOMEM) fail_out_of_memory(fmt::format("[data] {} is read:", source_.name()));
    const char* text = archive_error_string(archive_.get());
    source_.refuse(fmt::format("is no whole tar file: {}", text != nullptr ? text : "unexpected end"));
  }
  static la_ssize_t read(archive*, void* self, const void** out) {
    auto& reader = *static_cast<TarReader*>(self);
    try {
      const size_t count = reader.source_.read_at(reader.position_, reader.buffer_);
      reader.position_ += count;
      *out = reader.buffer_.data();
      return static_cast<la_ssize_t>(count);
    } catch (...) {  // nothing may be thrown through libarchive
      reader.read_error_ = std::current_exception();
      return ARCHIVE_FATAL;
    }
  }
  static la_int64_t skip(archive*, void* self, la_int64_t request) {
    auto& reader = *static_cast<TarReader*>(self);
    const uint64_t count = std::min(static_cast<uint64_t>(request), reader.source_.size() - reader.position_);
    reader.position_ += count;
    return static_cast<la_int64_t>(count);
  }

  const Source& source_;
  std::vector<uint8_t> buffer_ = std::vector<uint8_t>(1 << 16);
  uint64_t position_ = 0;
  std::exception_ptr read_error_;
  std::unique_ptr<archive, decltype(&archive_read_free)> archive_;
};

std::string entry_name(archive_entry* entry, const Source& source) {
  for (const char* name : {archive_entry_pathname(entry), archive_entry_pathname_utf8(entry)}) {
    if (name != nullptr) return name;
  }
  source.refuse("holds a file whose name is not UTF-8");
}

void check_container(const Source& source) {
  std::vector<uint8_t> first(6);
  const size_t count = source.read_at(0, first);
  const std::string_view magic(reinterpret_cast<const char*>(first.data()), count);
  using std::string_view_literals::operator""sv;
  for (const auto& [bytes, program] : {std::pair{"\x1f\x8b"sv, "gunzip"},
                                       {"\x28\xb5\x2f\xfd"sv, "unzstd"},
                                       {"\xfd\x37zXZ\0"sv, "unxz"},
                                       {"BZh"sv, "bunzip2"}}) {
    if (magic.substr(0, bytes.size()) == bytes) {
      source.refuse(fmt::format("is compressed, and images are read at their offsets: unpack it with {}", program));
    }
  }
  std::vector<uint8_t> last(block);
  const bool whole = source.size() >= block && source.read_at(source.size() - block, last) == block &&
                     std::all_of(last.begin(), last.end(), [](uint8_t byte) { return byte == 0; });
  if (!whole)
    source.refuse(fmt::format("is no whole tar file: its {} bytes do not end with an empty block", source.size()));
}

// ---- Grouping
// --------------------------------------------------------------------------------------------------------

struct Sample {
  std::string key;
  std::optional<ShardImage> image;
  std::optional<std::string> cls, json;  // contents
  std::vector<std::string> others;       // extensions that are passed over
};

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

// Of a format that others read.
bool is_unread_image(const std::string& extension) {
  constexpr std::array<std::string_view, 15> known = {".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".jxr", ".exr",
                                                      ".hdr",  ".pam",  ".pfm",  ".psd", ".tga", ".ico", ".dib"};
  return std::ranges::find(known, extension) != known.end();
}

class Grouping {
 public:
  Grouping(const Source& source, ShardIndex& index) : source_(source), index_(index) {}

  void add(TarReader& tar, archive_entry* entry) {
    if (archive_entry_filetype(entry) == AE_IFDIR) return;
    const std::string name = entry_name(entry, source_);
    const size_t begin = name.rfind('/') + 1, dot = name.find('.', begin);
    // As WebDataset: what has no name before its first dot, or no dot, belongs to no sample.
    if (dot == begin || dot == std::string::npos) {
      index_.unused.add(kind_of_file(name), name);
      return;
    }
    const std::string key = name.substr(0, dot);
    if (key != sample_.key) {
      finish();
      sample_.key = key;
    }
    const std::string extension = lower(name.substr(dot));
    const bool one_dot = name.rfind('.') == dot, is_image = one_dot && has_image_extension(name);
    if (!is_image && extension != ".cls" && extension != ".json") {
      const bool divided = !one_dot && (has_image_extension(name) || lower(name).ends_with(".cls"));
      index_.unused.add(kind_of_file(name) + (divided ? " with two dots" : ""), name);
      sample_.others.push_back(extension);
      return;
    }

    if (archive_entry_hardlink(entry) != nullptr || archive_entry_filetype(entry) != AE_IFREG) {
      source_.refuse(fmt::format("{}: is a link or something else that is no file; pack files only", name));
    }
    if (archive_entry_sparse_count(entry) > 0) source_.refuse(fmt::format("{}: is stored as a sparse file", name));
    const auto size = static_cast<uint64_t>(archive_entry_size(entry));
    const uint64_t limit = is_image ? max_image_bytes : max_label_bytes;
    if (size > limit) source_.refuse(fmt::format("{}: expected at most {} bytes, got {}", name, limit, size));
    if (is_image) {
      if (sample_.image) {
        source_.refuse(fmt::format("{}: the second image of sample '{}', after {}", name, key, sample_.image->name));
      }
      sample_.image = ShardImage{name, tar.data_offset(), size, 0};
      return;
    }
    std::optional<std::string>& label = extension == ".cls" ? sample_.cls : sample_.json;
    if (label) source_.refuse(fmt::format("{}: the second {} of sample '{}'", name, extension, key));
    label = tar.read_data(size);
  }

  void finish() {
    const Sample sample = std::exchange(sample_, Sample());
    const std::string others =
        sample.others.empty() ? "" : fmt::format("; beside it are {}", fmt::join(sample.others, ", "));
    if (!sample.image) {
      if (sample.cls && std::ranges::any_of(sample.others, is_unread_image)) {
        index_.unused.add(".cls without an image that is read", sample.key + ".cls");
        return;
      }
      if (sample.cls) {
        source_.refuse(
            fmt::format("sample '{}' has a label (.cls) and no image {}{}", sample.key, image_extensions, others));
      }
      if (sample.json) index_.unused.add(".json without an image", sample.key + ".json");
      return;
    }
    if (!sample.cls && !sample.json) {
      source_.refuse(
          fmt::format("sample '{}' has an image and no label (.cls or .json right beside it){}", sample.key, others));
    }
    if (sample.cls && sample.json) index_.unused.add(".json beside .cls", sample.key + ".json");
    const std::optional<int32_t> label = sample.cls ? parse_cls_label(*sample.cls) : parse_json_label(*sample.json);
    if (!label) {
      source_.refuse(fmt::format(
          "sample '{}': expected {}", sample.key,
          sample.cls ? "a class's number, 0 or more, in .cls"
                     : "an object with a class's number, 0 or more, once as \"label\" or \"cls\" in .json"));
    }
    if (*label >= max_classes) {
      source_.refuse(fmt::format("{}: expected a label in 0..{}, got {}", sample.image->name, max_classes - 1, *label));
    }
    index_.images.push_back(*sample.image);
    index_.images.back().label = *label;
  }

 private:
  const Source& source_;
  ShardIndex& index_;
  Sample sample_;
};

ShardIndex scan(const Source& source) {
  check_container(source);
  ShardIndex index;
  index.shard_bytes = source.size();
  index.shard_checksum = checksum_of(source);
  TarReader tar(source);
  Grouping grouping(source, index);
  while (archive_entry* entry = tar.next()) grouping.add(tar, entry);
  grouping.finish();
  if (index.images.empty()) {
    const std::string unused = index.unused.to_text();
    source.refuse(fmt::format(
        "holds no image {} with a label (.cls or .json){}{}", image_extensions, unused.empty() ? "" : "; " + unused,
        unused.find("two dots") != std::string::npos ? " (a sample's name ends at the first dot of its files' names)"
                                                     : ""));
  }
  return index;
}

bool is_older(const std::string& file, const std::string& than) {
  std::error_code error;
  const auto time = std::filesystem::last_write_time(file, error);
  return error || time < std::filesystem::last_write_time(than);
}

// Best effort: without an index file the next start scans again.
void keep_index(const std::string& file, const ShardIndex& index) {
  try {
    write_output("data", file, to_json(index));
  } catch (const Error&) {
  }
}

}  // namespace

std::optional<int32_t> parse_cls_label(const std::string& text) {
  const size_t mark = text.starts_with("\xef\xbb\xbf") ? 3 : 0;  // of Windows' editors
  const size_t begin = text.find_first_not_of(" \t\r\n", mark), end = text.find_last_not_of(" \t\r\n");
  if (begin == std::string::npos) return std::nullopt;
  int32_t label = 0;
  const auto [stop, error] = std::from_chars(text.data() + begin, text.data() + end + 1, label);
  if (error != std::errc() || stop != text.data() + end + 1 || label < 0) return std::nullopt;
  return label;
}

std::optional<int32_t> parse_json_label(const std::string& text) {
  std::map<std::string, int> times;
  const auto count = [&](int depth, Json::parse_event_t event, const Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) ++times[parsed.get<std::string>()];
    return true;
  };
  const Json json = Json::parse(text, count, false);
  if (!json.is_object() || times["label"] > 1 || times["cls"] > 1) return std::nullopt;
  for (const char* key : {"label", "cls"}) {
    const auto found = json.find(key);
    if (found == json.end()) continue;
    if (!found->is_number_unsigned() || found->get<uint64_t>() > INT32_MAX) return std::nullopt;
    return static_cast<int32_t>(found->get<uint64_t>());
  }
  return std::nullopt;
}

ShardIndex scan_shard(std::span<const uint8_t> bytes, const std::string& shard) {
  return scan(MemorySource(bytes, shard));
}

ShardIndex scan_shard(const std::string& shard) { return scan(FileSource(shard)); }

std::string shard_index_file(const std::string& shard) { return shard + ".index.json"; }

std::string to_json(const ShardIndex& index) {
  constexpr size_t most_names = 3;  // of what is passed over
  Json names = Json::array(), offsets = Json::array(), sizes = Json::array(), labels = Json::array();
  for (const ShardImage& image : index.images) {
    names.push_back(image.name);
    offsets.push_back(image.offset);
    sizes.push_back(image.size);
    labels.push_back(image.label);
  }
  nlohmann::ordered_json json;
  json["version"] = index_version;
  json["shard_bytes"] = index.shard_bytes;
  json["shard_checksum"] = index.shard_checksum;
  json["offsets"] = offsets;
  json["sizes"] = sizes;
  json["labels"] = labels;
  json["names"] = names;
  nlohmann::ordered_json unused = nlohmann::ordered_json::object();
  for (const auto& [kind, of_kind] : index.unused.kinds) {
    const auto end = of_kind.names.begin() + static_cast<int64_t>(std::min(most_names, of_kind.names.size()));
    unused[kind] = {{"count", of_kind.count}, {"first", std::vector<std::string>(of_kind.names.begin(), end)}};
  }
  json["unused"] = unused;
  const std::string body = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return fmt::format("{}{},{}\n", index_start, checksum_of(body), body.substr(1));
}

bool parse_shard_index(const std::string& text, ShardIndex& index) {
  if (!text.starts_with(index_start) || !text.ends_with('\n')) return false;
  const size_t comma = text.find(',');
  uint32_t checksum = 0;
  const auto [end, error] = std::from_chars(text.data() + index_start.size(), text.data() + text.size(), checksum);
  if (comma == std::string::npos || error != std::errc() || end != text.data() + comma) return false;
  if (checksum != checksum_of("{" + text.substr(comma + 1, text.size() - comma - 2))) return false;
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || json.value("version", Json()) != index_version) return false;
  const auto number = [](const Json& value, uint64_t limit) {
    return value.is_number_unsigned() && value.get<uint64_t>() <= limit;
  };
  for (const char* key : {"shard_bytes", "shard_checksum", "offsets", "sizes", "labels", "names", "unused"}) {
    if (!json.contains(key)) return false;
  }
  const Json &offsets = json["offsets"], &sizes = json["sizes"], &labels = json["labels"], &names = json["names"];
  if (!number(json["shard_bytes"], UINT64_MAX) || !number(json["shard_checksum"], UINT32_MAX) || !names.is_array() ||
      names.empty()) {
    return false;
  }
  for (const Json* list : {&offsets, &sizes, &labels}) {
    if (!list->is_array() || list->size() != names.size()) return false;
  }
  ShardIndex read;
  read.shard_bytes = json["shard_bytes"].get<uint64_t>();
  read.shard_checksum = json["shard_checksum"].get<uint32_t>();
  read.images.reserve(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    if (!names[i].is_string() || !number(labels[i], max_classes - 1) ||
        !number(sizes[i], std::min(read.shard_bytes, max_image_bytes)) ||
        !number(offsets[i], read.shard_bytes - sizes[i].get<uint64_t>())) {
      return false;
    }
    read.images.push_back(
        {names[i].get<std::string>(), offsets[i].get<uint64_t>(), sizes[i].get<uint64_t>(), labels[i].get<int32_t>()});
  }
  if (!json["unused"].is_object()) return false;
  for (const auto& [kind, value] : json["unused"].items()) {
    const Json count = value.is_object() ? value.value("count", Json()) : Json();
    const Json first = value.is_object() ? value.value("first", Json()) : Json();
    if (!number(count, INT64_MAX) || !first.is_array()) return false;
    UnusedFiles::Kind of_kind{.count = count.get<int64_t>(), .names = {}};
    for (const Json& name : first) {
      if (!name.is_string()) return false;
      of_kind.names.push_back(name.get<std::string>());
    }
    read.unused.kinds[kind] = std::move(of_kind);
  }
  index = std::move(read);
  return true;
}

bool is_old_shard_index(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  return json.is_object() && json.value("version", Json()) == 1 && !json.contains("checksum");
}

ShardIndex load_shard_index(const std::string& shard) {
  const FileSource source(shard);
  const std::string file = shard_index_file(shard);
  ShardIndex index;
  std::string note;
  std::error_code missing;
  if (std::filesystem::exists(file, missing) && !is_older(file, shard)) {
    std::vector<uint8_t> bytes;
    try {
      read_whole_file(file, bytes);
      const std::string text(bytes.begin(), bytes.end());
      if (parse_shard_index(text, index)) {
        if (index.shard_bytes == source.size() && index.shard_checksum == checksum_of(source)) return index;
      } else if (!is_old_shard_index(text)) {
        note = file + " was damaged (its checksum does not fit); it is made anew from the shard";
      }
    } catch (const OutOfMemory&) {
      throw;
    } catch (const Error& error) {
      note = fmt::format("{}; it is made anew from the shard", error.what());
    }
  }
  index = scan(source);
  index.note = note;
  keep_index(file, index);
  return index;
}

}  // namespace luq
