// Catch2, whichever major version the system has.
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
// Matches a string that contains `text`.
inline auto contains_text(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }
#else
#include <catch2/catch.hpp>
// Matches a string that contains `text`.
inline auto contains_text(const std::string& text) { return Catch::Matchers::Contains(text); }
#endif
