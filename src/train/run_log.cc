#include "src/train/run_log.h"

#include <spdlog/logger.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "luq/core/error.h"
#include "luq/core/log.h"
#include "luq/core/standard_streams.h"
#include "src/core/log_sink.h"

namespace luq {
namespace {

constexpr int bar_cells = 12;

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Standard output, and the progress line below what it says. What is called by several threads goes through spdlog's
// lock; the progress line belongs to one.
class OutputSink : public LineSink {
 public:
  OutputSink() {
    set_formatter(make_line_formatter("%*%v"));
    set_level(to_spdlog(log_level()));
  }

  void draw(const std::string& line) {
    write("\r" + line + "\033[K");
    drawn_ = true;
  }
  void erase() {
    if (drawn_) write("\r\033[K");
    drawn_ = false;
  }
  bool is_drawn() const { return drawn_; }
  // The first error of a write, 0 without one.
  int error() const { return error_; }

 private:
  void write_line(std::string_view line) override {
    erase();
    write(line);
  }
  void write(std::string_view text) {
    if (is_gone_) return;
    const int error = write_standard(STDOUT_FILENO, text);
    if (error_ == 0 && error != EINTR) error_ = error;
    // A full disk may have room again; who read the pipe, or the terminal, does not come back.
    is_gone_ = error == EPIPE || error == EIO || error == EBADF;
  }

  bool drawn_ = false, is_gone_ = false;
  int error_ = 0;
};

// log.txt. Lines that a full disk does not take are counted in front of the next one that it takes.
class FileSink : public LineSink {
 public:
  explicit FileSink(LineFile& file) : file_(file) {
    set_formatter(make_line_formatter("%Y-%m-%d %H:%M:%S %*%v"));
    set_level(to_spdlog(std::min(log_level(), LogLevel::info)));
  }

 private:
  void write_line(std::string_view line) override {
    if (lost_ > 0 && file_.append(fmt::format("({} lines are missing here: they could not be written)", lost_)))
      lost_ = 0;
    if (lost_ > 0 || !file_.append_bytes(std::string(line))) ++lost_;
  }

  LineFile& file_;
  int64_t lost_ = 0;
};

}  // namespace

struct RunLog::Impl {
  std::shared_ptr<OutputSink> output = std::make_shared<OutputSink>();
  spdlog::logger both{"run", output}, detail{"run"}, file{"run"};
  bool has_file = false, said_output_failed = false;
  bool can_redraw = luq::can_redraw(STDOUT_FILENO);
  std::chrono::steady_clock::time_point last_drawn;

  explicit Impl(LineFile* to_file) {
    if (!can_redraw) detail.sinks().push_back(output);
    if (to_file != nullptr) {
      has_file = true;
      const auto sink = std::make_shared<FileSink>(*to_file);
      for (spdlog::logger* logger : {&both, &detail, &file}) logger->sinks().push_back(sink);
    }
    for (spdlog::logger* logger : {&both, &detail, &file}) {
      logger->set_level(spdlog::level::debug);
      report_errors(*logger);
    }
  }

  void log(spdlog::logger& logger, spdlog::level::level_enum level, const std::string& text) {
    logger.log(level, spdlog::string_view_t(text.data(), text.size()));
    if (output->error() == 0 || said_output_failed || !has_file) return;
    said_output_failed = true;
    const std::string warning =
        fmt::format("standard output cannot be written: {}; the run goes on, and log.txt has what it says",
                    std::strerror(output->error()));
    file.log(spdlog::level::warn, spdlog::string_view_t(warning.data(), warning.size()));
    log_warning(warning);
  }
};

RunLog::RunLog(LineFile* file) : impl_(std::make_unique<Impl>(file)) {}

RunLog::~RunLog() { impl_->output->erase(); }

void RunLog::debug(const std::string& text) { impl_->log(impl_->both, spdlog::level::debug, text); }
void RunLog::info(const std::string& text) { impl_->log(impl_->both, spdlog::level::info, text); }
void RunLog::detail(const std::string& text) { impl_->log(impl_->detail, spdlog::level::info, text); }
void RunLog::warning(const std::string& text) { impl_->log(impl_->both, spdlog::level::warn, text); }
void RunLog::failure(const std::string& text) {
  impl_->output->erase();
  impl_->log(impl_->file, spdlog::level::err, text);
}

void RunLog::progress(double fraction, const std::string& text) {
  if (!impl_->can_redraw || log_level() > LogLevel::info) return;
  const auto now = std::chrono::steady_clock::now();
  if (impl_->output->is_drawn() && now - impl_->last_drawn < std::chrono::milliseconds(100)) return;
  impl_->last_drawn = now;
  if (!can_redraw(STDOUT_FILENO)) return;  // it went into the background
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * bar_cells);
  std::string line = fmt::format("[{}{}] {}", std::string(static_cast<size_t>(filled), '='),
                                 std::string(static_cast<size_t>(bar_cells - filled), ' '), text);
  line.resize(std::min(line.size(), static_cast<size_t>(terminal_columns() - 1)));
  impl_->output->draw(line);
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::max(seconds, 0.0) + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string format_count(int64_t count) {
  const std::string digits = fmt::format("{}", count);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped.push_back(',');
    grouped.push_back(digits[i]);
  }
  return grouped;
}

std::string describe(const Metrics& metrics, int64_t epochs, int64_t steps) {
  const std::string limit =
      metrics.percent_of_limit ? fmt::format("  {:.0f} % of the limit", *metrics.percent_of_limit) : "";
  const std::string norm = metrics.gradient_norm ? fmt::format("  gradient norm {:.4g}", *metrics.gradient_norm) : "";
  return fmt::format("epoch {}/{}  step {}/{}  loss {:.4f}  top-1 {:.2f} %  lr {:.4g}{}  {:.0f} images/s{}",
                     metrics.epoch, epochs, metrics.step, steps, metrics.loss, metrics.top1, metrics.lr, norm,
                     metrics.images_per_second, limit);
}

std::string describe_accuracy(double top1, const std::optional<double>& top5) {
  return fmt::format("top-1 {:.2f} %{}", top1, top5 ? fmt::format("  top-5 {:.2f} %", *top5) : "");
}

}  // namespace luq
