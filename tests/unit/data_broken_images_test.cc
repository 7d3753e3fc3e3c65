// Image files that cannot be read or decoded: an error, left out, or replaced, always the same for any number of
// workers.
#include <algorithm>
#include <set>

#include "luq/config/experiment.h"
#include "luq/core/error.h"
#include "luq/data/loader.h"
#include "luq/train/validate_data.h"
#include "tests/catch.h"
#include "tests/places.h"
#include "tests/temporary_folder.h"

using namespace luq;

namespace {

namespace fs = std::filesystem;

// Image i has the label i; those of `broken` have bytes that are no image.
class Files : public Dataset {
 public:
  Files(int64_t images, std::set<int64_t> broken) : broken_(std::move(broken)), image_(read_file_bytes("grey.jpg")) {
    info_.name = "files";
    info_.images = images;
    info_.encoded = true;
    info_.channels = 3;
    info_.num_classes = images;
    info_.mean = info_.std = {1, 1, 1};
  }
  static std::string read_file_bytes(const std::string& name) {
    return ::read_file(source_folder() + "/tests/golden/images/" + name);
  }
  const DatasetInfo& info() const override { return info_; }
  int32_t read_file(int64_t index, std::vector<uint8_t>& bytes) const override {
    if (broken_.count(index) != 0 && index % 2 == 0) fail("[files] image {} cannot be read", index);
    bytes.assign(image_.begin(), image_.end());
    if (broken_.count(index) != 0) bytes.resize(bytes.size() / 2);
    return static_cast<int32_t>(index);
  }

 private:
  DatasetInfo info_;
  std::set<int64_t> broken_;
  std::string image_;
};

struct Seen {
  std::vector<std::vector<int32_t>> labels;  // of each batch
  std::vector<std::vector<std::string>> broken;
  friend bool operator==(const Seen&, const Seen&) = default;
};

Seen run(const Files& files, LoaderOptions options, int64_t epoch = 0, int64_t first_batch = 0) {
  options.batch_size = 4;
  TransformOptions transform;
  transform.image_size = transform.eval_resize = 8;
  Loader loader(std::make_shared<Files>(files), transform, options);
  loader.start(epoch, first_batch);
  Seen seen;
  for (Batch batch; loader.next(batch);) {
    CHECK(batch.images.pixels.shape() == Shape({batch.size(), 8, 8, 3}));
    const int32_t* labels = batch.labels.data<int32_t>();
    seen.labels.emplace_back(labels, labels + batch.size());
    seen.broken.emplace_back();
    for (const BrokenImage& image : batch.broken) seen.broken.back().push_back(image.name);
  }
  return seen;
}

}  // namespace

TEST_CASE("A broken image is an error that names it", "[data][broken]") {
  CHECK_THROWS_WITH(run(Files(8, {5}), {}), contains_text("image 5 of files") && contains_text("[image]") &&
                                                contains_text("data.broken_images"));
  CHECK_THROWS_WITH(run(Files(8, {6}), {}), contains_text("[files] image 6 cannot be read"));
  CHECK_THROWS_WITH(parse_broken_images("ignore"), contains_text("expected error, skip or substitute, got 'ignore'"));
}

TEST_CASE("A broken image is left out of its batch", "[data][broken]") {
  const Files files(10, {1, 4, 5, 6, 7, 9});
  const Seen seen = run(files, {.broken_images = BrokenImages::skip});
  CHECK(seen.labels == std::vector<std::vector<int32_t>>{{0, 2, 3}, {}, {8}});
  CHECK(seen.broken == std::vector<std::vector<std::string>>{
                           {"image 1 of files"},
                           {"image 4 of files", "image 5 of files", "image 6 of files", "image 7 of files"},
                           {"image 9 of files"}});
}

TEST_CASE("Another image stands in for a broken one", "[data][broken]") {
  const Files files(20, {1, 4, 5, 6, 7, 9});
  LoaderOptions options{.shuffle = true, .augment = true, .seed = 3, .broken_images = BrokenImages::substitute};
  const Seen seen = run(files, options);
  REQUIRE(seen.labels.size() == 5);
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& labels : seen.labels) {
    CHECK(labels.size() == 4);
    all.insert(all.end(), labels.begin(), labels.end());
  }
  for (const int32_t label : all) CHECK(std::set<int32_t>{1, 4, 5, 6, 7, 9}.count(label) == 0);
  const std::set<int32_t> sound(all.begin(), all.end());
  CHECK(sound.size() == 14);  // every sound image still comes
  size_t broken = 0;
  for (const std::vector<std::string>& names : seen.broken) broken += names.size();
  CHECK(broken == 6);  // one that was drawn as a substitute is not counted again

  for (const int64_t workers : {2, 5}) {
    options.workers = workers;
    CHECK(run(files, options) == seen);
  }
  const Seen later = run(files, options, 0, 3);
  CHECK(later.labels == std::vector<std::vector<int32_t>>(seen.labels.begin() + 3, seen.labels.end()));
  CHECK(run(files, options, 1).labels != seen.labels);

  std::set<int64_t> every;
  for (int64_t i = 0; i < 20; ++i) every.insert(i);
  CHECK_THROWS_WITH(run(Files(20, every), options), contains_text("100 images drawn in its place"));
}

TEST_CASE("validate_data lists what cannot be decoded, and what is in both splits", "[data][broken]") {
  TemporaryFolder folder;
  const std::string jpeg = Files::read_file_bytes("grey.jpg"), png = Files::read_file_bytes("bits.png");
  const auto put = [&](const std::string& path, const std::string& bytes) {
    fs::create_directories((folder.path / path).parent_path());
    write_file(folder / path, bytes);
  };
  put("train/a/1.jpg", jpeg);
  put("train/a/2.jpg", jpeg.substr(0, jpeg.size() / 2));
  put("train/a/3.png", "");
  put("train/a/notes.txt", "text");
  put("train/a/4.JPEG", png);  // called by another name, and sound
  put("train/b/inner/1.png", "GIF89a");
  put("train/b/2.jpg", jpeg + "x");
  put("val/a/1.jpg", jpeg);
  put("val/b/2.png", png.substr(0, 40));
  fs::create_symlink(folder / "nowhere", folder / "val/b/gone.jpg");
  const ExperimentConfig config = config_of_folder(folder.path.string());
  CHECK(config.data.name == "image_folder");
  const ValidationReport report = validate_data(config, 0);
  CHECK(report.train_images == 6);
  CHECK(report.test_images == 3);
  REQUIRE(report.broken.size() == 5);
  CHECK_THAT(report.broken[0], contains_text(folder / "train/a/2.jpg: ") && contains_text("[image]"));
  CHECK(report.broken[1] == folder / "train/a/3.png: an empty file");
  CHECK_THAT(report.broken[2], contains_text(folder / "train/b/inner/1.png: "));
  CHECK_THAT(report.broken[3], contains_text(folder / "val/b/2.png: "));
  CHECK_THAT(report.broken[4], contains_text(folder / "val/b/gone.jpg: cannot be read: No such file"));
  REQUIRE(report.warnings.size() == 2);
  CHECK_THAT(report.warnings[0], contains_text("1 test images are training images too") &&
                                     contains_text(folder / "val/a/1.jpg = " + (folder / "train/a/1.jpg")));
  CHECK_THAT(report.warnings[1],
             contains_text("1 file is not used: 1 .txt\n") && contains_text(folder / "train/a/notes.txt"));

  std::vector<int64_t> progress;
  CHECK(validate_data(config, 3, [&](int64_t done, int64_t all) {
          progress.push_back(done);
          CHECK(all == 9);
        }).broken == report.broken);
  CHECK(std::is_sorted(progress.begin(), progress.end()));
  CHECK(progress.back() == 9);
  CHECK_THROWS_WITH(validate_data(config, -1), contains_text("--workers"));

  ExperimentConfig pixels;
  pixels.data.name = "synthetic";
  CHECK(validate_data(pixels, 1).broken.empty());
}
