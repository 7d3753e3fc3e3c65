// Strings from outside: paths and names are bytes, which need not be UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace luq {

// Whether all of it is UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

// The text for messages and pictures: control characters and bytes that are no UTF-8 as \xNN, the rest as it is.
std::string printable(std::string_view text);

}  // namespace luq
