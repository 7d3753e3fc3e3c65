// The IDX reader: good files, every fault it must name, and random damage.
#include <zlib.h>

#include <cstdlib>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "luq/data/dataset.h"
#include "tests/catch.h"
#include "tests/damage.h"
#include "tests/temporary_folder.h"

using namespace luq;

namespace {

std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

// Pixel i of the set is 7 i mod 256.
std::string image_bytes(uint32_t count, uint32_t rows, uint32_t columns) {
  std::string bytes = big_endian(0x803) + big_endian(count) + big_endian(rows) + big_endian(columns);
  for (uint32_t i = 0; i < count * rows * columns; ++i) bytes += static_cast<char>(7 * i);
  return bytes;
}

// Label i is i mod 10.
std::string label_bytes(uint32_t count) {
  std::string bytes = big_endian(0x801) + big_endian(count);
  for (uint32_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 10);
  return bytes;
}

std::string gzip(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

const std::string train_images = "train-images-idx3-ubyte", train_labels = "train-labels-idx1-ubyte";

struct IdxFolder : TemporaryFolder {
  IdxFolder() {
    write_file(*this / train_images, image_bytes(12, 4, 5));
    write_file(*this / train_labels, label_bytes(12));
  }
  std::unique_ptr<Dataset> open(const std::string& name = "fashion_mnist") const {
    return open_dataset(name, path.string(), Split::train);
  }
  // The message of the UserError that opening gives, which must name `file` ("": the folder) and advise.
  std::string error(const std::string& file, const std::string& name = "fashion_mnist") const {
    try {
      open(name);
    } catch (const UserError& user_error) {
      const std::string message = user_error.what();
      CHECK_THAT(message, contains_text("[data] " + name));
      CHECK_THAT(message, contains_text(file.empty() ? path.string() : *this / file));
      CHECK_THAT(message, contains_text(name == "fashion_mnist" ? "install the Debian package dataset-fashion-mnist"
                                                                : "download the four files"));
      CHECK_THAT(message, contains_text("t10k-labels-idx1-ubyte"));
      return message;
    }
    FAIL("opened");
    return "";
  }
};

void check_contents(const Dataset& dataset) {
  const DatasetInfo& info = dataset.info();
  REQUIRE(info.images == 12);
  REQUIRE(info.height == 4);
  REQUIRE(info.width == 5);
  REQUIRE(info.channels == 1);
  CHECK(info.num_classes == 10);
  CHECK(info.class_names.size() == 10);
  CHECK(info.mean.size() == 1);
  CHECK(info.std.size() == 1);
  for (int64_t image = 0; image < 12; ++image) {
    uint8_t pixels[20];
    CHECK(dataset.read(image, pixels) == image % 10);
    for (int64_t i = 0; i < 20; ++i) REQUIRE(pixels[i] == static_cast<uint8_t>(7 * (image * 20 + i)));
  }
}

}  // namespace

TEST_CASE("IDX files are read plain, compressed and mixed", "[data]") {
  IdxFolder folder;
  check_contents(*folder.open());
  CHECK(folder.open("mnist")->info().mean == std::vector<double>{0.1307});
  CHECK(folder.open()->info().std == std::vector<double>{0.3530});
  std::filesystem::remove(folder / train_images);
  write_file(folder / (train_images + ".gz"), gzip(image_bytes(12, 4, 5)));
  check_contents(*folder.open());
  std::filesystem::remove(folder / train_labels);
  write_file(folder / (train_labels + ".gz"), gzip(label_bytes(12)));
  check_contents(*folder.open());
}

TEST_CASE("A missing folder or file is named with what to do", "[data]") {
  IdxFolder folder;
  std::filesystem::remove(folder / train_labels);
  CHECK_THAT(folder.error(""), contains_text("train-labels-idx1-ubyte missing; install"));
  CHECK_THAT(folder.error("", "mnist"), contains_text("./data/mnist"));
  CHECK_THROWS_WITH(open_dataset("fashion_mnist", folder / "none", Split::train),
                    contains_text("none: no such folder; install the Debian package dataset-fashion-mnist"));
  CHECK_THROWS_WITH(open_dataset("fashion_mnist", folder / train_images, Split::train), contains_text("not a folder"));
  CHECK_THROWS_AS(open_dataset("fashion_mnist", folder.path.string(), Split::test), UserError);
  CHECK_THROWS_WITH(open_dataset("fashionmnist", "", Split::train), contains_text("did you mean fashion_mnist?"));
}

TEST_CASE("A damaged image file is refused", "[data]") {
  IdxFolder folder;
  const std::string good = image_bytes(12, 4, 5);
  const std::string file = folder / train_images;
  const auto with_header = [&](uint32_t magic, uint32_t count, uint32_t rows, uint32_t columns) {
    write_file(file, big_endian(magic) + big_endian(count) + big_endian(rows) + big_endian(columns) + good.substr(16));
    return folder.error(train_images);
  };
  CHECK_THAT(with_header(0x801, 12, 4, 5), contains_text("expected the magic number 0x00000803 of IDX images, got "
                                                         "0x00000801"));
  CHECK_THAT(with_header(0x803, 0, 4, 5), contains_text("got an empty set"));
  CHECK_THAT(with_header(0x803, 12, 0, 5), contains_text("got 0 x 5"));
  CHECK_THAT(with_header(0x803, 12, 4, 0xffffffff), contains_text("got 4 x 4294967295"));
  CHECK_THAT(with_header(0x803, 12, 4, 4), contains_text("expected 192 bytes after the header, got more"));
  CHECK_THAT(with_header(0x803, 12, 4096, 4096), contains_text("expected 201326592 bytes after the header, got 240"));
  write_file(file, good.substr(0, good.size() - 1));
  CHECK_THAT(folder.error(train_images), contains_text("truncated: expected 240 bytes after the header, got 239"));
  write_file(file, good + "x");
  CHECK_THAT(folder.error(train_images), contains_text("expected 240 bytes after the header, got more"));
  write_file(file, good.substr(0, 15));
  CHECK_THAT(folder.error(train_images), contains_text("truncated: expected a header of 16 bytes, got 15"));
  write_file(file, "");
  CHECK_THAT(folder.error(train_images), contains_text("truncated: expected a header of 16 bytes, got 0"));
}

TEST_CASE("A damaged label file is refused", "[data]") {
  IdxFolder folder;
  const std::string file = folder / train_labels;
  write_file(file, label_bytes(11));
  CHECK_THAT(folder.error(train_labels), contains_text("expected one label for each of the 12 images"));
  write_file(file, big_endian(0x801) + big_endian(0xffffffff) + "x");
  CHECK_THAT(folder.error(train_labels), contains_text("got 4294967295"));
  write_file(file, label_bytes(0));
  CHECK_THAT(folder.error(train_labels), contains_text("got an empty set"));
  std::string wrong = label_bytes(12);
  wrong[8 + 3] = 10;
  write_file(file, wrong);
  CHECK_THAT(folder.error(train_labels), contains_text("expected labels in 0..9, got 10 for image 3"));
  write_file(file, image_bytes(12, 4, 5));
  CHECK_THAT(folder.error(train_labels), contains_text("expected the magic number 0x00000801 of IDX labels"));
  write_file(file, label_bytes(12).substr(0, 19));
  CHECK_THAT(folder.error(train_labels), contains_text("expected 12 bytes after the header, got 11"));
  write_file(file, label_bytes(12) + "x");
  CHECK_THAT(folder.error(train_labels), contains_text("got more"));
}

TEST_CASE("A damaged .gz file is refused", "[data]") {
  IdxFolder folder;
  std::filesystem::remove(folder / train_images);
  const std::string name = train_images + ".gz";
  const std::string good = gzip(image_bytes(12, 4, 5));
  for (const size_t left : {good.size() - 1, good.size() - 8, good.size() / 2, size_t{12}}) {
    write_file(folder / name, good.substr(0, left));
    CHECK_THAT(folder.error(name), contains_text("truncated"));
  }
  std::string wrong = good;
  wrong[wrong.size() - 6] ^= 1;  // in the checksum
  write_file(folder / name, wrong);
  CHECK_THAT(folder.error(name), contains_text("the compressed data is damaged"));
  write_file(folder / name, gzip(image_bytes(12, 4, 5) + "x"));
  CHECK_THAT(folder.error(name), contains_text("got more"));
}

TEST_CASE("Random damage to IDX files gives a UserError or a data set", "[data]") {
  IdxFolder folder;
  RngStream random(make_rng_key(1, "test:damage"));
  int refused = 0;
  for (const bool compressed : {false, true}) {
    for (const std::string& name : {train_images, train_labels}) {
      const std::string plain = name == train_images ? image_bytes(12, 4, 5) : label_bytes(12);
      const std::string good = compressed ? gzip(plain) : plain;
      const std::string file = folder / (compressed ? name + ".gz" : name);
      std::filesystem::remove(folder / name);
      for (int round = 0; round < 1000; ++round) {
        const std::string bytes = damaged(good, 16, random);
        std::filesystem::remove(file);  // replacing a file in place makes some file systems flush it
        write_file(file, bytes);
        try {
          const auto dataset = folder.open();
          std::vector<uint8_t> pixels(static_cast<size_t>(dataset->info().height * dataset->info().width));
          for (int64_t i = 0; i < dataset->info().images; ++i) {
            const int32_t label = dataset->read(i, pixels.data());
            REQUIRE((label >= 0 && label < 10));
          }
        } catch (const UserError&) {
          ++refused;
        }
      }
      std::filesystem::remove(file);
      write_file(folder / name, plain);
    }
  }
  CHECK(refused > 1000);
  CHECK(refused < 4000);
}

TEST_CASE("The real Fashion-MNIST has 6000 and 1000 images of each class", "[data]") {
  const std::string folder = find_dataset("fashion_mnist");
  if (folder.empty()) {
    WARN("skipped: Fashion-MNIST is not on this machine (Debian package dataset-fashion-mnist)");
    return;
  }
  for (const auto& [split, per_class] : {std::pair{Split::train, 6000}, std::pair{Split::test, 1000}}) {
    const auto dataset = open_dataset("fashion_mnist", "", split);
    REQUIRE(dataset->info().images == 10 * per_class);
    REQUIRE(dataset->info().height == 28);
    REQUIRE(dataset->info().width == 28);
    std::vector<int> count(10);
    std::vector<uint8_t> pixels(28 * 28);
    double sum = 0;
    for (int64_t i = 0; i < dataset->info().images; ++i) {
      ++count[static_cast<size_t>(dataset->read(i, pixels.data()))];
      for (const uint8_t value : pixels) sum += value;
    }
    CHECK(count == std::vector<int>(10, per_class));
    CHECK(sum / 255 / (28.0 * 28 * dataset->info().images) == Approx(dataset->info().mean[0]).margin(0.002));
  }
}

TEST_CASE("A data set without a path is looked for in LUQ_DATA_DIR first", "[data]") {
  TemporaryFolder folder;
  ::setenv("LUQ_DATA_DIR", folder.path.c_str(), 1);
  CHECK(dataset_locations("mnist") == std::vector<std::string>{folder / "mnist", "data/mnist"});
  CHECK(dataset_locations("fashion_mnist").back() == "/usr/share/datasets/fashion-mnist");
  CHECK(find_dataset("mnist").empty());
  CHECK_THROWS_WITH(open_dataset("mnist", "", Split::train),
                    contains_text("not found in " + (folder / "mnist") + " (no such folder), data/mnist"));
  std::filesystem::create_directory(folder / "mnist");
  write_file(folder / "mnist/train-images-idx3-ubyte", image_bytes(12, 4, 5));
  write_file(folder / "mnist/train-labels-idx1-ubyte", label_bytes(12));
  CHECK(find_dataset("mnist").empty());
  CHECK_THROWS_WITH(open_dataset("mnist", "", Split::train),
                    contains_text("t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte missing"));
  write_file(folder / "mnist/t10k-images-idx3-ubyte.gz", gzip(image_bytes(3, 4, 5)));
  write_file(folder / "mnist/t10k-labels-idx1-ubyte.gz", gzip(label_bytes(3)));
  CHECK(find_dataset("mnist") == folder / "mnist");
  check_contents(*open_dataset("mnist", "", Split::train));
  CHECK(open_dataset("mnist", "", Split::test)->info().images == 3);
  ::unsetenv("LUQ_DATA_DIR");
  CHECK(find_dataset("synthetic").empty());
}
