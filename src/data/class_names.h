// Names of classes that a reader cannot tell apart.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace luq {

// A name in quotes, with everything but printable ASCII as \u00e9: code points, or \xff for bytes that are no UTF-8.
std::string escaped(const std::string& name);

// Why the names look alike though they differ: "in Unicode's form (composed or decomposed)", "in capitals", "in blanks
// at an end", or several of these; "" for names that are equal, or that differ otherwise. Letters of Hangul are not
// compared by their parts.
std::string why_alike(const std::string& a, const std::string& b);

// "the class 'x' stands twice, as 0 and as 1; they are different classes here" for the first such name, or "".
std::string first_twice(const std::vector<std::string>& names);

// "'caf\u00e9' and 'cafe\u0301' differ in ... alone" for the first names, one of `a` and one of `b`, that look alike;
// "" where there are none. With capitals false, names that differ in these too are different ones ('A' and 'a').
std::string first_alike(const std::vector<std::string>& a, const std::vector<std::string>& b, bool capitals = true);

}  // namespace luq
