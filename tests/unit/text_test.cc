#include "luq/core/text.h"

#include "luq/core/error.h"
#include "src/train/dataset_json.h"
#include "src/train/text_json.h"
#include "tests/catch.h"

namespace luq {

TEST_CASE("text: UTF-8 as RFC 3629 has it", "[text]") {
  for (const char* text : {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xc3\xa9 b"}) {
    CHECK(is_utf8(text));
  }
  for (const char* text :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2 ", "\xe0\x9f\xbf", "\xe0\xa0", "\xed\xa0\x80",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "caf\xe9"}) {
    INFO(printable(text));
    CHECK(!is_utf8(text));
  }
  CHECK(is_utf8(std::string_view("\0", 1)));
}

TEST_CASE("text: what a terminal cannot show is escaped", "[text]") {
  CHECK(printable("caf\xe9 \xc3\xa9 \x1b[1m\n\x7f") == "caf\\xe9 \xc3\xa9 \\x1b[1m\\x0a\\x7f");
}

TEST_CASE("dataset_json: class names are bytes, and come back as they were", "[dataset_json]") {
  DatasetInfo info;
  info.name = "image_folder";
  info.num_classes = 4;
  info.class_names = {"cat", "caf\xe9", " \"\\\n\x01", "\xc3\xa9"};
  const std::string json = to_json(info);
  CHECK(is_utf8(json));
  const DatasetInfo again = parse_dataset_info(json, "x");
  CHECK(again.class_names == info.class_names);
  CHECK(differing_classes(again, info).empty());
  info.class_names[1] = "caf\xe8";
  CHECK(differing_classes(again, info) == "class 1 was 'caf\\xe9' and is 'caf\\xe8'");
  // The first versions replaced what is no UTF-8.
  DatasetInfo old = again;
  old.class_names[1] = "caf\xef\xbf\xbd";
  CHECK(differing_classes(old, info).empty());
  for (const char* names : {"[[\"a\"]]", "[1]", "\"a\""}) {
    const size_t at = json.find("\"class_names\":") + 14;
    CHECK_THROWS_AS(parse_dataset_info(json.substr(0, at) + names + "}", "x"), UserError);
  }
}

}  // namespace luq
