// Tar shards: grouping, offsets in every dialect of tar, indexes and when they are made again, patterns of paths,
// packing, and every fault they must name.
#include <archive.h>
#include <archive_entry.h>
#include <sys/resource.h>
#include <unistd.h>
#include <chrono>

#include <csignal>
#include <cstdlib>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "luq/data/dataset.h"
#include "luq/data/pack.h"
#include "src/data/tar_shard.h"
#include "src/data/webdataset.h"
#include "tests/catch.h"
#include "tests/damage.h"
#include "tests/temporary_folder.h"
#include "tests/unit/dataset_contents.h"

using namespace luq;
using luq::test::contents;

namespace {

namespace fs = std::filesystem;

struct Member {
  std::string name, bytes;
  std::string link = "";  // target of a hard link
};

// format: one of libarchive's ARCHIVE_FORMAT_TAR_*.
std::string tar_of(const std::vector<Member>& members, int format = ARCHIVE_FORMAT_TAR_USTAR) {
  std::string out(1 << 20, '\0');
  size_t used = 0;
  archive* tar = archive_write_new();
  REQUIRE(archive_write_set_format(tar, format) == ARCHIVE_OK);
  REQUIRE(archive_write_open_memory(tar, out.data(), out.size(), &used) == ARCHIVE_OK);
  for (const Member& member : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, member.name.c_str());
    archive_entry_set_filetype(entry, member.name.back() == '/' ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    if (!member.link.empty()) archive_entry_set_hardlink(entry, member.link.c_str());
    archive_entry_set_size(entry, static_cast<int64_t>(member.bytes.size()));
    REQUIRE(archive_write_header(tar, entry) == ARCHIVE_OK);
    REQUIRE(archive_write_data(tar, member.bytes.data(), member.bytes.size()) ==
            static_cast<la_ssize_t>(member.bytes.size()));
    archive_entry_free(entry);
  }
  REQUIRE(archive_write_close(tar) == ARCHIVE_OK);
  archive_write_free(tar);
  out.resize(used);
  return out;
}

ShardIndex scan(const std::string& bytes) {
  return scan_shard(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "S");
}

// Name, label and bytes of each image.
std::vector<std::string> images_of(const std::string& bytes) {
  std::vector<std::string> list;
  for (const ShardImage& image : scan(bytes).images) {
    list.push_back(fmt::format("{}:{}:{}", image.name, image.label, bytes.substr(image.offset, image.size)));
  }
  return list;
}

std::string refusal(const std::vector<Member>& members) {
  try {
    scan(tar_of(members));
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

// Shards of three images each; image i has the label i % 4.
void write_shards(const TemporaryFolder& folder, const std::string& prefix, int shards) {
  for (int s = 0; s < shards; ++s) {
    std::vector<Member> members;
    for (int i = 3 * s; i < 3 * s + 3; ++i) {
      members.push_back({fmt::format("{:04}.jpg", i), fmt::format("{} {}", prefix, i)});
      members.push_back({fmt::format("{:04}.cls", i), fmt::format("{}", i % 4)});
    }
    write_file(folder / fmt::format("{}-{:03}.tar", prefix, s), tar_of(members));
  }
}

std::unique_ptr<Dataset> open_shards(const TemporaryFolder& folder, Split split, const ImageFileOptions& options = {}) {
  return open_dataset("webdataset", folder.path.string(), split, {}, options);
}

}  // namespace

TEST_CASE("Samples of a shard are files that share their path up to the first dot", "[data][webdataset]") {
  CHECK(images_of(tar_of({{"a/", ""},
                          {"a/x.jpg", "one"},
                          {"a/x.cls", " 3\n"},
                          {"b.x/y.cls", "0"},
                          {"b.x/y.seg.png", "no image"},
                          {"b.x/y.JPEG", "two"},
                          {"README", "text"},
                          {"z.txt", "a caption"},
                          {"z.json", "{\"label\": 7, \"size\": [1, 2]}"},
                          {"z.png", "three"},
                          {"w.json", "{\"cls\": 8}"},
                          {"w.jpg", ""},
                          {"v.json", "broken, but .cls wins"},
                          {"v.cls", "9"},
                          {"v.jpeg", "five"},
                          {"only.json", "{\"of\": \"the shard\"}"}})) ==
        std::vector<std::string>{"a/x.jpg:3:one", "b.x/y.JPEG:0:two", "z.png:7:three", "w.jpg:8:", "v.jpeg:9:five"});
}

TEST_CASE("What macOS' tar adds, names without a sample and other files are passed over and counted",
          "[data][webdataset]") {
  const std::string bytes = tar_of({{"./._000.cls", "\5\26\7"},
                                    {"./000.cls", "1\r\n"},
                                    {"./._000.jpg", "\5\26\7"},
                                    {"./README", "text"},  // does not part a sample
                                    {"./000.JPG", "one"},
                                    {"./000.txt", "a caption"},
                                    {"__MACOSX/._000.jpg", ""},
                                    {".DS_Store", ""},
                                    {"a.webp", "two"},
                                    {"a.CLS",
                                     "\xef\xbb\xbf"
                                     "2"},
                                    {"a.json", "{}"},
                                    {"b.1.jpg", "its sample would be b"},
                                    {"only.json", "{}"},
                                    {"c.tiff", "three"},
                                    {"c.cls", "3"}});
  CHECK(images_of(bytes) == std::vector<std::string>{"./000.JPG:1:one", "a.webp:2:two", "c.tiff:3:three"});
  const UnusedFiles unused = scan(bytes).unused;
  CHECK(
      unused.to_text() ==
      "9 files are not used: 1 .DS_Store, 3 ._*, 1 .jpg with two dots, 1 .json beside .cls, 1 .json without an image, "
      "1 .txt, 1 without extension");
  CHECK(unused.kinds.at("._*").names == std::vector<std::string>{"./._000.cls", "./._000.jpg", "__MACOSX/._000.jpg"});
}

TEST_CASE("Reasons for refusing a shard are true", "[data][webdataset]") {
  CHECK_THAT(refusal({{"a.jpg", ""}, {"a.txt", "dog"}}), contains_text("sample 'a' has an image and no label (.cls or "
                                                                       ".json right beside it); beside it are .txt"));
  CHECK_THAT(refusal({{"a.cls", "1"}, {"a.svg", ""}}),
             contains_text("sample 'a' has a label (.cls) and no image") && contains_text("beside it are .svg"));
  // A format that others read is counted, not an error.
  CHECK(scan(tar_of({{"a.cls", "1"}, {"a.avif", "x"}, {"b.cls", "1"}, {"b.jpg", "x"}})).unused.to_text() ==
        "2 files are not used: 1 .avif, 1 .cls without an image that is read");
  CHECK_THAT(refusal({{"a.b.jpg", ""}, {"a.b.cls", "1"}}), contains_text("holds no image") &&
                                                               contains_text("1 .jpg with two dots") &&
                                                               contains_text("a sample's name ends at the first dot"));
  CHECK_THAT(refusal({{"a.jpg", ""}, {"a.webp", ""}, {"a.cls", "1"}}),
             contains_text("a.webp: the second image of sample 'a', after a.jpg"));
}

TEST_CASE("A set of shards says what it passes over", "[data][webdataset]") {
  TemporaryFolder folder;
  write_file(folder / "train-0.tar", tar_of({{"._0.jpg", ""}, {"0.jpg", "x"}, {"0.cls", "0"}, {"0.txt", ""}}));
  write_file(folder / "train-1.tar", tar_of({{"1.jpg", "x"}, {"1.cls", "1"}, {"1.txt", ""}}));
  for (int round = 0; round < 2; ++round) {  // by a scan, and from the indexes
    const auto set = open_shards(folder, Split::train);
    CHECK(set->info().unused.to_text() == "3 files are not used: 1 ._*, 2 .txt");
    CHECK(set->info().unused.kinds.at(".txt").names ==
          std::vector<std::string>{folder / "train-0.tar:0.txt", folder / "train-1.tar:1.txt"});
    CHECK(warnings_of({&set->info()}) ==
          std::vector<std::string>{"3 files are not used: 1 ._*, 2 .txt; luqtrain validate-data lists them"});
  }
}

TEST_CASE("Files beside the shards that look like some are counted once", "[data][webdataset]") {
  TemporaryFolder folder;
  write_shards(folder, "train", 1);
  write_shards(folder, "val", 1);
  for (const char* name : {"classes.txt", "README", "README.md", "LICENSE", "train-000.tar.md5", "._train-000.tar",
                           "train-000.tar.index.json.x1", "config.yaml"}) {
    write_file(folder / name, std::string(name) == "classes.txt" ? "a\nb\nc\n" : "");
  }
  fs::create_directories(folder / "notes/shards");
  const auto warnings = [&](const ImageFileOptions& options = {}) {
    const auto train = open_shards(folder, Split::train, options), test = open_shards(folder, Split::test, options);
    return warnings_of({&train->info(), &test->info()});
  };
  CHECK(warnings().empty());
  for (const char* name :
       {"train-1.tar.gz", "train-3.TAR", "train_2.tar", "test-0.tar", "val-1.tar.part", "x.tgz", "photo.jpg"}) {
    write_file(folder / name, "");
  }
  fs::create_directories(folder / "more");
  write_file(folder / "more/train-1.tar", "");
  const std::string expected =
      "8 files are not used: 1 .TAR, 1 .jpg beside the shards, 2 .tar called neither train-* nor val-*, 1 .tar.gz, 1 "
      ".tar.part, 1 .tgz, 1 folder more; luqtrain validate-data lists them";
  for (int round = 0; round < 2; ++round) CHECK(warnings() == std::vector<std::string>{expected});
  CHECK(open_shards(folder, Split::train)->info().unused.kinds.at(".TAR").names ==
        std::vector<std::string>{folder / "train-3.TAR"});
  // The user has chosen.
  CHECK(warnings({.train_shards = "train-000.tar", .val_shards = "val-000.tar"}).empty());
  CHECK(warnings({.train_shards = "train-000.tar"}) ==
        std::vector<std::string>{"2 files are not used: 1 .tar called neither train-* nor val-*, 1 .tar.part; luqtrain "
                                 "validate-data lists them"});
  fs::remove(folder / "train-000.tar");
  CHECK(open_shards(folder, Split::test)->info().unused.count() == 8);  // there is no other split to name them
}

TEST_CASE("An index that was changed does not go unnoticed", "[data][webdataset]") {
  TemporaryFolder folder;
  write_shards(folder, "train", 1);
  const std::string file = folder / "train-000.tar.index.json";
  CHECK(open_shards(folder, Split::train)->info().notes.empty());
  const std::string sound = read_file(file);
  CHECK_THAT(sound, contains_text("\"labels\":[0,1,2]"));
  RngStream random(make_rng_key(1, "test:index"));
  std::vector<std::string> damages;
  for (size_t at = 0; at < sound.size(); at += 7) {
    damages.push_back(sound);
    damages.back()[at] = static_cast<char>(damages.back()[at] ^ (1 + random.below(127)));
  }
  damages.push_back(sound.substr(0, sound.size() / 2));
  damages.push_back("");
  damages.push_back(sound);
  damages.back().replace(sound.find("[0,1,2]"), 7, "[0,3,2]");  // a digit of a label
  for (const std::string& damaged : damages) {
    INFO(damaged);
    write_file(file, damaged);
    const auto set = open_shards(folder, Split::train);
    CHECK(contents(*set) == std::vector<std::string>{"train 0:0", "train 1:1", "train 2:2"});
    REQUIRE(set->info().notes.size() == 1);
    CHECK(set->info().notes[0] == file + " was damaged (its checksum does not fit); it is made anew from the shard");
    CHECK(read_file(file) == sound);
    CHECK(open_shards(folder, Split::train)->info().notes.empty());
  }
  // Indexes of before had no checksum: they are made anew without a word.
  write_file(file, "{\"version\":1,\"shard_bytes\":4096,\"labels\":[9,9,9]}\n");
  CHECK(open_shards(folder, Split::train)->info().notes.empty());
  CHECK(read_file(file) == sound);
}

TEST_CASE("Offsets are right in every dialect of tar, with long names and large files", "[data][webdataset]") {
  const std::string deep = std::string(90, 'd') + "/" + std::string(90, 'e') + "/" + std::string(70, 'f');
  const std::string large(100000, 'x');  // larger than what is read at a time
  for (const int format : {ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE,
                           ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FORMAT_TAR_GNUTAR}) {
    const bool any_name = format == ARCHIVE_FORMAT_TAR_GNUTAR || format == ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE;
    const std::string name = any_name ? deep : deep.substr(0, 150);
    const std::string bytes = tar_of({{"s.jpg", "first"},
                                      {"s.cls", "1"},
                                      {name + ".jpg", large},
                                      {name + ".cls", "2"},
                                      {"t.jpg", "last"},
                                      {"t.cls", "3"}},
                                     format);
    CAPTURE(format);
    CHECK(images_of(bytes) == std::vector<std::string>{"s.jpg:1:first", name + ".jpg:2:" + large, "t.jpg:3:last"});
  }
  // One tar file behind the other, as cat makes them.
  const std::string twice =
      tar_of({{"s.jpg", "first"}, {"s.cls", "1"}}) + tar_of({{"t.jpg", "second"}, {"t.cls", "2"}});
  CHECK(images_of(twice) == std::vector<std::string>{"s.jpg:1:first", "t.jpg:2:second"});
}

TEST_CASE("Shards that cannot be used are named, with the sample", "[data][webdataset]") {
  CHECK_THAT(refusal({}), contains_text("S: holds no image"));
  CHECK_THAT(refusal({{"a.txt", "1"}}), contains_text("S: holds no image"));
  CHECK_THAT(refusal({{"a.jpg", "1"}}), contains_text("sample 'a' has an image and no label"));
  CHECK_THAT(refusal({{"a.cls", "1"}}), contains_text("sample 'a' has a label (.cls) and no image"));
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"b.jpg", "1"}, {"a.cls", "1"}, {"b.cls", "1"}}), contains_text("sample 'a'"));
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.png", "1"}, {"a.cls", "1"}}),
             contains_text("a.png: the second image of sample 'a'"));
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.cls", "1"}, {"a.CLS", "1"}}), contains_text("a.CLS: the second .cls"));
  for (const char* cls : {"", " ", "-1", "cat", "1.5", "1 2", "2147483648", "99999999999999999999"}) {
    CAPTURE(cls);
    CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.cls", cls}}), contains_text("sample 'a': expected a class's number"));
  }
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.json", "{\"x\": {\"label\": 1}, \"x\": 2, \"cls\": 1}"}}),
             !contains_text("expected"));
  for (const char* json :
       {"{\"label\": 1, \"label\": 2}", "{\"label\": 1, \"label\": 1}", "{\"cls\": 1, \"x\": 3, \"cls\": 2}", "", "{",
        "[1]", "{}", "{\"label\": -1}", "{\"label\": \"cat\"}", "{\"label\": 2147483648}"}) {
    CAPTURE(json);
    CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.json", json}}), contains_text("sample 'a': expected an object with"));
  }
  CHECK(refusal({{"a.jpg", "1"}, {"a.cls", "999999"}}) == "");
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.cls", "0"}, {"b.jpg", "", "a.jpg"}, {"b.cls", "1"}}),
             contains_text("b.jpg: is a link"));
  CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.cls", std::string(900000, ' ') + "1"}}), !contains_text("at most"));

  const auto refused = [](const std::string& bytes) -> std::string {
    try {
      scan(bytes);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refused("\x1f\x8b\x08 compressed"), contains_text("S: is compressed") && contains_text("gunzip"));
  CHECK_THAT(refused("\x28\xb5\x2f\xfd"), contains_text("unzstd"));
  CHECK_THAT(refused(""), contains_text("S: is no whole tar file"));
  CHECK_THAT(refused("text"), contains_text("S: is no whole tar file"));
  const std::string whole = tar_of({{"a.jpg", std::string(5000, 'x')}, {"a.cls", "1"}, {"b.jpg", "y"}, {"b.cls", "2"}});
  REQUIRE(refused(whole) == "");
  for (size_t size = 0; size < 5 * 512 + 5120; size += 256) {
    CAPTURE(size);
    CHECK_THAT(refused(whole.substr(0, size)), contains_text("S: "));
  }
}

TEST_CASE("A webdataset is its shards in order", "[data][webdataset]") {
  TemporaryFolder folder;
  write_shards(folder, "train", 3);
  write_shards(folder, "val", 1);
  const auto train = open_shards(folder, Split::train);
  CHECK(contents(*train) == std::vector<std::string>{"train 0:0", "train 1:1", "train 2:2", "train 3:3", "train 4:0",
                                                     "train 5:1", "train 6:2", "train 7:3", "train 8:0"});
  CHECK(train->info().name == "webdataset");
  CHECK(train->info().encoded);
  CHECK(train->info().num_classes == 4);
  CHECK(train->info().class_names == std::vector<std::string>{"class 0", "class 1", "class 2", "class 3"});
  CHECK(train->image_name(4) == folder / "train-001.tar:0004.jpg");
  const auto test = open_shards(folder, Split::test);
  CHECK(test->info().images == 3);
  CHECK(test->info().num_classes == 4);  // the largest label is in the other split
  CHECK(fs::exists(folder / "train-002.tar.index.json"));

  CHECK(open_shards(folder, Split::train, {.train_shards = "train-00{2,0}.tar"})->info().images == 6);
  CHECK(open_shards(folder, Split::train, {.train_shards = folder / "train-{000..001}.tar"})->info().images == 6);
  CHECK(open_dataset("webdataset", "", Split::train, {}, {.train_shards = folder / "train-{000..001}.tar"})
            ->info()
            .images == 6);
  CHECK_THROWS_WITH(open_shards(folder, Split::train, {.train_shards = "train-{000..004}.tar"}),
                    contains_text("data.train_shards: 2 of 5 shards are not there") && contains_text("train-003.tar"));
  CHECK(open_shards(folder, Split::test, {.num_classes = 9})->info().num_classes == 9);
  CHECK_THROWS_WITH(open_shards(folder, Split::train, {.num_classes = 3}),
                    contains_text("train-001.tar: 0003.jpg: expected a label in 0..2, got 3"));

  write_file(folder / "classes.txt", "cat\nbee eater\ndog\nant\n");
  CHECK(open_shards(folder, Split::test)->info().class_names ==
        std::vector<std::string>{"cat", "bee eater", "dog", "ant"});
  CHECK_THROWS_WITH(open_shards(folder, Split::test, {.num_classes = 5}),
                    contains_text("data.num_classes: expected the 4"));
  write_file(folder / "classes.txt", "crane\nant\ncrane\r\nbee\n\n");
  CHECK(open_shards(folder, Split::test)->info().notes ==
        std::vector<std::string>{
            folder / "classes.txt: the class 'crane' stands twice, as 0 and as 2; they are different classes here"});
  write_file(folder / "classes.txt", "cat\n \ndog\nant\nbee\n");
  CHECK_THROWS_WITH(open_shards(folder, Split::test),
                    contains_text("classes.txt:2: expected the name of class 1, got an empty line"));
  write_file(folder / "classes.txt", "cat\n");
  CHECK_THROWS_WITH(open_shards(folder, Split::train), contains_text("expected a label in 0..0, got 1"));

  TemporaryFolder empty;
  CHECK_THROWS_WITH(open_shards(empty, Split::train),
                    contains_text("holds no train-*.tar or val-*.tar") && contains_text("luqtrain pack"));
  write_shards(empty, "val", 1);
  CHECK_THROWS_WITH(open_shards(empty, Split::train), contains_text("expected shards train-*.tar"));
  CHECK(open_shards(empty, Split::test)->info().num_classes == 3);
  CHECK_THROWS_WITH(open_dataset("webdataset", empty / "none", Split::test), contains_text("no such folder"));
  fs::create_directory(empty / "train-0.tar");
  CHECK_THROWS_WITH(open_shards(empty, Split::train), contains_text("train-0.tar: is not a file"));
}

TEST_CASE("A label beyond every class is refused, and classes without an image are named", "[data][webdataset]") {
  for (const char* label : {"1000000", "10000000", "2147483647"}) {
    const std::string reason = fmt::format("S: a.jpg: expected a label in 0..999999, got {}", label);
    CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.cls", label}}), contains_text(reason));
    CHECK_THAT(refusal({{"a.jpg", "1"}, {"a.json", fmt::format("{{\"label\": {}}}", label)}}), contains_text(reason));
  }
  ShardIndex index;
  const std::string bytes = tar_of({{"a.jpg", "1"}, {"a.cls", "999999"}});
  const std::string kept = to_json(scan(bytes));
  CHECK(parse_shard_index(kept, index));
  index.images[0].label = 1000000;
  CHECK_FALSE(parse_shard_index(to_json(index), index));

  TemporaryFolder folder;
  write_file(folder / "train-0.tar", tar_of({{"0.jpg", "x"}, {"0.cls", "0"}, {"5.jpg", "y"}, {"5.cls", "5"}}));
  write_file(folder / "val-0.tar", tar_of({{"a.jpg", "z"}, {"a.cls", "10"}}));
  const auto train = open_shards(folder, Split::train), test = open_shards(folder, Split::test);
  CHECK(warnings_of({&train->info(), &test->info()}) ==
        std::vector<std::string>{"9 of the 11 classes have no training image, the first of them label 1 (class 1)"});
  write_shards(folder, "train", 1);
  CHECK(open_shards(folder, Split::train, {.train_shards = "train-000.tar", .num_classes = 3})->info().notes.empty());
  std::string names;
  for (int64_t i = 0; i <= 1000000; ++i) names += fmt::format("{}\n", i);
  write_file(folder / "classes.txt", names);
  CHECK_THROWS_WITH(open_shards(folder, Split::train),
                    contains_text("classes.txt: expected at most 1000000 classes, got 1000001"));
}

TEST_CASE("An index that does not fit its shard is made again", "[data][webdataset]") {
  TemporaryFolder folder;
  const std::string shard = folder / "train-0.tar", file = shard_index_file(shard);
  const std::string first = tar_of({{"a.jpg", "one"}, {"a.cls", "1"}});
  write_file(shard, first);
  const ShardIndex index = load_shard_index(shard);
  REQUIRE(index.images.size() == 1);
  const std::string kept = read_file(file);
  CHECK(kept == to_json(index));

  SECTION("it is used where it fits") {
    ShardIndex other = index;
    other.images[0].name = "from the index";
    write_file(file, to_json(other));
    CHECK(load_shard_index(shard).images[0].name == "from the index");
  }
  SECTION("another shard of the same size") {
    write_file(shard, tar_of({{"b.jpg", "two"}, {"b.cls", "2"}}));
    CHECK(load_shard_index(shard).images[0].name == "b.jpg");
    CHECK(load_shard_index(shard).images[0].label == 2);
  }
  SECTION("a label changed in place") {
    std::string changed = first;
    changed[changed.find("1", changed.find("a.cls") + 512)] = '3';
    write_file(shard, changed);
    fs::last_write_time(shard, fs::last_write_time(file) + std::chrono::seconds(1));
    CHECK(load_shard_index(shard).images[0].label == 3);
  }
  SECTION("a longer shard") {
    write_file(shard, first + tar_of({{"b.jpg", "two"}, {"b.cls", "2"}}));
    CHECK(load_shard_index(shard).images.size() == 2);
  }
  SECTION("an index that is none") {
    RngStream random(make_rng_key(7, "test:index", 0));
    for (int i = 0; i < 300; ++i) {
      ShardIndex read;
      const std::string text = i == 0 ? "" : damaged(kept, 40, random);
      if (parse_shard_index(text, read)) {
        for (const ShardImage& image : read.images) REQUIRE(image.offset + image.size <= read.shard_bytes);
      }
      write_file(file, text);
      if (!parse_shard_index(text, read) || to_json(read) != kept) continue;
      CHECK(load_shard_index(shard).images[0].name == "a.jpg");
    }
    for (const char* text : {"{\"version\":1}", "[]", "{\"version\":2,\"shard_bytes\":1}", "null"}) {
      write_file(file, text);
      CHECK(load_shard_index(shard).images[0].name == "a.jpg");
      CHECK(read_file(file) == kept);
    }
  }
  SECTION("a folder in the index's place") {
    fs::remove(file);
    fs::create_directory(file);
    CHECK(load_shard_index(shard).images[0].name == "a.jpg");
    size_t entries = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path)) ++entries;
    CHECK(entries == 2);  // no temporary file stays
  }
}

TEST_CASE("Of many shards some are open", "[data][webdataset]") {
  TemporaryFolder folder;
  constexpr int64_t shards = 100;
  write_shards(folder, "train", shards);
  const auto train = open_shards(folder, Split::train);
  const auto open_files = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const auto before = open_files();
  std::vector<std::vector<uint8_t>> first(static_cast<size_t>(train->info().images));
  for (int round = 0; round < 2; ++round) {
    for (int64_t i = 0; i < train->info().images; ++i) {
      std::vector<uint8_t> bytes;
      train->read_file(i, bytes);
      if (round == 0) first[static_cast<size_t>(i)] = bytes;
      REQUIRE(bytes == first[static_cast<size_t>(i)]);
    }
  }
  CHECK(open_files() - before == 64);
}

TEST_CASE("A shard that shrank since it was opened is an error of the image", "[data][webdataset]") {
  TemporaryFolder folder;
  write_shards(folder, "train", 1);
  const auto train = open_shards(folder, Split::train);
  REQUIRE(::truncate((folder / "train-000.tar").c_str(), 600) == 0);
  std::vector<uint8_t> bytes;
  CHECK(train->read_file(0, bytes) == 0);
  CHECK_THROWS_WITH(train->read_file(1, bytes), contains_text("train-000.tar:0001.jpg: the shard ends before"));
  fs::remove(folder / "train-000.tar");
  CHECK(train->read_file(0, bytes) == 0);  // it is open
}

TEST_CASE("Damaged shards are refused or give images that lie in them", "[data][webdataset]") {
  RngStream random(make_rng_key(11, "test:tar", 0));
  const std::string whole = tar_of({{"a.jpg", "one"}, {"a.cls", "1"}, {"b.jpg", "two"}, {"b.json", "{\"label\":2}"}});
  int accepted = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::string bytes = damaged(whole, 1024, random);
    try {
      for (const ShardImage& image : scan(bytes).images) {
        REQUIRE(image.offset <= bytes.size());
        REQUIRE(image.size <= bytes.size() - image.offset);
        REQUIRE(image.label >= 0);
      }
      ++accepted;
    } catch (const UserError&) {
    }
  }
  CHECK(accepted > 200);
}

TEST_CASE("Patterns of shards", "[data][webdataset]") {
  using List = std::vector<std::string>;
  CHECK(expand_braces("a.tar") == List{"a.tar"});
  CHECK(expand_braces("a.tar,b.tar") == List{"a.tar", "b.tar"});
  CHECK(expand_braces("s-{008..011}.tar") == List{"s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"});
  CHECK(expand_braces("s-{8..11}") == List{"s-8", "s-9", "s-10", "s-11"});
  CHECK(expand_braces("s-{00..05..2}") == List{"s-00", "s-02", "s-04"});
  CHECK(expand_braces("s-{9..0..4}") == List{"s-9", "s-5", "s-1"});
  CHECK_THROWS_WITH(expand_braces("s-{1..9..0}"), contains_text("steps of 0"));
  CHECK(expand_braces("{2..0}") == List{"2", "1", "0"});
  CHECK(expand_braces("{00..1}") == List{"00", "01"});
  CHECK(expand_braces("{a,b}{1,2}") == List{"a1", "a2", "b1", "b2"});
  CHECK(expand_braces("x{a,b{0..1},}y,z") == List{"xay", "xb0y", "xb1y", "xy", "z"});
  CHECK(expand_braces("{0..1,5,7..8}") == List{"0", "1", "5", "7", "8"});
  CHECK(expand_braces("{a..c}") == List{"a..c"});
  CHECK(expand_braces("0..3") == List{"0..3"});
  for (const char* pattern :
       {"", ",", "a,", "{a", "a}", "{", "a{b}}", "{}", "{0..9999999}", "{0..999999},a", "{0..999}{0..999}{0..9}",
        "{0..999999999999999999}", "{{{{{{{{{{{{{{{{{{{{{{a}}}}}}}}}}}}}}}}}}}}}}"}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(expand_braces(pattern), UserError);
  }
}

TEST_CASE("Packed shards hold the folders' images, to the byte and always the same", "[data][webdataset]") {
  TemporaryFolder folder;
  const auto put = [&](const std::string& path, const std::string& bytes) {
    fs::create_directories((folder.path / path).parent_path());
    write_file(folder / path, bytes);
  };
  const std::string jpeg = "\xff\xd8\xff", png = "\x89PNG";
  for (int i = 0; i < 7; ++i) put(fmt::format("in/train/bee eater/{}.jpg", i), jpeg + std::to_string(i));
  put("in/train/ant/a.b.JPEG", png + "ant");
  put("in/train/ant/empty.png", "");
  put("in/test/ant/1.jpg", jpeg + "x");
  put("in/test/bee eater/1.jpg", jpeg + "y");
  const auto pack = [&](const std::string& output, PackOptions options = {}) {
    options.input = folder / "in";
    options.output = folder / output;
    return pack_shards(options);
  };
  const PackReport report = pack("out", {.shard_size = 4});
  CHECK(report.train_images == 9);
  CHECK(report.train_shards == 3);
  CHECK(report.val_images == 2);
  CHECK(report.val_shards == 1);
  CHECK(read_file(folder / "out/classes.txt") == "ant\nbee eater\n");
  uint64_t bytes = 0;
  for (const char* shard : {"train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"}) {
    bytes += fs::file_size(folder / ("out/" + std::string(shard)));
    CHECK(to_json(scan_shard(folder / ("out/" + std::string(shard)))) ==
          read_file(folder / ("out/" + std::string(shard) + ".index.json")));
  }
  CHECK(report.bytes == bytes);
  CHECK_FALSE(fs::exists(folder / "out.partial"));
  for (const Split split : {Split::train, Split::test}) {
    const auto before = open_dataset("image_folder", folder / "in", split),
               after = open_dataset("webdataset", folder / "out", split);
    CHECK(contents(*before) == contents(*after));
    CHECK(before->info().class_names == after->info().class_names);
  }
  CHECK(open_dataset("webdataset", folder / "out", Split::train)->image_name(0) ==
        folder / "out/train-000000.tar:00000000.png");

  pack("again/", {.shard_size = 4, .workers = 1});  // a slash at the end, other workers
  for (const auto& entry : fs::directory_iterator(folder / "out")) {
    CHECK(read_file(entry.path().string()) == read_file(folder / "again" + ("/" + entry.path().filename().string())));
  }
  pack("shuffled", {.shard_size = 4, .shuffle = 5});
  std::vector<std::string> in_order = contents(*open_dataset("webdataset", folder / "out", Split::train));
  std::vector<std::string> shuffled = contents(*open_dataset("webdataset", folder / "shuffled", Split::train));
  CHECK(in_order != shuffled);
  std::sort(in_order.begin(), in_order.end());
  std::sort(shuffled.begin(), shuffled.end());
  CHECK(in_order == shuffled);
  CHECK(read_file(folder / "out/val-000000.tar") == read_file(folder / "shuffled/val-000000.tar"));

  CHECK_THROWS_WITH(pack("out"), contains_text("out: exists already"));
  fs::create_directory(folder / "new.partial");
  CHECK_THROWS_WITH(pack("new"), contains_text("new.partial: exists already, from a pack that was broken off"));
  CHECK_THROWS_WITH(pack("other", {.shard_size = 0}), contains_text("--shard-size: expected 1..1000000, got 0"));
  CHECK_THROWS_WITH(pack("other", {.workers = 0}), contains_text("--workers"));
  fs::create_symlink(folder / "nowhere", folder / "in/train/ant/gone.jpg");
  CHECK_THROWS_WITH(pack("other"), contains_text("train/ant/gone.jpg: cannot be read"));
  CHECK_FALSE(fs::exists(folder / "other"));
  CHECK_FALSE(fs::exists(folder / "other.partial"));
  for (const char* inside : {"in/train", "in/train/shards", "in/test/a/b", "in/train/../test/x"}) {
    CHECK_THROWS_WITH(pack_shards({.input = folder / "in", .output = folder / inside}),
                      contains_text("expected a folder outside of"));
  }
  CHECK_FALSE(fs::exists(folder / "in/train/shards"));
  CHECK_THROWS_WITH(pack_shards({.input = folder / "none", .output = folder / "other"}),
                    contains_text("no such folder"));
  fs::remove(folder / "in/train/ant/gone.jpg");
  fs::rename(folder / "in/test", folder / "in/tests");
  CHECK(pack("train only").val_shards == 0);
}

TEST_CASE("A pack that cannot be written leaves nothing behind", "[data][webdataset]") {
  TemporaryFolder folder;
  fs::create_directories(folder / "in/train/a");
  write_file(folder / "in/train/a/1.jpg", std::string(200000, 'x'));
  ::rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const ::rlimit small{100000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string message;
  try {
    pack_shards({.input = folder / "in", .output = folder / "out"});
  } catch (const Error& error) {
    message = error.what();
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(message, contains_text("train-000000.tar: cannot be written: File too large"));
  CHECK_FALSE(fs::exists(folder / "out"));
  CHECK_FALSE(fs::exists(folder / "out.partial"));
}
