#include "src/train/tensorboard.h"

#include <filesystem>

#include "luq/core/error.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {

TEST_CASE("tensorboard: frames as TFRecord has them", "[tensorboard]") {
  const uint32_t crc = 0xe3069283;  // CRC-32C of "123456789", the published check value
  CHECK(masked_crc32c("123456789") == ((crc >> 15) | (crc << 17)) + 0xa282ead8u);
  const std::string record = tf_record("abc");
  CHECK(record.size() == 8 + 4 + 3 + 4);
  CHECK(record.substr(0, 8) == std::string("\3\0\0\0\0\0\0\0", 8));
  CHECK(record.substr(12, 3) == "abc");
}

TEST_CASE("tensorboard: one file, whose records are those of the metrics", "[tensorboard]") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  const auto only_file = [&] {
    const std::filesystem::directory_iterator files(run);
    REQUIRE(std::distance(begin(files), end(files)) == 1);
    return read_file(std::filesystem::directory_iterator(run)->path().string());
  };
  const std::vector<Metrics> lines{{.kind = "train", .step = 5, .time = 100, .loss = 2.5},
                                   {.kind = "eval", .step = 5, .time = 101, .loss = 2, .top5 = 50, .broken_images = 3}};
  TensorBoardFile first(run, 100, {});
  for (const Metrics& metrics : lines) CHECK(first.append(metrics));
  const std::string appended = only_file();
  CHECK(appended.find("eval/top5") != std::string::npos);
  CHECK(appended.find("eval/broken_images") != std::string::npos);
  CHECK(appended.find("train/top5") == std::string::npos);
  const TensorBoardFile second(run, 200, lines);
  CHECK(only_file() == appended);

  write_file(run + "/notes", "mine");
  remove_tensorboard(run);
  CHECK(read_file(run + "/notes") == "mine");
  CHECK(std::filesystem::remove(run + "/notes"));
  remove_tensorboard(run);
  CHECK(!std::filesystem::exists(run));
  write_file(run, "a file");
  CHECK_THROWS_AS(TensorBoardFile(run, 1, {}), Error);
}

}  // namespace luq
