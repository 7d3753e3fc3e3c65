// "Did you mean": the closest of several words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace luq {

// The candidate nearest to `word` by edit distance, or "" when none is close (more than a third of the letters differ).
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// "; did you mean <the nearest>?" for the end of a message, or "" when none is close.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace luq
