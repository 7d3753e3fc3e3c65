#include "src/train/metrics.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/train/text_file.h"

namespace luq {

std::string to_json(const Metrics& metrics) {
  nlohmann::ordered_json line;
  line["kind"] = metrics.kind;
  line["epoch"] = metrics.epoch;
  line["step"] = metrics.step;
  line["time"] = metrics.time;
  line["loss"] = metrics.loss;
  line["top1"] = metrics.top1;
  const auto add = [&line](const char* key, const std::optional<double>& value) {
    if (value) line[key] = *value;
  };
  add("top5", metrics.top5);
  add("ema_loss", metrics.ema_loss);
  add("ema_top1", metrics.ema_top1);
  add("ema_top5", metrics.ema_top5);
  line["lr"] = metrics.lr;
  if (metrics.gradient_norm) line["gradient_norm"] = *metrics.gradient_norm;
  line["images_per_second"] = metrics.images_per_second;
  line["data_seconds"] = metrics.data_seconds;
  line["compute_seconds"] = metrics.compute_seconds;
  if (metrics.percent_of_limit > 0) line["percent_of_limit"] = metrics.percent_of_limit;
  return line.dump();
}

void cut_back_metrics(const std::string& file, int64_t step, bool keep_eval) {
  if (!std::filesystem::exists(file)) return;
  std::ifstream in(file);
  std::string kept;
  for (std::string text; std::getline(in, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, false);
    if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) continue;
    const int64_t at = line["step"].get<int64_t>();
    const bool is_eval = line.contains("kind") && line["kind"] == "eval";
    if (at < step || (at == step && (keep_eval || !is_eval))) kept += text + "\n";
  }
  write_text_file(file, kept);
}

}  // namespace luq
