#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "luq/core/error.h"
#include "luq/core/shell.h"
#include "luq/core/stop_signals.h"
#include "luq/core/text_file.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

// What bash makes of the words.
std::string echoed(const std::string& words) {
  const TemporaryFolder folder;
  write_file(folder / "script", "printf '%s|' " + words + "\n");
  std::string out;
  std::FILE* pipe = ::popen(("bash " + (folder / "script")).c_str(), "r");
  REQUIRE(pipe != nullptr);
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) out += static_cast<char>(c);
  REQUIRE(::pclose(pipe) == 0);
  return out;
}

TEST_CASE("shell: a quoted word is one word with the same bytes", "[shell]") {
  CHECK(shell_quote("runs/a-1_b.c=2") == "runs/a-1_b.c=2");
  CHECK(shell_quote("my run") == "'my run'");
  CHECK(shell_quote("") == "''");
  CHECK(shell_quote("it's") == R"('it'\''s')");
  CHECK(shell_quote("caf\xe9") == R"($'caf\351')");
  CHECK(shell_quote("caf\xc3\xa9") == "'caf\xc3\xa9'");
  CHECK(shell_path("-x") == "./-x");
  CHECK(shell_path("~") == "'~'");
  std::string words, expected;
  std::mt19937 random(3);
  for (int i = 0; i < 1000; ++i) {
    std::string word;
    for (uint32_t length = random() % 12; length > 0; --length) {
      word += random() % 2 == 0 ? static_cast<char>(1 + random() % 255)
                                : " '\"\\$`!*?[]{}~#;&|<>()-\n\t=aé1"[random() % 30];
    }
    words += shell_quote(word) + " ";
    expected += word + "|";
  }
  CHECK(echoed(words) == expected);
}

TEST_CASE("text_file: what Windows and Excel write is the same text", "[text_file]") {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& bytes) {
    write_file(folder / "a", bytes);
    return read_text_file("here", folder / "a");
  };
  for (const char* bytes : {"a\nb\n", "a\r\nb\r\n", "a\rb\r",
                            "\xef\xbb\xbf"
                            "a\r\nb\r\n",
                            "\xef\xbb\xbf"
                            "a\nb\n"}) {
    CHECK(read(bytes) == "a\nb\n");
  }
  CHECK(read("").empty());
  CHECK(read("a\r\r\n\r").size() == 4);
  CHECK_THROWS_WITH(read(std::string("\xff\xfe"
                                     "a\0",
                                     4)),
                    contains_text("is text in UTF-16"));
  CHECK_THROWS_WITH(read(std::string("\xfe\xff\0a", 4)), contains_text("is text in UTF-16"));
  CHECK_THROWS_WITH(read(std::string("a\0", 2)), contains_text("holds NUL bytes"));
  CHECK_THROWS_WITH(read(std::string("\x89PNG\r\n\0", 7)), contains_text("expected a text file, got a PNG image"));
  CHECK_THROWS_WITH(read_text_file("here", folder / "no"), contains_text("[here] ") && contains_text("No such file"));
  CHECK_THROWS_WITH(read_text_file("here", folder.path), contains_text("it is a folder"));
  // What opens and cannot be read is an error, no empty text.
  CHECK_THROWS_AS(read_text_file("here", "/proc/self/mem"), Error);
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  const StopSignals signals;
  std::raise(SIGTERM);
  CHECK_THROWS_AS(read_text_file("here", folder / "pipe"), Stopped);
}

}  // namespace
}  // namespace luq
