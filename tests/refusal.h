// The message with which something is refused.
#pragma once

#include <functional>
#include <string>

#include "luq/core/error.h"
#include "tests/catch.h"

namespace luq::test {

// Fails the test when `action` does not throw UserError.
inline std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  FAIL("accepted");
  return "";
}

}  // namespace luq::test
