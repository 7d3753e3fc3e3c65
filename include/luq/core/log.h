// What a program says beside its results.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace luq {

// From the least that is said to nothing at all.
enum class LogLevel { debug, info, warning, error, off };

inline constexpr const char* log_level_names[] = {"debug", "info", "warning", "error", "off"};

// What is said on terminals, or where standard output and error lead, from this level on; info at first. It does not
// make the log.txt of a run shorter.
void set_log_level(LogLevel level);
LogLevel log_level();

// The name in front of what follows.
void set_log_program(const std::string& program);
// "program: warning: text" on standard error, in one piece; and the same with "error". Nothing is thrown: what cannot
// be written is lost.
void log_warning(const std::string& text) noexcept;
void log_error(const std::string& text) noexcept;

}  // namespace luq
