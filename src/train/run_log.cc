#include "src/train/run_log.h"

#include <fmt/chrono.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace luq {
namespace {

constexpr int bar_cells = 12;

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

RunLog::RunLog(LineFile* file) : file_(file), is_terminal_(::isatty(STDOUT_FILENO) == 1) {}

RunLog::~RunLog() { erase_progress(); }

void RunLog::info(const std::string& text) {
  erase_progress();
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
  if (file_ != nullptr) file_->append(fmt::format("{:%Y-%m-%d %H:%M:%S} {}", fmt::localtime(std::time(nullptr)), text));
}

void RunLog::detail(const std::string& text) {
  if (!is_terminal_) {
    info(text);
  } else if (file_ != nullptr) {
    file_->append(fmt::format("{:%Y-%m-%d %H:%M:%S} {}", fmt::localtime(std::time(nullptr)), text));
  }
}

void RunLog::progress(double fraction, const std::string& text) {
  if (!is_terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - last_drawn_ < std::chrono::milliseconds(100)) return;
  const int filled = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * bar_cells);
  std::string line = fmt::format("[{}{}] {}", std::string(static_cast<size_t>(filled), '='),
                                 std::string(static_cast<size_t>(bar_cells - filled), ' '), text);
  line.resize(std::min(line.size(), static_cast<size_t>(terminal_columns() - 1)));
  std::fputs(("\r" + line + "\033[K").c_str(), stdout);
  std::fflush(stdout);
  drawn_ = true;
  last_drawn_ = now;
}

void RunLog::erase_progress() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stdout);
  std::fflush(stdout);
  drawn_ = false;
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
