// The CIFAR reader: planes to pixels, folders, every fault it must name, and random damage.
#include <algorithm>

#include "luq/core/error.h"
#include "luq/data/dataset.h"
#include "tests/catch.h"
#include "tests/damage.h"
#include "tests/temporary_folder.h"

using namespace luq;

namespace {

uint8_t plane_value(int64_t image, int64_t plane, int64_t i) {
  return static_cast<uint8_t>(31 * image + 85 * plane + 3 * i);
}

// One record: the labels given, then three planes.
std::string record(int64_t image, const std::string& labels) {
  std::string bytes = labels;
  for (int64_t plane = 0; plane < 3; ++plane) {
    for (int64_t i = 0; i < 1024; ++i) bytes += static_cast<char>(plane_value(image, plane, i));
  }
  return bytes;
}

// Images 2 b and 2 b + 1 of labels equal to their number in batch b = 0..4.
void write_cifar10(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (int64_t b = 0; b < 5; ++b) {
    write_file(folder / ("data_batch_" + std::to_string(b + 1) + ".bin"),
               record(2 * b, {static_cast<char>(2 * b)}) + record(2 * b + 1, {static_cast<char>(2 * b + 1)}));
  }
  write_file(folder / "test_batch.bin", record(3, "\7"));
}

void check_image(const Dataset& dataset, int64_t index, int32_t label, int64_t image) {
  std::vector<uint8_t> pixels(3072);
  CHECK(dataset.read(index, pixels.data()) == label);
  for (int64_t i = 0; i < 1024; ++i) {
    for (int64_t plane = 0; plane < 3; ++plane) {
      REQUIRE(pixels[static_cast<size_t>(3 * i + plane)] == plane_value(image, plane, i));
    }
  }
}

std::string error_of(const std::string& name, const std::filesystem::path& path, Split split) {
  try {
    open_dataset(name, path.string(), split);
  } catch (const UserError& error) {
    return error.what();
  }
  FAIL("opened");
  return "";
}

}  // namespace

TEST_CASE("CIFAR-10 is read from its folder or the archive's", "[data]") {
  TemporaryFolder folder;
  for (const char* inner : {"plain", "archive/cifar-10-batches-bin"}) {
    write_cifar10(folder.path / inner);
    const std::string path = folder / (inner == std::string("plain") ? "plain" : "archive");
    const auto train = open_dataset("cifar10", path, Split::train);
    const DatasetInfo& info = train->info();
    REQUIRE(info.images == 10);
    REQUIRE(info.height == 32);
    REQUIRE(info.width == 32);
    REQUIRE(info.channels == 3);
    CHECK(info.num_classes == 10);
    CHECK(info.class_names.at(9) == "truck");
    CHECK(info.mean == std::vector<double>{0.4914, 0.4822, 0.4465});
    CHECK(info.std == std::vector<double>{0.2470, 0.2435, 0.2616});
    for (int64_t i = 0; i < 10; ++i) check_image(*train, i, static_cast<int32_t>(i), i);
    const auto test = open_dataset("cifar10", path, Split::test);
    REQUIRE(test->info().images == 1);
    check_image(*test, 0, 7, 3);
  }
}

TEST_CASE("CIFAR-100 takes the fine label", "[data]") {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "cifar-100-binary");
  write_file(folder / "cifar-100-binary/train.bin", record(0, {19, 99}) + record(1, {0, 42}));
  const auto train = open_dataset("cifar100", folder.path.string(), Split::train);
  CHECK(train->info().num_classes == 100);
  CHECK(train->info().class_names.size() == 100);
  CHECK(train->info().class_names[99] == "worm");
  CHECK(std::is_sorted(train->info().class_names.begin(), train->info().class_names.end()));
  REQUIRE(train->info().images == 2);
  check_image(*train, 0, 99, 0);
  check_image(*train, 1, 42, 1);
  for (const auto& [labels, expected] :
       {std::pair{std::string{20, 5}, "expected labels in 0..19, got 20"}, {{5, 100}, "in 0..99, got 100"}}) {
    write_file(folder / "cifar-100-binary/train.bin", record(0, {0, 0}) + record(1, labels));
    CHECK_THAT(error_of("cifar100", folder.path, Split::train), contains_text(expected) && contains_text("image 1"));
  }
}

TEST_CASE("Damaged CIFAR files are refused", "[data]") {
  TemporaryFolder folder;
  write_cifar10(folder.path);
  const std::string name = folder / "data_batch_3.bin";
  const std::string good = read_file(name);
  const auto error = [&] {
    const std::string message = error_of("cifar10", folder.path, Split::train);
    CHECK_THAT(message, contains_text("[data] cifar10: " + name));
    CHECK_THAT(message, contains_text("unpack cifar-10-binary.tar.gz"));
    return message;
  };
  write_file(name, good.substr(0, good.size() - 1));
  CHECK_THAT(error(), contains_text("truncated, or of another kind: expected whole records of 3073 bytes, got 6145"));
  write_file(name, good + "x");
  CHECK_THAT(error(), contains_text("got 6147 bytes"));
  write_file(name, "");
  CHECK_THAT(error(), contains_text("got an empty file"));
  std::string wrong = good;
  wrong[3073] = 10;
  write_file(name, wrong);
  CHECK_THAT(error(), contains_text("expected labels in 0..9, got 10 for image 1"));
  std::filesystem::remove(name);
  CHECK_THAT(error_of("cifar10", folder.path, Split::train),
             contains_text(folder.path.string() + ": data_batch_3.bin missing; unpack"));
  CHECK_THAT(error_of("cifar100", folder.path, Split::train), contains_text("train.bin missing; unpack"));
  std::filesystem::create_directory(name);
  CHECK_THAT(error_of("cifar10", folder.path, Split::train), contains_text("data_batch_3.bin missing"));
}

TEST_CASE("Random damage to CIFAR files gives a UserError or a data set", "[data]") {
  TemporaryFolder folder;
  const std::string good = record(3, "\7") + record(4, "\1");
  luq::RngStream random(make_rng_key(1, "test:damage"));
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::filesystem::remove(folder / "test_batch.bin");
    write_file(folder / "test_batch.bin", damaged(good, 4, random));
    try {
      const auto dataset = open_dataset("cifar10", folder.path.string(), Split::test);
      std::vector<uint8_t> pixels(3072);
      for (int64_t i = 0; i < dataset->info().images; ++i) {
        const int32_t label = dataset->read(i, pixels.data());
        REQUIRE((label >= 0 && label < 10));
      }
    } catch (const UserError&) {
      ++refused;
    }
  }
  CHECK(refused > 300);
  CHECK(refused < 1000);
}
