// The kinds of error that reach a user. Messages read `[where] expected ..., got ...` and say what to do.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace luq {

// Something went wrong that the user did not cause by a wrong argument (exit code 1).
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A mistake in what the user gave: a key, a path, a shape, a file (exit code 2).
class UserError : public Error {
 public:
  using Error::Error;
};

// There is no memory left for what was to be made; what was there before is as it was.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
[[noreturn]] void fail_user(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace luq
