#include "src/train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "luq/core/folders.h"
#include "luq/core/output_file.h"

namespace luq {

namespace {

// Every number of a line, under its key.
template <typename M, typename Visitor>
void visit(M& metrics, const Visitor& visitor) {
  visitor("epoch", metrics.epoch);
  visitor("step", metrics.step);
  visitor("time", metrics.time);
  visitor("loss", metrics.loss);
  visitor("top1", metrics.top1);
  visitor("top5", metrics.top5);
  visitor("ema_loss", metrics.ema_loss);
  visitor("ema_top1", metrics.ema_top1);
  visitor("ema_top5", metrics.ema_top5);
  visitor("lr", metrics.lr);
  visitor("gradient_norm", metrics.gradient_norm);
  visitor("images_per_second", metrics.images_per_second);
  visitor("data_seconds", metrics.data_seconds);
  visitor("compute_seconds", metrics.compute_seconds);
  visitor("broken_images", metrics.broken_images);
  visitor("percent_of_limit", metrics.percent_of_limit);
}

struct Writer {
  nlohmann::ordered_json& line;
  template <typename Number>
  void operator()(const char* key, const Number& value) const {
    line[key] = value;
  }
  template <typename Number>
  void operator()(const char* key, const std::optional<Number>& value) const {
    if (value) line[key] = *value;
  }
};

struct Reader {
  const nlohmann::json& line;
  template <typename Number>
  void operator()(const char* key, Number& value) const {
    if (const auto found = line.find(key); found != line.end() && found->is_number()) found->get_to(value);
  }
  template <typename Number>
  void operator()(const char* key, std::optional<Number>& value) const {
    if (const auto found = line.find(key); found != line.end() && found->is_number()) value = found->get<Number>();
  }
};

// The line as an object with a kind and a step, or null.
nlohmann::json parse_line(const std::string& text) {
  nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
  const auto has = [&line](const char* key) { return line.is_object() && line.contains(key); };
  if (!has("step") || !line["step"].is_number_integer() || !has("kind") || !line["kind"].is_string()) return nullptr;
  return line;
}

}  // namespace

std::string to_json(const Metrics& metrics) {
  nlohmann::ordered_json line;
  line["kind"] = metrics.kind;
  visit(metrics, Writer{line});
  return line.dump();
}

std::vector<Metrics> read_metrics(const std::string& file) {
  std::istringstream in(read_if_there("train", file).value_or(""));
  std::vector<Metrics> lines;
  for (std::string text; std::getline(in, text);) {
    const nlohmann::json line = parse_line(text);
    if (line.is_null()) continue;
    Metrics metrics{.kind = line["kind"].get<std::string>()};
    visit(metrics, Reader{line});
    lines.push_back(std::move(metrics));
  }
  return lines;
}

CutBack cut_back_metrics(const std::string& file, int64_t step, bool keep_eval) {
  const std::optional<std::string> content = read_if_there("train", file);
  if (!content) return {};
  std::istringstream in(*content);
  std::string kept;
  CutBack result;
  int64_t unreadable = 0;
  for (std::string text; std::getline(in, text);) {
    const nlohmann::json line = parse_line(text);
    if (line.is_null()) {
      ++unreadable;
      continue;
    }
    const int64_t at = line["step"].get<int64_t>();
    const bool is_eval = line["kind"] == "eval";
    if (at > step || (at == step && !keep_eval && is_eval)) continue;
    kept += text + "\n";
    ++result.kept;
    result.last = std::max(result.last, {at, is_eval});
    result.damaged = unreadable;
  }
  if (result.damaged > 0) write_text_file(file + ".damaged", *content);
  if (kept != *content) write_text_file(file, kept);
  return result;
}

std::vector<std::string> warnings_of(const CutBack& lines, const std::string& file, int64_t step,
                                     const LinePosition& expected) {
  std::vector<std::string> warnings;
  if (lines.damaged > 0) {
    warnings.push_back(fmt::format("{} lines of {} cannot be read and are left out; {}.damaged is the file as it was",
                                   lines.damaged, file, file));
  }
  if (lines.last >= expected) return warnings;
  if (lines.kept == 0) {
    warnings.push_back(fmt::format("{} holds none of the lines up to step {}: curves begin there", file, step));
  } else {
    warnings.push_back(
        fmt::format("{} ends at step {}, and the run goes on from step {}: {} missing, and curves have a gap there",
                    file, lines.last.step, step,
                    lines.last.step < expected.step ? "lines in between are" : "the evaluation of that step is"));
  }
  return warnings;
}

}  // namespace luq
