// Data sets of image files in folders of classes: order, labels, files of labels in every form, and every fault they
// must name.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "luq/core/error.h"
#include "luq/core/rng.h"
#include "luq/data/dataset.h"
#include "src/data/label_file.h"
#include "tests/catch.h"
#include "tests/damage.h"
#include "tests/temporary_folder.h"
#include "tests/unit/dataset_contents.h"

using namespace luq;
using luq::test::contents;

namespace {

namespace fs = std::filesystem;

// A file that holds its own path, so that a test sees which one was read.
void put(const TemporaryFolder& folder, const std::string& path) {
  fs::create_directories((folder.path / path).parent_path());
  write_file(folder / path, path);
}

std::unique_ptr<Dataset> open_folder(const TemporaryFolder& folder, Split split, const ImageFileOptions& options = {},
                                     const std::string& name = "image_folder") {
  return open_dataset(name, folder.path.string(), split, {}, options);
}

std::string wnid(int64_t i) { return fmt::format("n{:08}", 1000 + 7 * i); }

void put_imagenet(const TemporaryFolder& folder, const std::string& prefix, int64_t classes = 1000) {
  for (int64_t i = 0; i < classes; ++i) put(folder, fmt::format("{}/{}/{}_1.JPEG", prefix, wnid(i), wnid(i)));
}

}  // namespace

TEST_CASE("Images of every format are taken by their names, test images in one folder too", "[data][image_folder]") {
  TemporaryFolder folder;
  std::vector<std::string> expected, flat;
  for (const char* name : {"a.bmp", "b.dib", "c.gif", "d.JFIF", "e.jpe", "f.jpeg", "g.jpg", "h.pbm", "i.pgm", "j.png",
                           "k.pnm", "l.PPM", "m.tif", "n.TIFF", "o.WebP"}) {
    put(folder, std::string("train/ant/") + name);
    put(folder, std::string("val/") + name);
    expected.push_back(std::string("train/ant/") + name + ":0");
    flat.push_back(std::string("val/") + name + ":0");
  }
  for (const char* path : {"val/a.svg", "val/._a.bmp"}) put(folder, path);
  std::string labels;
  for (size_t i = 0; i < flat.size(); ++i) labels += "ant\n";
  write_file(folder / "val/val.txt", labels);
  CHECK(contents(*open_folder(folder, Split::train)) == expected);
  const auto test = open_folder(folder, Split::test);
  CHECK(contents(*test) == flat);
  CHECK(test->info().unused.to_text() == "2 files are not used: 1 ._*, 1 .svg");
}

TEST_CASE("Folders of classes give torchvision's order, whatever the files are called", "[data][image_folder]") {
  TemporaryFolder folder;
  // What torchvision 0.29's ImageFolder gives for these files.
  const std::vector<std::string> expected = {
      "train/Zebra/1.png:0",       "train/ant/.hidden.png:1",   "train/ant/B.JPEG:1",
      "train/ant/a.jpg:1",         "train/ant/b.Jpeg:1",        "train/ant/inner/0.jpg:1",
      "train/ant/inner-2/0.jpg:1", "train/ant/inner/x/0.PNG:1", "train/bee eater/\xc3\xbc.jpg:2"};
  for (const std::string& entry : expected) put(folder, entry.substr(0, entry.size() - 2));
  put(folder, "train/ant/readme.txt");
  put(folder, "train/ant/noextension");
  put(folder, "train/list.jpg");  // beside the classes: not one of them
  for (const char* path : {"val/ant/1.jpg", "val/bee eater/1.jpg", "val/Zebra/1.jpg"}) put(folder, path);

  for (const char* path : {"train/ant/._a.jpg", "train/ant/.DS_Store", "train/ant/.ipynb_checkpoints/a.jpg",
                           "train/__MACOSX/ant/a.jpg", "train/Zebra/film.MP4"}) {
    put(folder, path);
  }

  const auto train = open_folder(folder, Split::train);
  CHECK(contents(*train) == expected);
  CHECK(train->info().unused.to_text() ==
        "8 files are not used: 1 .DS_Store, 1 ._*, 1 .jpg beside the folders of classes, 1 .mp4, 1 .txt, 1 folder "
        ".ipynb_checkpoints, 1 folder __MACOSX, 1 without extension");
  CHECK(train->info().unused.kinds.at(".txt").names == std::vector<std::string>{folder / "train/ant/readme.txt"});
  const DatasetInfo& info = train->info();
  CHECK(info.name == "image_folder");
  CHECK(info.encoded);
  CHECK(info.images == 9);
  CHECK(info.num_classes == 3);
  CHECK(info.channels == 3);
  CHECK(info.class_names == std::vector<std::string>{"Zebra", "ant", "bee eater"});
  CHECK(info.mean.size() == 3);
  CHECK(train->image_name(0) == folder / "train/Zebra/1.png");
  CHECK(contents(*open_folder(folder, Split::test)) ==
        std::vector<std::string>{"val/Zebra/1.jpg:0", "val/ant/1.jpg:1", "val/bee eater/1.jpg:2"});
  uint8_t pixel = 0;
  CHECK_THROWS_WITH(train->read(0, &pixel), contains_text("holds image files, not pixels"));
}

TEST_CASE("Folders and images beside those of the splits are counted once", "[data][image_folder]") {
  TemporaryFolder folder;
  for (const char* path : {"train/a/1.jpg", "val/a/1.jpg", "README", "LICENSE", "labels.csv", "notes/a/b.txt",
                           "__MACOSX/a/1.jpg", "._x.jpg"}) {
    put(folder, path);
  }
  const auto warnings = [&] {
    const auto train = open_folder(folder, Split::train), test = open_folder(folder, Split::test);
    return warnings_of({&train->info(), &test->info()});
  };
  CHECK(warnings().empty());
  for (const char* path : {"test/a/z.jpg", "valid/a/z.jpg", "train2/z.png", "photo.jpg"}) put(folder, path);
  CHECK(warnings() ==
        std::vector<std::string>{"4 files are not used: 1 .jpg beside train/, 1 folder test, 1 folder train2, 1 folder "
                                 "valid; luqtrain validate-data lists them"});
  CHECK(open_folder(folder, Split::test)->info().unused.kinds.at("folder test").names ==
        std::vector<std::string>{folder / "test"});
  fs::remove_all(folder.path / "val");
  CHECK(open_folder(folder, Split::test)->info().unused.to_text() == "1 file is not used: 1 folder valid");
  fs::remove_all(folder.path / "train");
  CHECK(open_folder(folder, Split::test)->info().unused.to_text() ==
        "3 files are not used: 1 .jpg beside test/, 1 folder train2, 1 folder valid");
}

TEST_CASE("Links are followed, and a loop of links is named", "[data][image_folder]") {
  TemporaryFolder folder;
  put(folder, "elsewhere/cats/1.jpg");
  put(folder, "elsewhere/one.jpg");
  fs::create_directories(folder / "data/train/dog");
  fs::create_directory_symlink(folder / "elsewhere/cats", folder / "data/train/cat");
  fs::create_symlink(folder / "elsewhere/one.jpg", folder / "data/train/dog/2.jpg");
  fs::create_symlink(folder / "nowhere", folder / "data/train/dog/3.jpg");
  const auto open = [&] { return open_dataset("image_folder", folder / "data", Split::train); };
  const auto train = open();
  REQUIRE(train->info().images == 3);
  std::vector<uint8_t> bytes;
  CHECK(train->read_file(0, bytes) == 0);
  CHECK(std::string(bytes.begin(), bytes.end()) == "elsewhere/cats/1.jpg");
  CHECK(train->read_file(1, bytes) == 1);
  CHECK(std::string(bytes.begin(), bytes.end()) == "elsewhere/one.jpg");
  CHECK_THROWS_WITH(train->read_file(2, bytes), contains_text("train/dog/3.jpg: cannot be read: No such file"));

  fs::create_directory_symlink(folder / "data/train/dog", folder / "data/train/dog/again");
  CHECK_THROWS_WITH(open(), contains_text("dog/again: a link to a folder in which it lies"));
}

TEST_CASE("An image that is no file is refused without waiting for it", "[data][image_folder]") {
  TemporaryFolder folder;
  put(folder, "train/a/1.jpg");
  REQUIRE(::mkfifo((folder / "train/a/2.jpg").c_str(), 0600) == 0);
  const auto train = open_folder(folder, Split::train);
  std::vector<uint8_t> bytes;
  CHECK_THROWS_WITH(train->read_file(1, bytes), contains_text("train/a/2.jpg: cannot be read: it is not a file"));
  fs::remove(folder / "train/a/1.jpg");
  CHECK_THROWS_WITH(train->read_file(0, bytes), contains_text("No such file"));
  write_file(folder / "train/a/1.jpg", "");
  CHECK(train->read_file(0, bytes) == 0);
  CHECK(bytes.empty());
  REQUIRE(::truncate((folder / "train/a/1.jpg").c_str(), (int64_t{1} << 30) + 1) == 0);
  CHECK_THROWS_WITH(train->read_file(0, bytes), contains_text("larger than 1 GiB"));
}

TEST_CASE("Folders of classes that cannot be used are named, with what to do", "[data][image_folder]") {
  TemporaryFolder folder;
  const auto refusal = [&](Split split, const ImageFileOptions& options = {}) -> std::string {
    try {
      open_folder(folder, split, options);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal(Split::train),
             contains_text("holds neither train/ nor val/ nor test/") && contains_text("data.path"));
  CHECK_THROWS_WITH(open_dataset("image_folder", folder / "none", Split::train), contains_text("no such folder"));
  put(folder, "file");
  CHECK_THROWS_WITH(open_dataset("image_folder", folder / "file", Split::train), contains_text("not a folder"));

  fs::create_directory(folder / "train");
  CHECK_THAT(refusal(Split::train), contains_text("expected a folder for each class, got none"));
  CHECK_THAT(refusal(Split::test), contains_text("val or ") && contains_text("got neither folder"));
  put(folder, "train/a/1.jpg");
  put(folder, "train/b/1.txt");
  put(folder, "train/c/1.jpg");
  CHECK_THAT(refusal(Split::train), contains_text("in each of the 3 folders of classes, got none in b"));
  put(folder, "train/b/1.jpg");
  put(folder, "test/a/1.jpg");
  put(folder, "test/b/1.jpg");
  put(folder, "test/d/1.jpg");
  for (const Split split : {Split::train, Split::test}) {
    CHECK_THAT(refusal(split), contains_text("only in the former: c; only in the latter: d"));
  }
  fs::rename(folder / "test/d", folder / "test/c");
  CHECK(refusal(Split::train) + refusal(Split::test) == "");
  CHECK(contents(*open_folder(folder, Split::test)) ==
        std::vector<std::string>{"test/a/1.jpg:0", "test/b/1.jpg:1", "test/d/1.jpg:2"});
  fs::create_directory(folder / "val");
  CHECK_THAT(refusal(Split::test), contains_text("val: holds neither folders of classes nor images"));

  if (::geteuid() != 0) {  // nothing is unreadable to root
    fs::permissions(folder / "train/b", fs::perms::none);
    CHECK_THAT(refusal(Split::train), contains_text("train/b: the folder cannot be read"));
    fs::permissions(folder / "train/b", fs::perms::owner_all);
  }
  for (int i = 0; i < 9; ++i) fs::create_directory(folder / ("train/e" + std::to_string(i)));
  fs::remove(folder / "val");
  CHECK_THAT(refusal(Split::train), contains_text("e0, e1, e2, e3, e4 and 4 more"));
}

TEST_CASE("Test images alone are enough to evaluate", "[data][image_folder]") {
  TemporaryFolder folder;
  put(folder, "val/a/1.jpg");
  put(folder, "val/b/1.jpg");
  CHECK(contents(*open_folder(folder, Split::test)) == std::vector<std::string>{"val/a/1.jpg:0", "val/b/1.jpg:1"});
  CHECK_THROWS_WITH(open_folder(folder, Split::train), contains_text("train: no such folder"));
  CHECK_THROWS_WITH(open_folder(folder, Split::test, {.val_labels = "none"}),
                    contains_text("data.val_labels none: expected none, since the test images lie in folders"));
  CHECK_THROWS_WITH(open_folder(folder, Split::test, {.devkit_classes = "none"}), contains_text("data.devkit_classes"));
}

TEST_CASE("Test images in one folder take their classes from a file", "[data][image_folder]") {
  TemporaryFolder folder;
  for (const char* path :
       {"train/n2/1.jpg", "train/n1/1.jpg", "train/n3/1.jpg", "val/x_2.JPEG", "val/x_1.JPEG", "val/x_3.JPEG"}) {
    put(folder, path);
  }
  const std::vector<std::string> expected = {"val/x_1.JPEG:2", "val/x_2.JPEG:0", "val/x_3.JPEG:0"};
  const auto refusal = [&](const ImageFileOptions& options = {}) -> std::string {
    try {
      const auto test = open_folder(folder, Split::test, options);
      CHECK(contents(*test) == expected);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal(), contains_text("holds 3 images and no folders of classes") && contains_text("data.val_labels"));
  CHECK_THAT(refusal({.val_labels = "labels"}), contains_text("labels: no such file"));
  write_file(folder / "labels", "n3\nn1\nn1\n");
  CHECK(refusal({.val_labels = folder / "labels"}) == "");
  CHECK(refusal({.val_labels = "labels"}) == "");  // beside train/ and val/
  CHECK_THAT(refusal(), contains_text("data.val_labels"));
  write_file(folder / "val.txt", "x_1.JPEG 2\nx_2.JPEG 0\nx_3.JPEG 0\n");
  CHECK(refusal() == "");
  write_file(folder / "val/LOC_val_solution.csv",
             "ImageId,PredictionString\nx_3,n1 1 2 3 4 n1 5 6 7 8 \nx_1,n3 1 2 3 4 \nx_2,n1 1 1 1 1\n");
  write_file(folder / "val.txt", "is not read");
  CHECK(refusal() == "");

  write_file(folder / "ids", "1\n3\n3\n");
  CHECK_THAT(refusal({.val_labels = "ids"}),
             contains_text("development kit's ids") && contains_text("data.devkit_classes"));
  write_file(folder / "devkit", "n3 the third\nn2\nn1\n");
  CHECK(refusal({.val_labels = "ids", .devkit_classes = folder / "devkit"}) == "");
  CHECK_THAT(refusal({.val_labels = "ids", .devkit_classes = folder / "none"}), contains_text("none: cannot be read"));
}

TEST_CASE("ImageNet's archive of Kaggle is read as it is unpacked", "[data][image_folder]") {
  TemporaryFolder folder;
  const std::string root = "ILSVRC/Data/CLS-LOC";
  put_imagenet(folder, root + "/train");
  put(folder, root + "/val/ILSVRC2012_val_00000001.JPEG");
  write_file(folder / "LOC_val_solution.csv",
             "ImageId,PredictionString\nILSVRC2012_val_00000001," + wnid(65) + " 1 2 3 4 \n");
  const auto train = open_folder(folder, Split::train, {}, "imagenet");
  CHECK(train->info().name == "imagenet");
  CHECK(train->info().images == 1000);
  CHECK(train->info().num_classes == 1000);
  CHECK(contents(*open_folder(folder, Split::test, {}, "imagenet")) ==
        std::vector<std::string>{root + "/val/ILSVRC2012_val_00000001.JPEG:65"});

  fs::rename(folder / (root + "/train/" + wnid(3)), folder / (root + "/train/cat"));
  CHECK_THROWS_WITH(open_folder(folder, Split::train, {}, "imagenet"), contains_text("1000 folders, among them 'cat'"));
  fs::remove_all(folder / (root + "/train/cat"));
  CHECK_THROWS_WITH(open_folder(folder, Split::train, {}, "imagenet"), contains_text("data.name: image_folder"));
}

TEST_CASE("Image folders are looked for in the usual places", "[data][image_folder]") {
  TemporaryFolder folder;
  ::setenv("LUQ_DATA_DIR", folder.path.c_str(), 1);
  CHECK(dataset_locations("image_folder") == std::vector<std::string>{folder / "image_folder", "data/image_folder"});
  CHECK(find_dataset("image_folder").empty());
  CHECK_THROWS_WITH(open_dataset("image_folder", "", Split::train),
                    contains_text("not found in " + (folder / "image_folder") + " (no such folder)") &&
                        contains_text("train/<class>/*.JPEG"));
  CHECK_THROWS_WITH(open_dataset("imagenet", "", Split::train), contains_text("n01440764"));
  put(folder, "image_folder/train/a/1.jpg");
  CHECK(find_dataset("image_folder") == folder / "image_folder");
  CHECK(open_dataset("image_folder", "", Split::train)->info().images == 1);
  ::unsetenv("LUQ_DATA_DIR");
}

namespace {

const std::vector<std::string> label_images = {"a.jpg", "b.JPEG", "c d.png"}, label_classes = {"n1", "n2", "n3"};

std::vector<int32_t> labels_of(const std::string& text, const std::vector<std::string>& devkit = {},
                               const std::vector<std::string>& classes = label_classes) {
  return parse_label_file(text, "F", label_images, classes, devkit);
}

}  // namespace

TEST_CASE("Files of labels: every form", "[data][image_folder]") {
  const std::vector<int32_t> expected = {2, 0, 1};
  for (const char* text :
       {"n3\nn1\nn2", "n3\r\nn1\r\n\r\nn2\r\n", "\xef\xbb\xbfn3\n n1 \nn2\n\n", "a.jpg n3\nc d.png n2\nb.JPEG n1\n",
        "b.JPEG\tn1\nc d.png\tn2\na.jpg\tn3", "val/a.jpg 2\nval/b.JPEG 0\n/val/c d.png 1\n", "a,n3\nb,n1\nc d,n2\n",
        "image,class\nc d.png, n2\na.jpg, n3\nb.JPEG, n1\n",
        "ImageId,PredictionString\na,n3 1 2 3 4 \nb,n1 5 6 7 8\nc d,n2",
        "\"image\",\"class\"\n\"a.jpg\",\"n3\"\n\"b.JPEG\" , \"n1 5 6 7 8\"\n\"c d\",n2"}) {
    CAPTURE(text);
    CHECK(labels_of(text) == expected);
  }
  // Excel's: semicolons, quotes, empty cells and rows, a line that names the separator, tabs.
  for (const char* text :
       {"image;class\r\na.jpg;n3\r\nb.JPEG;n1\r\nc d.png;n2\r\n",
        "sep=;\r\na.jpg;n3\r\nb.JPEG;n1\r\n;;\r\n\"c d.png\";n2;;\r\n",
        "\xef\xbb\xbf\"image\";\"class\"\n\"a.jpg\";\"n3 the, third\"\n\"b.JPEG\";n1\n\"c d.png\";\"n2\"\n",
        "image\tclass\na.jpg\tn3\nb.JPEG\tn1\n\"c d.png\"\tn2\n", "a,n3,,\nb,n1,,\nc d,n2,,\n,,,\n",
        "a.jpg;n3 x, y\nb.JPEG;n1\nc d.png;n2\n"}) {
    CAPTURE(text);
    CHECK(labels_of(text) == expected);
  }
  // Names of classes with blanks, separators and quotes.
  const std::vector<std::string> odd = {"a \"b\"", "c, d", "e f"};
  CHECK(labels_of("a.jpg,e f\nb.JPEG,\"a \"\"b\"\"\"\nc d.png,\"c, d\"\n", {}, odd) == expected);
  CHECK(labels_of("e f\na \"b\"\nc, d\n", {}, odd) == expected);
  CHECK(labels_of("e f\n\"a \"\"b\"\"\"\n\"c, d\"\n", {}, odd) == expected);
  CHECK(labels_of("1\n3\n2\n", {"n3", "n2", "n1"}) == expected);
  // Where every line names a class, numbers are names: here the order of "10" and "2" differs from that of the numbers.
  CHECK(labels_of("a 2\nb 1\nc d 10\n", {}, {"1", "10", "2"}) == expected);
  CHECK(labels_of("a 2\nb 0\nc d 1\n", {}, {"1", "10", "2"}) == expected);
  CHECK(labels_of("2\n1\n10\n", {}, {"1", "10", "2"}) == expected);
}

TEST_CASE("Files of labels: what is wrong is named with its line", "[data][image_folder]") {
  const auto refusal = [](const std::string& text, const std::vector<std::string>& devkit = {}) -> std::string {
    try {
      labels_of(text, devkit);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  CHECK_THAT(refusal(""), contains_text("F: expected the classes of 3 images, got an empty file"));
  CHECK_THAT(refusal(" \n\n"), contains_text("empty file"));
  CHECK_THAT(refusal("n1\nn2\n"), contains_text("a line for each of the 3 images, got 2"));
  CHECK_THAT(refusal("n1\n\nn2\nn4\n"), contains_text("F:4: expected one of the 3 classes, got 'n4'"));
  CHECK_THAT(refusal("n1\nn2\n" + std::string(100, 'x')), contains_text("x...'"));
  CHECK_THAT(refusal("n1\nn2\n\x01\x7f"), contains_text("got '?"
                                                        "?'"));
  CHECK_THAT(refusal("1\n2\n3\n"), contains_text("data.devkit_classes"));
  CHECK_THAT(refusal("1\n2\n0\n", label_classes), contains_text("F:3: expected an id in 1..3, got 0"));
  CHECK_THAT(refusal("1\n2\n4\n", label_classes), contains_text("F:3: expected an id in 1..3, got 4"));
  CHECK_THAT(refusal("1\n2\n-3\n", label_classes), contains_text("F:1"));
  CHECK_THAT(refusal("1\n2\n3\n", {"n1", "n2", "other"}),
             contains_text("F:3: expected one of the 3 classes, got 'other'"));
  CHECK_THAT(refusal("a.jpg n1\nb.JPEG n2\n"), contains_text("1 of 3 images have no line, the first of them c d.png"));
  CHECK_THAT(refusal("a.jpg n1\nb.JPEG n2\na.jpg n1\n"), contains_text("F:3: the image 'a.jpg' stands twice"));
  CHECK_THAT(refusal("a.jpg n1\ne.jpg n2\n"), contains_text("F:2: there is no image 'e.jpg'"));
  CHECK_THAT(refusal("a.jpg 0\nb.JPEG 1\nc d.png 3\n"), contains_text("F:3") && contains_text("0..2"));
  CHECK_THAT(refusal("a.jpg 0\nb.JPEG n1\nc d.png 1\n"), contains_text("F:2") && contains_text("on every line"));
  CHECK_THAT(refusal("a.jpg 0\nb.JPEG 99999999999999999999\nc d.png 1\n"), contains_text("F:2"));
  CHECK_THAT(refusal("a.jpg n1\nword\n"), contains_text("F:2: expected an image and its class, got 'word'"));
  CHECK_THAT(refusal("a,n1\nb,\n"), contains_text("F:2: expected an image and its class"));
  CHECK_THAT(refusal("\"a,n1\nb,n1\n"), contains_text("F:1: a quote that does not close"));
  CHECK_THAT(refusal("a,\"n1\n"), contains_text("F:1: a quote that does not close"));
  CHECK_THAT(refusal("a,n1,3\n"), contains_text("F:1: expected an image and its class"));
}

TEST_CASE("Lists of classes", "[data][image_folder]") {
  CHECK(parse_class_list("n2 tench, Tinca\r\n\nn1\n", "F") == std::vector<std::string>{"n2", "n1"});
  CHECK_THROWS_WITH(parse_class_list("\n", "F"), contains_text("empty file"));
  CHECK_THROWS_WITH(parse_class_list("n1\nn2\nn1 again\n", "F"), contains_text("F:3: the class 'n1' stands twice"));
}

TEST_CASE("Damaged files of labels are refused or give labels in range", "[data][image_folder]") {
  RngStream random(make_rng_key(5, "test:label_file", 0));
  const std::vector<std::string> files = {"n3\nn1\nn2\n", "a.jpg n3\nc d.png n2\nb.JPEG n1\n",
                                          "ImageId,PredictionString\na,n3 1 2\nb,n1 5 6\nc d,n2", "1\n3\n2\n"};
  int accepted = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::string text = damaged(files[random.below(4)], 8, random);
    try {
      const std::vector<int32_t> labels = labels_of(text, {"n3", "n2", "n1"});
      REQUIRE(labels.size() == 3);
      for (const int32_t label : labels) REQUIRE((label >= 0 && label < 3));
      ++accepted;
    } catch (const UserError&) {
    }
  }
  CHECK(accepted > 500);
}
