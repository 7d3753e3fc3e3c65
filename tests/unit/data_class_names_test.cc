// Names of classes that look alike.
#include "src/data/class_names.h"

#include "luq/core/error.h"
#include "luq/data/dataset.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

using namespace luq;

namespace fs = std::filesystem;

namespace {

const std::string composed = "caf\xc3\xa9", decomposed = "cafe\xcc\x81";

}  // namespace

TEST_CASE("Names are shown with their code points", "[data][class_names]") {
  CHECK(escaped(composed) == "'caf\\u00e9'");
  CHECK(escaped(decomposed) == "'cafe\\u0301'");
  CHECK(escaped("a\tb ") == "'a\\u0009b '");
  CHECK(escaped("\xf0\x9f\x90\x9d\xff\xc3") == "'\\U0001f41d\\xff\\xc3'");
}

TEST_CASE("What names that look alike differ in is said", "[data][class_names]") {
  CHECK(why_alike(composed, decomposed) == "in Unicode's form (composed or decomposed)");
  CHECK(why_alike(decomposed, composed) == "in Unicode's form (composed or decomposed)");
  CHECK(why_alike("\xe3\x81\x8c", "\xe3\x81\x8b\xe3\x82\x99") == "in Unicode's form (composed or decomposed)");
  CHECK(why_alike("Cat", "cat") == "in capitals");
  CHECK(why_alike("cat ", "cat") == "in blanks at an end");
  CHECK(why_alike(" Caf\xc3\xa9", decomposed) ==
        "in Unicode's form (composed or decomposed) and capitals and blanks at an end");
  for (const auto& [a, b] : std::vector<std::pair<std::string, std::string>>{{"cat", "cat"},
                                                                             {"cat", "car"},
                                                                             {"cat", "cats"},
                                                                             {composed, "cafe"},
                                                                             {"caf\xc3\xa9", "caf\xc3\xa8"},
                                                                             {"", "a"}}) {
    INFO(a << " " << b);
    CHECK(why_alike(a, b) == "");
  }
  CHECK(first_alike({"ant", composed}, {"bee", decomposed}) ==
        "'caf\\u00e9' and 'cafe\\u0301' differ in Unicode's form (composed or decomposed) alone");
  CHECK(first_alike({"a", "b"}, {"A"}) == "'a' and 'A' differ in capitals alone");
  CHECK(first_alike({"a", "b"}, {"A"}, false) == "");
  CHECK(first_alike({"ant"}, {"bee"}) == "");
}

TEST_CASE("Folders whose names look alike are told apart in messages", "[data][class_names]") {
  TemporaryFolder folder;
  const auto put = [&](const std::string& path) {
    fs::create_directories((folder.path / path).parent_path());
    write_file(folder / path, "x");
  };
  put("train/" + composed + "/1.jpg");
  put("val/" + decomposed + "/1.jpg");
  CHECK_THROWS_WITH(
      open_dataset("image_folder", folder.path.string(), Split::train),
      contains_text("'caf\\u00e9' and 'cafe\\u0301' differ in Unicode's form") && contains_text("rename one of them"));
  put("train/" + decomposed + "/1.jpg");
  put("val/" + composed + "/1.jpg");
  const auto train = open_dataset("image_folder", folder.path.string(), Split::train);
  const auto test = open_dataset("image_folder", folder.path.string(), Split::test);
  const std::vector<std::string> warnings = warnings_of({&train->info(), &test->info()});
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], contains_text("they are different classes here"));
}
