#include "luq/core/safetensors.h"

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <random>

#include "luq/core/error.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

std::string with_length(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// The message with which loading these bytes is refused; fails the test when they are accepted.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  const std::string file = folder / "bad.safetensors";
  write_file(file, bytes);
  try {
    load_safetensors(file);
  } catch (const UserError& error) {
    CHECK_THAT(error.what(), contains_text(file));
    return error.what();
  }
  FAIL("accepted: " << bytes);
  return "";
}

SafeTensors example() {
  SafeTensors content;
  const float weights[] = {1.5f, -2.0f, 0.0f, 3.25f, -0.125f, 1e-40f};
  const uint8_t codes[] = {1, 2, 255};
  const int32_t labels[] = {-5, 7};
  const int64_t step[] = {1LL << 40};
  content.tensors.emplace_back("codes", Tensor::from(Shape{3}, codes));
  content.tensors.emplace_back("conv1.weight", Tensor::from(Shape{2, 3}, weights));
  content.tensors.emplace_back("labels", Tensor::from(Shape{2}, labels));
  content.tensors.emplace_back("step", Tensor::from(Shape{}, step));
  content.tensors.emplace_back("nothing", Tensor::empty(Shape{0, 4}));
  content.metadata = {{"config", "model:\n  name: \"r\xc3\xa9s\"\n"}, {"format", "luqtrain"}};
  return content;
}

}  // namespace

TEST_CASE("safetensors: what is saved is loaded", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string file = folder / "a.safetensors";
  const SafeTensors saved = example();
  save_safetensors(file, saved);
  const SafeTensors loaded = load_safetensors(file);
  CHECK(loaded.metadata == saved.metadata);
  REQUIRE(loaded.tensors.size() == saved.tensors.size());
  for (const auto& [name, tensor] : saved.tensors) {
    INFO(name);
    const Tensor* found = loaded.find(name);
    REQUIRE(found != nullptr);
    CHECK(found->shape() == tensor.shape());
    REQUIRE(found->dtype() == tensor.dtype());
    CHECK((tensor.numel() == 0 || std::memcmp(found->raw(), tensor.raw(), static_cast<size_t>(tensor.bytes())) == 0));
  }
  CHECK(loaded.find("other") == nullptr);

  // The same content gives the same bytes, the header keeps the data aligned, and no temporary file is left.
  const std::string bytes = read_file(file);
  save_safetensors(file, saved);
  CHECK(read_file(file) == bytes);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);

  save_safetensors(folder / "empty.safetensors", SafeTensors{});
  CHECK(load_safetensors(folder / "empty.safetensors").tensors.empty());
}

TEST_CASE("safetensors: a file of the Python library, every dtype", "[safetensors]") {
  // safetensors.torch.save of tensors i (int64 scalar), d (float64), a (float32), b (bfloat16), h (float16), u (uint8).
  const std::string header =
      R"({"__metadata__":{"k":"v"},"i":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("d":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[16,24]},)"
      R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]},"h":{"dtype":"F16","shape":[3],"data_offsets":[26,32]},)"
      R"("u":{"dtype":"U8","shape":[3],"data_offsets":[32,35]}}      )";
  const TemporaryFolder folder;
  const std::string file = folder / "python.safetensors";
  write_file(file, with_length(header, from_hex("07000000000000009a9999999999b93f0000c03f000000c0"
                                                "4040003c00b801000102ff")));
  const SafeTensors loaded = load_safetensors(file);
  CHECK(loaded.metadata.at("k") == "v");
  CHECK(loaded.tensors.front().first == "i");
  CHECK(loaded.find("i")->data<int64_t>()[0] == 7);
  CHECK(loaded.find("i")->shape() == Shape{});
  CHECK(loaded.find("d")->data<float>()[0] == 0.1f);
  CHECK(loaded.find("a")->shape() == Shape{1, 2});
  CHECK(loaded.find("a")->data<float>()[0] == 1.5f);
  CHECK(loaded.find("a")->data<float>()[1] == -2.0f);
  CHECK(loaded.find("b")->data<float>()[0] == 3.0f);
  CHECK(loaded.find("h")->data<float>()[0] == 1.0f);
  CHECK(loaded.find("h")->data<float>()[1] == -0.5f);
  CHECK(loaded.find("h")->data<float>()[2] == 0x1p-24f);
  CHECK(loaded.find("u")->data<uint8_t>()[2] == 255);
}

TEST_CASE("safetensors: every float16 value is converted exactly", "[safetensors]") {
  std::string data;
  for (int bits = 0; bits < 65536; ++bits) {
    data += static_cast<char>(bits & 255);
    data += static_cast<char>(bits >> 8);
  }
  const TemporaryFolder folder;
  const std::string file = folder / "half.safetensors";
  write_file(file, with_length(R"({"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}})", data));
  const SafeTensors loaded = load_safetensors(file);
  const float* values = loaded.find("h")->data<float>();
  for (int bits = 0; bits < 65536; ++bits) {
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double sign = bits >= 32768 ? -1.0 : 1.0;
    const double expected = exponent == 0 ? mantissa * 0x1p-24 : (1024 + mantissa) * std::pow(2.0, exponent - 25);
    bool equal = std::signbit(values[bits]) == (sign < 0);
    if (exponent < 31) equal = equal && values[bits] == sign * expected;
    if (exponent == 31) equal = equal && (mantissa == 0 ? std::isinf(values[bits]) : std::isnan(values[bits]));
    if (!equal) FAIL("half " << bits << " became " << values[bits]);
  }
}

TEST_CASE("safetensors: what is wrong with a file is said", "[safetensors]") {
  const std::string data(8, 'x');
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return refusal(with_length(R"({"a":)" + tensor(dtype, shape, offsets) + "}", data));
  };
  const auto two = [&](const std::string& a, const std::string& b) {
    return refusal(with_length(R"({"a":)" + tensor("U8", "[4]", a) + R"(,"b":)" + tensor("U8", "[4]", b) + "}", data));
  };

  CHECK_THAT(refusal(""), contains_text("truncated"));
  CHECK_THAT(refusal("1234567"), contains_text("truncated"));
  CHECK_THAT(refusal(std::string("\x10\0\0\0\0\0\0\0{", 9)), contains_text("truncated"));
  CHECK_THAT(refusal(std::string(8, '\xff')), contains_text("truncated"));
  const std::string rest(100, '\0');
  CHECK_THAT(refusal("PK\x03\x04 arr_0.npy" + rest), contains_text("expected a safetensors file, got a zip archive"));
  CHECK_THAT(refusal("PK\x03\x04 m/data.pkl" + rest), contains_text("is a PyTorch file"));
  CHECK_THAT(refusal("PK\x03\x04" + std::string(100000, 'x') + "m/data.pkl" + rest),
             contains_text("is a PyTorch file"));
  CHECK_THAT(refusal("\x89HDF\r\n\x1a\n" + rest), contains_text("got an HDF5 file"));
  CHECK_THAT(refusal("\x08\x07\x12\x07pytorch" + rest), contains_text("got an ONNX model"));
  CHECK_THAT(refusal("<!DOCTYPE html>\n<p>\xff"), contains_text("got a web page"));
  CHECK_THAT(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), contains_text("git lfs pull"));
  CHECK_THAT(refusal(with_length("", "")), contains_text("not JSON"));
  CHECK_THAT(refusal(with_length("{\"a\":", "")), contains_text("not JSON"));
  CHECK_THAT(refusal(with_length("{\"\xff\":1}", "")), contains_text("not JSON"));
  CHECK_THAT(refusal(with_length("[]", "")), contains_text("not a JSON object"));
  CHECK_THAT(refusal(with_length("[[[[[[]]]]]]", "")), contains_text("nested"));
  CHECK_THAT(refusal(with_length(R"({"a":1})", "")), contains_text("'a'"));
  CHECK_THAT(refusal(with_length(R"({"a":{"dtype":"F32","shape":[]}})", "")),
             contains_text("'data_offsets' is missing"));
  CHECK_THAT(refusal(with_length(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", "")),
             contains_text("other keys"));
  CHECK_THAT(refusal(with_length(R"({"__metadata__":{"k":1}})", "")), contains_text("__metadata__"));
  CHECK_THAT(refusal(with_length(R"({"__metadata__":[]})", "")), contains_text("__metadata__"));

  const std::string twice = R"({"a":)" + tensor("U8", "[8]", "[0,8]") + R"(,"a":)" + tensor("U8", "[8]", "[0,8]") + "}";
  CHECK_THAT(refusal(with_length(twice, data)), contains_text("'a' stands twice"));
  CHECK_THAT(refusal(with_length(R"({"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})", data)),
             contains_text("'dtype' stands twice"));

  CHECK_THAT(one("F8_E4M3", "[8]", "[0,8]"), contains_text("expected dtype"));
  CHECK_THAT(one("U8", "[8]", "[0]"), contains_text("data_offsets"));
  CHECK_THAT(one("U8", "[8]", "[8,0]"), contains_text("data_offsets"));
  CHECK_THAT(one("U8", "[8]", "[-8,0]"), contains_text("data_offsets"));
  CHECK_THAT(one("U8", "[8]", "[0,8.0]"), contains_text("data_offsets"));
  CHECK_THAT(one("U8", "[8]", "[0,18446744073709551615]"), contains_text("data_offsets"));
  CHECK_THAT(one("U8", "[-8]", "[0,8]"), contains_text("shape"));
  CHECK_THAT(one("U8", "8", "[0,8]"), contains_text("shape"));
  CHECK_THAT(one("F32", "[3]", "[0,8]"), contains_text("needs 12 bytes"));
  CHECK_THAT(one("I64", "[4611686018427387904,4]", "[0,8]"), contains_text("overflows"));
  CHECK_THAT(one("U8", "[4294967296,4294967296]", "[0,0]"), contains_text("overflows"));
  CHECK_THAT(one("U8", "[4]", "[0,4]"), contains_text("4 bytes after the last tensor"));
  CHECK_THAT(one("U8", "[4]", "[4,8]"), contains_text("hole"));
  CHECK_THAT(one("U8", "[16]", "[0,16]"), contains_text("truncated"));
  CHECK_THAT(two("[0,4]", "[0,4]"), contains_text("overlap"));
  CHECK_THAT(two("[0,4]", "[2,6]"), contains_text("overlap"));

  const TemporaryFolder folder;
  CHECK_THROWS_AS(load_safetensors(folder / "missing"), UserError);
  CHECK_THROWS_AS(load_safetensors(folder.path.string()), UserError);
}

TEST_CASE("safetensors: truncation at every byte is refused", "[safetensors]") {
  const TemporaryFolder folder;
  save_safetensors(folder / "a", example());
  const std::string bytes = read_file(folder / "a");
  for (size_t length = 0; length < bytes.size(); ++length) refusal(bytes.substr(0, length));
  refusal(bytes + "x");
}

TEST_CASE("safetensors: mutated files are read or refused, never more", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string file = folder / "a";
  save_safetensors(file, example());
  const std::string original = read_file(file);
  const std::string alphabet = "{}[]\",:0123456789-.eFUIx\\ \xff";
  std::mt19937 random(20240601);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = original;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int e = 0; e < edits && !bytes.empty(); ++e) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = alphabet[random() % alphabet.size()];
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 32));
      }
    }
    write_file(file, bytes);
    try {
      for (const auto& [name, tensor] : load_safetensors(file).tensors) REQUIRE(tensor.bytes() <= 1000);
      ++accepted;
    } catch (const UserError&) {
      ++refused;
    }
  }
  CHECK(accepted > 0);  // changed data bytes, names, metadata
  CHECK(refused > 1000);
}

TEST_CASE("safetensors: what could not be read again is not written", "[safetensors]") {
  const TemporaryFolder folder;
  const auto complaint = [&](const SafeTensors& content) -> std::string {
    try {
      save_safetensors(folder / "a", content);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(complaint({.tensors = {}, .metadata = {{"a", std::string(100'000'000, 'x')}}}),
             contains_text("more than the 100000000 that can be read again"));
  CHECK_THAT(complaint({.tensors = {}, .metadata = {{"a", "caf\xe9"}}}), contains_text("must be UTF-8"));
  CHECK(!std::filesystem::exists(folder / "a"));
}

TEST_CASE("safetensors: a failed save leaves the old file and no temporary one", "[safetensors]") {
  const TemporaryFolder folder;
  const std::string file = folder / "a.safetensors";
  save_safetensors(file, example());
  const std::string before = read_file(file);

  SafeTensors large;
  large.tensors.emplace_back("w", Tensor::zeros(Shape{1 << 16}));
  rlimit old_limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{4096, old_limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::string message;
  try {
    save_safetensors(file, large);
  } catch (const UserError&) {
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  std::signal(SIGXFSZ, old_handler);
  CHECK_THAT(message, contains_text(file) && contains_text("File too large"));
  CHECK(read_file(file) == before);
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);

  CHECK_THROWS_AS(save_safetensors(folder / "no/such/folder", example()), Error);
  SafeTensors twice = example();
  twice.tensors.push_back(twice.tensors.front());
  CHECK_THROWS_AS(save_safetensors(file, twice), Error);
  SafeTensors undefined;
  undefined.tensors.emplace_back("w", Tensor());
  CHECK_THROWS_AS(save_safetensors(file, undefined), Error);
  SafeTensors not_utf8;
  not_utf8.metadata["k"] = "\xff";
  CHECK_THROWS_AS(save_safetensors(file, not_utf8), Error);
  CHECK(read_file(file) == before);
}

}  // namespace luq
