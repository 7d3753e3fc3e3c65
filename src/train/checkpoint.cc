#include "luq/train/checkpoint.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "luq/core/error.h"
#include "luq/core/shell.h"
#include "src/train/state_slots.h"

namespace luq {
namespace {

namespace fs = std::filesystem;

constexpr const char* format_name = "luqtrain checkpoint 2";
// The columns of a linear layer behind flatten were stored (H, W, C), and nothing was said of the images.
constexpr const char* old_format_name = "luqtrain checkpoint 1";
constexpr const char* optimizer_prefix = "optimizer.";
constexpr const char* ema_prefix = "ema.";

std::vector<Slot> all_slots(Module& model, const Optimizer& optimizer, const ModelEma* ema) {
  std::vector<Slot> slots = model_slots(model);
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter* parameter : model.parameters()) parameters[parameter->name] = parameter;
  for (const auto& [name, value] : optimizer.state()) {  // "optimizer.<kind>.<parameter>"
    slots.push_back({name, value, parameters.at(name.substr(name.find('.', std::strlen(optimizer_prefix)) + 1))});
  }
  if (ema == nullptr) return slots;
  for (const auto& [name, value] : ema->state()) {
    const auto found = parameters.find(name.substr(std::strlen(ema_prefix)));
    slots.push_back({name, value, found != parameters.end() ? found->second : nullptr});
  }
  return slots;
}

// Over names, shapes, values and metadata, so that any damage that leaves the file readable is noticed.
std::string checksum(const SafeTensors& content) {
  std::map<std::string, const Tensor*> sorted;
  for (const auto& [name, tensor] : content.tensors) sorted[name] = &tensor;
  uLong crc = crc32_z(0, nullptr, 0);
  const auto add = [&crc](const void* bytes, size_t count) {
    if (count > 0) crc = crc32_z(crc, static_cast<const Bytef*>(bytes), count);
  };
  const auto add_text = [&add](const std::string& text) { add(text.c_str(), text.size() + 1); };
  for (const auto& [key, text] : content.metadata) {
    if (key == "crc32") continue;
    add_text(key);
    add_text(text);
  }
  for (const auto& [name, tensor] : sorted) {
    add_text(name);
    add_text(to_string(tensor->dtype()) + to_string(tensor->shape()));
    add(tensor->raw(), static_cast<size_t>(tensor->bytes()));
  }
  return fmt::format("{:08x}", crc);
}

std::string to_json(const TrainWindow& window) {
  return nlohmann::json{
      {"loss_sum", window.loss_sum}, {"gradient_norm_sum", window.gradient_norm_sum}, {"correct", window.correct},
      {"images", window.images},     {"broken_images", window.broken_images},         {"steps", window.steps}}
      .dump();
}

TrainWindow parse_window(const std::string& text, const std::string& file) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    return {.loss_sum = json.at("loss_sum"),
            .gradient_norm_sum = json.at("gradient_norm_sum"),
            .correct = json.at("correct"),
            .images = json.at("images"),
            .broken_images = json.at("broken_images"),
            .steps = json.at("steps")};
  } catch (const nlohmann::json::exception& error) {
    fail_user("[checkpoint] {}: metadata 'window' is not understood: {}", file, error.what());
  }
}

std::map<std::string, std::string> to_metadata(const TrainState& state) {
  return {{"format", format_name},
          {"step", fmt::format("{}", state.step)},
          {"epoch", fmt::format("{}", state.epoch)},
          {"batch", fmt::format("{}", state.batch)},
          {"seed", fmt::format("{}", state.seed)},
          {"best_top1", fmt::format("{}", state.best_top1)},
          {"finished", state.finished ? "1" : "0"},
          {"window", to_json(state.window)},
          {"config", state.config},
          {"data", state.data}};
}

const std::string& metadata_text(const SafeTensors& content, const std::string& file, const char* key) {
  const auto found = content.metadata.find(key);
  if (found == content.metadata.end()) fail_user("[checkpoint] {}: metadata '{}' is missing", file, key);
  return found->second;
}

template <typename Number>
Number metadata_number(const SafeTensors& content, const std::string& file, const char* key) {
  const std::string& text = metadata_text(content, file, key);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    fail_user("[checkpoint] {}: metadata '{}' is not a number: '{}'", file, key, text);
  }
  return number;
}

}  // namespace

void save_checkpoint(const std::string& file, Module& model, const Optimizer& optimizer, const TrainState& state,
                     const ModelEma* ema) {
  SafeTensors content;
  for (const Slot& slot : all_slots(model, optimizer, ema)) {
    content.tensors.emplace_back(slot.name, stored_value(slot));
  }
  content.metadata = to_metadata(state);
  content.metadata["crc32"] = checksum(content);
  save_safetensors(file, content);
}

bool is_checkpoint(const SafeTensors& content) {
  const auto found = content.metadata.find("format");
  return found != content.metadata.end() && (found->second == format_name || found->second == old_format_name);
}

Checkpoint read_checkpoint(const std::string& file) { return read_checkpoint(file, load_safetensors(file)); }

Checkpoint read_checkpoint(const std::string& file, SafeTensors read) {
  Checkpoint checkpoint{file, std::move(read), {}};
  const SafeTensors& content = checkpoint.content;
  const std::string& format = metadata_text(content, file, "format");
  if (format != format_name && format != old_format_name) {
    fail_user("[checkpoint] {}: expected format '{}', got '{}'", file, format_name, format);
  }
  if (metadata_text(content, file, "crc32") != checksum(content)) {
    fail_user("[checkpoint] {}: damaged: its checksum is {}, its contents give {}", file, content.metadata.at("crc32"),
              checksum(content));
  }
  TrainState& state = checkpoint.state;
  state.step = metadata_number<int64_t>(content, file, "step");
  state.epoch = metadata_number<int64_t>(content, file, "epoch");
  state.batch = metadata_number<int64_t>(content, file, "batch");
  state.seed = metadata_number<uint64_t>(content, file, "seed");
  state.best_top1 = metadata_number<double>(content, file, "best_top1");
  state.finished = metadata_number<int>(content, file, "finished") != 0;
  state.config = metadata_text(content, file, "config");
  if (content.metadata.at("format") != old_format_name) state.data = metadata_text(content, file, "data");
  // Checkpoints of the first versions have none.
  if (content.metadata.contains("window")) state.window = parse_window(content.metadata.at("window"), file);
  return checkpoint;
}

void check_column_order(const SafeTensors& content, const std::string& file, Module& model) {
  if (content.metadata.at("format") != old_format_name) return;
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->flattened_channels == 0) continue;
    fail_user("[checkpoint] {}: format '{}' has the columns of {} in another order than '{}'; train this model anew",
              file, old_format_name, parameter->name, format_name);
  }
}

void restore(const Checkpoint& checkpoint, Module& model, Optimizer& optimizer, ModelEma* ema) {
  check_column_order(checkpoint.content, checkpoint.file, model);
  const std::string differences = load_slots(all_slots(model, optimizer, ema), checkpoint.content.tensors);
  if (!differences.empty()) {
    fail_user("[checkpoint] {}: is of another model than the configuration's: {}", checkpoint.file, differences);
  }
  optimizer.set_resumed(checkpoint.state.step);
}

StoredModel model_of(const Checkpoint& checkpoint, CheckpointWeights weights) {
  SafeTensors trained{.tensors = {}, .metadata = checkpoint.content.metadata}, average = trained;
  for (const auto& [name, tensor] : checkpoint.content.tensors) {
    if (name.starts_with(optimizer_prefix)) continue;
    if (name.starts_with(ema_prefix)) {
      average.tensors.emplace_back(name.substr(std::strlen(ema_prefix)), tensor);
    } else {
      trained.tensors.emplace_back(name, tensor);
    }
  }
  const bool is_ema = weights == CheckpointWeights::ema_if_stored && !average.tensors.empty();
  return {.state = is_ema ? std::move(average) : std::move(trained), .is_ema = is_ema};
}

void CheckpointFolder::save_last(Module& model, const Optimizer& optimizer, const TrainState& state,
                                 const ModelEma* ema) const {
  save_checkpoint(next(), model, optimizer, state, ema);
  const std::string link = previous() + ".tmp";
  ::unlink(link.c_str());
  // A second name for the old file first, so that renaming over it loses nothing.
  if (::link(last().c_str(), link.c_str()) == 0) {
    if (::rename(link.c_str(), previous().c_str()) != 0) {
      fail("[checkpoint] {}: cannot be renamed: {}", link, std::strerror(errno));
    }
    // When both names already are one file, rename does nothing and leaves them.
    ::unlink(link.c_str());
  } else if (errno != ENOENT) {  // a file system without hard links
    std::error_code error;
    fs::copy_file(last(), previous(), fs::copy_options::overwrite_existing, error);
    if (error) fail("[checkpoint] {}: cannot be written: {}", previous(), error.message());
  }
  if (::rename(next().c_str(), last().c_str()) != 0) {
    fail("[checkpoint] {}: cannot be renamed to {}: {}", next(), last(), std::strerror(errno));
  }
}

Checkpoint CheckpointFolder::read_last() const {
  if (!fs::exists(last())) {
    fail_user("[checkpoint] {}: there is no checkpoint to go on from; --overwrite starts the run anew", last());
  }
  std::string problem;
  try {
    return read_checkpoint(last());
  } catch (const UserError& error) {
    problem = error.what();
  }
  std::string advice = "there is no sound checkpoint before it: --overwrite starts the run anew";
  try {
    const int64_t step = read_checkpoint(previous()).state.step;
    advice = fmt::format("the one before it is sound and of step {}: go on from that with\n  cp {} {}\nand --resume",
                         step, shell_path(previous()), shell_path(last()));
  } catch (const UserError&) {
  }
  fail_user("{}; {}", problem, advice);
}

void CheckpointFolder::remove_all() const {
  for (const std::string& file : {last(), previous(), best(), next()}) {
    fs::remove(file);
    for (const char* suffix : {".tmp", ".luqtmp"}) fs::remove(file + suffix);
  }
}

std::string first_non_finite(Module& model) {
  for (const Slot& slot : model_slots(model)) {
    if (slot.value.dtype() != DType::float32) continue;
    const Tensor value = slot.value.to({});
    const float* values = value.data<float>();
    if (!std::all_of(values, values + value.numel(), [](float value) { return std::isfinite(value); })) {
      return slot.name;
    }
  }
  return "";
}

}  // namespace luq
