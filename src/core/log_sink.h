// Where spdlog's lines go. Its own sinks lose what a descriptor does not take at once, or throw.
#pragma once

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "luq/core/log.h"

namespace luq {

// Gives whole lines, with their line break, to write_line(), one at a time.
class LineSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  virtual void write_line(std::string_view line) = 0;

 private:
  void sink_it_(const spdlog::details::log_msg& message) final;
  void flush_() final {}
};

// In a pattern, %* is "warning: " or "error: " for lines of these levels, and nothing for others.
std::unique_ptr<spdlog::formatter> make_line_formatter(const std::string& pattern);

spdlog::level::level_enum to_spdlog(LogLevel level);

// That what spdlog itself cannot do is said on standard error instead of thrown.
void report_errors(spdlog::logger& logger);

}  // namespace luq
