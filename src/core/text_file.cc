#include "luq/core/text_file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include "luq/core/error.h"
#include "luq/core/stop_signals.h"

namespace luq {
namespace {

using namespace std::string_view_literals;

constexpr size_t max_bytes = size_t{1} << 30;
constexpr int patience_milliseconds = 10000, pause_milliseconds = 100;

constexpr std::pair<std::string_view, const char*> beginnings[] = {
    {"\x89PNG"sv, "a PNG image"},
    {"\xff\xd8\xff"sv, "a JPEG image"},
    {"GIF8"sv, "a GIF image"},
    {"II*\0"sv, "a TIFF image"},
    {"MM\0*"sv, "a TIFF image"},
    {"\x1f\x8b"sv, "a gzip file"},
    {"%PDF"sv, "a PDF file"},
    {"PK\x03\x04"sv, "a zip archive"},
    {"\x80\x02"sv, "a pickle of Python, as old PyTorch files are"},
    {"\x89HDF\r\n"sv, "an HDF5 file"},
    {"\x93NUMPY"sv, "an array of NumPy"},
    {"<!DOCTYPE html"sv, "a web page"},
    {"<!doctype html"sv, "a web page"},
    {"<html"sv, "a web page"},
};

}  // namespace

std::string kind_of_file(const std::string& bytes) {
  for (const auto& [beginning, kind] : beginnings) {
    if (bytes.starts_with(beginning)) return kind;
  }
  // The version of the format, and the name of the program that wrote it.
  if (bytes.size() > 4 && bytes[0] == 8 && bytes[1] > 0 && bytes[1] < 32 && bytes[2] == 0x12 && bytes[3] > 0 &&
      bytes[4] > ' ') {
    return "an ONNX model";
  }
  if (bytes.size() > 257 + 5 && bytes.compare(257, 5, "ustar") == 0) return "a tar file";
  if (bytes.size() > 9 && bytes[8] == '{' && bytes.compare(4, 4, "\0\0\0\0"sv) == 0) {
    return "a safetensors file, such as a checkpoint";
  }
  return "";
}

std::string plain_text(std::string bytes, const std::string& where, const std::string& file) {
  if (bytes.starts_with("\xff\xfe") || bytes.starts_with("\xfe\xff")) {
    fail_user("[{}] {}: is text in UTF-16, as Windows' programs save \"Unicode\"; save it as UTF-8", where, file);
  }
  if (bytes.find('\0') != std::string::npos) {
    const std::string kind = kind_of_file(bytes);
    fail_user("[{}] {}: expected a text file, got {}", where, file, kind.empty() ? "one that holds NUL bytes" : kind);
  }
  if (bytes.starts_with("\xef\xbb\xbf")) bytes.erase(0, 3);
  if (bytes.find('\r') == std::string::npos) return bytes;
  std::string text;
  text.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == '\r' && i + 1 < bytes.size() && bytes[i + 1] == '\n') continue;
    text += bytes[i] == '\r' ? '\n' : bytes[i];
  }
  return text;
}

std::string read_text_file(const std::string& where, const std::string& file) {
  // A pipe opens at once so, though nobody writes into it yet, and a signal can end the wait.
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  struct stat status {};
  if (descriptor < 0 || ::fstat(descriptor, &status) != 0) {
    const int error = errno;
    if (descriptor >= 0) ::close(descriptor);
    fail_user("[{}] {}: cannot be read: {}", where, file, std::strerror(error));
  }
  if (S_ISDIR(status.st_mode)) {
    ::close(descriptor);
    fail_user("[{}] {}: cannot be read: it is a folder, expected a file", where, file);
  }
  std::string bytes;
  std::array<char, 1 << 16> part{};
  ssize_t got = 0;
  int error = 0;
  bool nobody_writes = false;
  do {
    pollfd ready{.fd = descriptor, .events = POLLIN, .revents = 0};
    int waited = 0;
    while (!S_ISREG(status.st_mode) && waited < patience_milliseconds && ::poll(&ready, 1, pause_milliseconds) == 0) {
      waited += pause_milliseconds;
      if (!is_stopping()) continue;
      ::close(descriptor);
      throw_if_stopped();
    }
    got = ::read(descriptor, part.data(), part.size());
    error = got < 0 ? errno : 0;  // EAGAIN: somebody has a pipe open for writing, and takes the time
    if (got > 0) bytes.append(part.data(), static_cast<size_t>(got));
    nobody_writes = got == 0 && waited >= patience_milliseconds;
  } while ((got > 0 && bytes.size() <= max_bytes) || error == EINTR || error == EAGAIN);
  ::close(descriptor);
  if (nobody_writes) {
    fail_user("[{}] {}: cannot be read: nobody has opened this pipe for writing in {} seconds", where, file,
              patience_milliseconds / 1000);
  }
  if (error != 0) fail("[{}] {}: cannot be read: {}", where, file, std::strerror(error));
  if (bytes.size() > max_bytes) fail_user("[{}] {}: cannot be read: it is larger than 1 GiB", where, file);
  return plain_text(std::move(bytes), where, file);
}

}  // namespace luq
