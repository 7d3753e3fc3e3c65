#include "luq/core/log.h"

#include <unistd.h>

#include <atomic>

#include "luq/core/standard_streams.h"
#include "src/core/log_sink.h"

namespace luq {
namespace {

std::atomic<LogLevel> level = LogLevel::info;

class LevelPrefix : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& line) override {
    const std::string_view prefix = message.level == spdlog::level::warn  ? "warning: "
                                    : message.level == spdlog::level::err ? "error: "
                                                                          : "";
    line.append(prefix.data(), prefix.data() + prefix.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<LevelPrefix>(); }
};

class StandardErrorSink : public LineSink {
  void write_line(std::string_view line) override { write_standard(STDERR_FILENO, line); }
};

thread_local bool is_lost = false;

std::shared_ptr<spdlog::logger> make_program_log(const std::string& program) {
  auto sink = std::make_shared<StandardErrorSink>();
  sink->set_formatter(make_line_formatter("%n: %*%v"));
  auto log = std::make_shared<spdlog::logger>(program, sink);
  log->set_error_handler([](const std::string&) { is_lost = true; });
  return log;
}

std::shared_ptr<spdlog::logger>& program_log() {
  static std::shared_ptr<spdlog::logger> log = make_program_log("luq");
  return log;
}

void say(spdlog::level::level_enum at, const std::string& text) noexcept {
  if (at < to_spdlog(level)) return;
  is_lost = false;
  program_log()->log(at, spdlog::string_view_t(text.data(), text.size()));
  if (!is_lost) return;
  for (const std::string_view part : {std::string_view(text), std::string_view("\n")})
    write_standard(STDERR_FILENO, part);
}

}  // namespace

void LineSink::sink_it_(const spdlog::details::log_msg& message) {
  spdlog::memory_buf_t line;
  formatter_->format(message, line);
  write_line({line.data(), line.size()});
}

std::unique_ptr<spdlog::formatter> make_line_formatter(const std::string& pattern) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::local, "\n");
  formatter->add_flag<LevelPrefix>('*').set_pattern(pattern);
  return formatter;
}

spdlog::level::level_enum to_spdlog(LogLevel which) {
  switch (which) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
    case LogLevel::off:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

void report_errors(spdlog::logger& logger) {
  logger.set_error_handler([](const std::string& reason) {
    write_standard(STDERR_FILENO, "a line of the log is lost: ");
    write_standard(STDERR_FILENO, reason);
    write_standard(STDERR_FILENO, "\n");
  });
}

void set_log_level(LogLevel which) { level = which; }
LogLevel log_level() { return level; }

void set_log_program(const std::string& program) { program_log() = make_program_log(program); }
void log_warning(const std::string& text) noexcept { say(spdlog::level::warn, text); }
void log_error(const std::string& text) noexcept { say(spdlog::level::err, text); }

}  // namespace luq
