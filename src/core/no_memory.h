// How the lack of memory is said, wherever it is found.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

namespace luq {

// Throws OutOfMemory `<where> out of memory: <bytes> bytes wanted, <bytes of tensors> in use`; where the number wanted
// is not known it is 0 and not said. `where` is what was being done, with a place in brackets first: "[data] a.jpg:".
[[noreturn]] void fail_out_of_memory(std::string_view where, int64_t bytes = 0);

// action(); std::bad_alloc, which names nothing, becomes OutOfMemory as above, and so does the system's word for it.
template <typename Action>
auto or_out_of_memory(std::string_view where, Action&& action) -> decltype(action()) {
  try {
    return std::forward<Action>(action)();
  } catch (const std::bad_alloc&) {
    fail_out_of_memory(where);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::not_enough_memory) throw;
    fail_out_of_memory(fmt::format("{} {}:", where, error.what()));
  }
}

}  // namespace luq
