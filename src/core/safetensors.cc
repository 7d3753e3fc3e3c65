// Reading and writing safetensors files.
//
// Layout: u64 n (little-endian), n bytes of JSON {"<name>": {"dtype", "shape", "data_offsets": [begin, end)}, ...,
// "__metadata__": {string: string}}, then the bytes the offsets point into. A file is accepted only when the tensors
// cover those bytes exactly, without holes or overlaps, so that nothing unseen hides in it.
//
// Reading trusts nothing: every number is checked against the size of the file before memory is asked for.
#include "luq/core/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/shell.h"
#include "luq/core/shipped.h"
#include "luq/core/text.h"
#include "luq/core/text_file.h"

namespace luq {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are read as they are");

using Json = nlohmann::json;

constexpr uint64_t max_header_bytes = 100'000'000;  // the limit of the format's own library
constexpr const char* metadata_key = "__metadata__";

class FileDescriptor {
 public:
  explicit FileDescriptor(int value) : value_(value) {}
  ~FileDescriptor() {
    if (value_ >= 0) ::close(value_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

// ---- Reading --------------------------------------------------------------------------------------------------------

struct StoredType {
  const char* name;
  DType loaded;
  uint64_t bytes;
};
constexpr StoredType stored_types[] = {
    {"F32", DType::float32, 4}, {"U8", DType::uint8, 1},     {"I32", DType::int32, 4},   {"I64", DType::int64, 8},
    {"F16", DType::float32, 2}, {"BF16", DType::float32, 2}, {"F64", DType::float32, 8},
};

struct Entry {
  std::string name;
  const StoredType* type = nullptr;
  Shape shape;
  uint64_t begin = 0, end = 0;  // in the bytes after the header
};

void read_bytes(const FileDescriptor& descriptor, const std::string& file, uint64_t offset, void* bytes,
                uint64_t count) {
  auto* out = static_cast<char*>(bytes);
  while (count > 0) {
    const ssize_t got = ::pread(descriptor.get(), out, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("[safetensors] {}: cannot be read: {}", file, std::strerror(errno));
    if (got == 0) fail_user("[safetensors] {}: truncated at byte {} while it was read", file, offset);
    out += got;
    offset += static_cast<uint64_t>(got);
    count -= static_cast<uint64_t>(got);
  }
}

// The parsed header; refuses names that stand twice in one object, of which the parser would keep the last.
Json parse_header(const std::string& header, const std::string& file) {
  std::vector<std::set<std::string>> keys;  // by depth
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    const auto level = static_cast<size_t>(depth);
    if (level > 3) fail_user("[safetensors] {}: the header's JSON is nested deeper than the format allows", file);
    if (keys.size() < level + 2) keys.resize(level + 2);
    if (event == Json::parse_event_t::object_start) keys[level + 1].clear();
    if (event == Json::parse_event_t::key && !keys[level].insert(parsed.get<std::string>()).second) {
      fail_user("[safetensors] {}: the name '{}' stands twice in the header", file, parsed.get<std::string>());
    }
    return true;
  };
  try {
    return Json::parse(header, check);
  } catch (const Json::exception& error) {
    fail_user("[safetensors] {}: the header is not JSON ({})", file, error.what());
  }
}

Entry parse_entry(const std::string& name, const Json& value, const std::string& file) {
  const auto where = [&] { return fmt::format("[safetensors] {}: tensor '{}'", file, name); };
  if (!value.is_object()) fail_user("{}: expected an object with dtype, shape and data_offsets", where());
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) fail_user("{}: '{}' is missing", where(), key);
  }
  if (value.size() != 3) fail_user("{}: holds other keys than dtype, shape and data_offsets", where());

  Entry entry;
  entry.name = name;
  const Json& dtype = value["dtype"];
  for (const StoredType& type : stored_types) {
    if (dtype == type.name) entry.type = &type;
  }
  if (entry.type == nullptr) {
    fail_user("{}: expected dtype F32, F16, BF16, F64, U8, I32 or I64, got {}", where(),
              dtype.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  const auto unsigned_list = [&](const char* key) {
    const Json& list = value[key];
    std::vector<int64_t> numbers;
    bool valid = list.is_array();
    for (size_t i = 0; valid && i < list.size(); ++i) {
      valid = list[i].is_number_unsigned() && list[i].get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
      if (valid) numbers.push_back(list[i].get<int64_t>());
    }
    if (!valid) fail_user("{}: expected a list of whole numbers, zero or more, as {}", where(), key);
    return numbers;
  };
  const std::vector<int64_t> extents = unsigned_list("shape");
  const std::vector<int64_t> offsets = unsigned_list("data_offsets");
  int64_t bytes = static_cast<int64_t>(entry.type->bytes);
  for (const int64_t extent : extents) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      fail_user("{}: the shape {} overflows", where(), value["shape"].dump());
    }
  }
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fail_user("{}: expected data_offsets [begin, end], got {}", where(), value["data_offsets"].dump());
  }
  if (offsets[1] - offsets[0] != bytes) {
    fail_user("{}: shape {} of {} needs {} bytes, data_offsets hold {}", where(), value["shape"].dump(),
              entry.type->name, bytes, offsets[1] - offsets[0]);
  }
  entry.shape = Shape(extents);
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  return entry;
}

std::map<std::string, std::string> parse_metadata(const Json& value, const std::string& file) {
  std::map<std::string, std::string> metadata;
  bool valid = value.is_object();
  if (valid) {
    for (const auto& [key, text] : value.items()) {
      valid = valid && text.is_string();
      if (valid) metadata[key] = text.get<std::string>();
    }
  }
  if (!valid) fail_user("[safetensors] {}: expected strings by name as {}", file, metadata_key);
  return metadata;
}

// The tensors must follow one another from the first data byte to the last.
void check_cover(std::vector<Entry>& entries, uint64_t data_bytes, const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.end > data_bytes) {
      fail_user("[safetensors] {}: truncated: tensor '{}' ends at data byte {}, the file holds {}", file, entry.name,
                entry.end, data_bytes);
    }
    if (entry.begin != position) {
      fail_user("[safetensors] {}: tensor '{}' begins at data byte {}, expected {}: the tensors {}", file, entry.name,
                entry.begin, position, entry.begin < position ? "overlap" : "leave a hole");
    }
    position = entry.end;
  }
  if (position != data_bytes) {
    fail_user("[safetensors] {}: {} bytes after the last tensor", file, data_bytes - position);
  }
}

// Exact for every F16 value, subnormals, infinities and NaN included.
float from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude < 0x0400u) {
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  const uint32_t exponent_offset = magnitude >= 0x7c00u ? 224u : 112u;  // Inf and NaN keep an all-ones exponent
  return std::bit_cast<float>(sign | ((magnitude << 13) + (exponent_offset << 23)));
}

template <typename Stored, typename Convert>
void convert_values(const std::vector<char>& bytes, Tensor& tensor, Convert convert) {
  float* out = tensor.data<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + static_cast<size_t>(i) * sizeof(Stored), sizeof(Stored));
    out[i] = convert(stored);
  }
}

Tensor read_tensor(const FileDescriptor& descriptor, const std::string& file, uint64_t data_start, const Entry& entry) {
  Tensor tensor = Tensor::empty(entry.shape, entry.type->loaded);
  const uint64_t count = entry.end - entry.begin;
  if (entry.type->bytes == static_cast<uint64_t>(size_of(entry.type->loaded))) {
    read_bytes(descriptor, file, data_start + entry.begin, tensor.raw(), count);
    return tensor;
  }
  std::vector<char> bytes(count);
  read_bytes(descriptor, file, data_start + entry.begin, bytes.data(), count);
  const std::string_view type = entry.type->name;
  if (type == "F16") {
    convert_values<uint16_t>(bytes, tensor, from_half);
  } else if (type == "BF16") {
    convert_values<uint16_t>(bytes, tensor,
                             [](uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); });
  } else {
    convert_values<double>(bytes, tensor, [](double value) { return static_cast<float>(value); });
  }
  return tensor;
}

// A zip archive with a member data.pkl, or called as PyTorch calls its own; or a pickle of protocol 2 or later.
bool is_pytorch_file(const FileDescriptor& descriptor, const std::string& file, uint64_t file_bytes,
                     const std::string& beginning) {
  if (beginning.starts_with("PK\x03\x04")) {
    // Names of members stand at the end of an archive, each as it is.
    std::string end(std::min<uint64_t>(file_bytes, 1 << 16), '\0');
    read_bytes(descriptor, file, file_bytes - end.size(), end.data(), end.size());
    const auto is_called = [&file](const char* ending) { return file.ends_with(ending); };
    return beginning.find("data.pkl") != std::string::npos || end.find("data.pkl") != std::string::npos ||
           is_called(".pth") || is_called(".pt");  // broken off, perhaps
  }
  return beginning.size() > 1 && beginning[0] == '\x80' && beginning[1] >= 2 && beginning[1] <= 5;
}

[[noreturn]] void refuse_folder(const std::string& folder) {
  for (const char* name :
       {"checkpoints/best.safetensors", "checkpoints/last.safetensors", "best.safetensors", "last.safetensors"}) {
    const std::string inside = folder + (folder.ends_with('/') ? "" : "/") + name;
    if (::access(inside.c_str(), F_OK) == 0) {
      fail_user("[safetensors] {}: expected a file, got a folder; {} is in it", folder, shell_path(inside));
    }
  }
  fail_user("[safetensors] {}: expected a file, got a folder", folder);
}

// What there is to say of a file that cannot be one of safetensors; nothing where it might have been.
void refuse_other_kind(const FileDescriptor& descriptor, const std::string& file, uint64_t file_bytes) {
  std::string beginning(std::min<uint64_t>(file_bytes, 512), '\0');
  read_bytes(descriptor, file, 0, beginning.data(), beginning.size());
  if (is_pytorch_file(descriptor, file, file_bytes, beginning)) {
    fail_user("[safetensors] {}: is a PyTorch file, not safetensors; convert it with\n  {}", file,
              pytorch_conversion_command(file));
  }
  if (beginning.starts_with("version https://git-lfs")) {
    fail_user("[safetensors] {}: expected a safetensors file, got a pointer of git-lfs to it; git lfs pull fetches it",
              file);
  }
  const std::string kind = kind_of_file(beginning);
  if (!kind.empty() && !kind.starts_with("a safetensors")) {
    fail_user("[safetensors] {}: expected a safetensors file, got {}", file, kind);
  }
  const bool is_text = std::ranges::all_of(
      beginning, [](char c) { return static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\r' || c == '\t'; });
  if (is_text && is_utf8(beginning.substr(0, beginning.find_last_of('\n')))) {
    fail_user("[safetensors] {}: expected a safetensors file, got a text file{}", file,
              file.ends_with(".yaml") || file.ends_with(".yml") ? " (an experiment is given with --config)" : "");
  }
}

// ---- Writing --------------------------------------------------------------------------------------------------------

const char* stored_name(DType dtype) {
  for (const StoredType& type : stored_types) {
    if (type.loaded == dtype) return type.name;
  }
  return nullptr;
}

// Largest elements first, so that each tensor is aligned to its element size; otherwise as given.
std::vector<const std::pair<std::string, Tensor>*> storage_order(const SafeTensors& content) {
  std::vector<const std::pair<std::string, Tensor>*> order;
  for (const auto& named : content.tensors) order.push_back(&named);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype()) > size_of(b->second.dtype());
  });
  return order;
}

std::string make_header(const SafeTensors& content, const std::string& file) {
  std::string header = "{";
  try {
    if (!content.metadata.empty()) header += fmt::format("\"{}\":{}", metadata_key, Json(content.metadata).dump());
    std::set<std::string> names{metadata_key};
    int64_t position = 0;
    for (const auto* named : storage_order(content)) {
      const auto& [name, tensor] = *named;
      if (!tensor.defined()) fail("[safetensors] {}: tensor '{}' is undefined", file, name);
      if (!names.insert(name).second) fail("[safetensors] {}: the tensor name '{}' is taken", file, name);
      Json entry;
      entry["dtype"] = stored_name(tensor.dtype());
      entry["shape"] = Json::array();
      for (const int64_t extent : tensor.shape()) entry["shape"].push_back(extent);
      entry["data_offsets"] = {position, position + tensor.bytes()};
      position += tensor.bytes();
      if (header.size() > 1) header += ',';
      header += Json(name).dump() + ":" + entry.dump();
    }
  } catch (const Json::exception& error) {
    fail("[safetensors] {}: names and metadata must be UTF-8 ({})", file, error.what());
  }
  header += '}';
  if (header.size() > max_header_bytes) {
    fail("[safetensors] {}: names and metadata have {} bytes, more than the {} that can be read again", file,
         header.size(), max_header_bytes);
  }
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

}  // namespace

const Tensor* SafeTensors::find(const std::string& name) const {
  for (const auto& [candidate, tensor] : tensors) {
    if (candidate == name) return &tensor;
  }
  return nullptr;
}

SafeTensors load_safetensors(const std::string& file) {
  const FileDescriptor descriptor(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (descriptor.get() < 0 || ::fstat(descriptor.get(), &status) != 0) {
    fail_user("[safetensors] {}: cannot be opened: {}", file, std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) refuse_folder(file);
  if (!S_ISREG(status.st_mode)) fail_user("[safetensors] {}: is not a regular file", file);
  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  uint64_t header_bytes = 0;
  if (file_bytes == 0) fail_user("[safetensors] {}: is empty, as a file is that was truncated", file);
  if (file_bytes < sizeof(header_bytes)) {
    fail_user(
        "[safetensors] {}: is truncated, or no safetensors file: {} bytes are less than the header's length takes",
        file, file_bytes);
  }
  read_bytes(descriptor, file, 0, &header_bytes, sizeof(header_bytes));
  if (header_bytes > max_header_bytes || header_bytes > file_bytes - sizeof(header_bytes)) {
    refuse_other_kind(descriptor, file, file_bytes);
    fail_user("[safetensors] {}: {}: its first bytes say that the header has {} bytes, and the file has {}", file,
              header_bytes > max_header_bytes
                  ? "is no safetensors file, or one that is truncated or damaged at its beginning"
                  : "is truncated, or no safetensors file",
              header_bytes, file_bytes);
  }
  std::string header(header_bytes, '\0');
  read_bytes(descriptor, file, sizeof(header_bytes), header.data(), header_bytes);
  const uint64_t data_start = sizeof(header_bytes) + header_bytes;

  const Json parsed = parse_header(header, file);
  if (!parsed.is_object()) fail_user("[safetensors] {}: the header is not a JSON object", file);
  SafeTensors content;
  std::vector<Entry> entries;
  for (const auto& [name, value] : parsed.items()) {
    if (name == metadata_key) {
      content.metadata = parse_metadata(value, file);
    } else {
      entries.push_back(parse_entry(name, value, file));
    }
  }
  check_cover(entries, file_bytes - data_start, file);
  content.tensors.reserve(entries.size());
  for (const Entry& entry : entries) {
    content.tensors.emplace_back(entry.name, read_tensor(descriptor, file, data_start, entry));
  }
  return content;
}

uint64_t save_safetensors(const std::string& file, const SafeTensors& content) {
  const std::string header = make_header(content, file);
  const uint64_t length = header.size();
  uint64_t bytes = sizeof(length) + length;
  OutputFile out("safetensors", file);
  out.write(&length, sizeof(length));
  out.write(header.data(), header.size());
  for (const auto* named : storage_order(content)) {
    out.write(named->second.raw(), static_cast<size_t>(named->second.bytes()));
    bytes += static_cast<uint64_t>(named->second.bytes());
  }
  out.finish();
  return bytes;
}

}  // namespace luq
