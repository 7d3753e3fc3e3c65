#include "luq/train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "luq/core/error.h"
#include "luq/core/folders.h"
#include "luq/core/shell.h"
#include "src/train/checksum.h"
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

SafeTensors checkpoint_content(Module& model, const Optimizer& optimizer, const TrainState& state,
                               const ModelEma* ema) {
  SafeTensors content;
  for (const Slot& slot : all_slots(model, optimizer, ema)) {
    content.tensors.emplace_back(slot.name, stored_value(slot));
  }
  content.metadata = to_metadata(state);
  add_checksum(content);
  return content;
}

void save_checkpoint(const std::string& file, Module& model, const Optimizer& optimizer, const TrainState& state,
                     const ModelEma* ema) {
  save_safetensors(file, checkpoint_content(model, optimizer, state, ema));
}

bool is_checkpoint(const SafeTensors& content) {
  const auto found = content.metadata.find("format");
  return found != content.metadata.end() && (found->second == format_name || found->second == old_format_name);
}

Checkpoint read_checkpoint(const std::string& file) { return read_checkpoint(file, load_checked(file)); }

Checkpoint read_checkpoint(const std::string& file, SafeTensors read) {
  Checkpoint checkpoint{file, std::move(read), {}};
  const SafeTensors& content = checkpoint.content;
  const std::string& format = metadata_text(content, file, "format");
  if (format != format_name && format != old_format_name) {
    fail_user("[checkpoint] {}: expected format '{}', got '{}'", file, format_name, format);
  }
  metadata_text(content, file, "crc32");
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

namespace {

constexpr const char* temporary_suffixes[] = {"", ".luqtmp", ".tmp"};  // the last of older versions

// Throws Error when the system cannot tell, which is not "no such file".
bool is_there(const std::string& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0 && (errno == ENOENT || errno == ENOTDIR)) return false;
  if (descriptor < 0) fail("[checkpoint] {}: cannot be read: {}; nothing was changed", file, std::strerror(errno));
  ::close(descriptor);
  return true;
}

struct Candidate {
  std::optional<Checkpoint> sound;
  std::string problem;  // "": there is no such file
};

Candidate look_at(const std::string& file) {
  if (!is_there(file)) return {};
  try {
    return {read_checkpoint(file), ""};
  } catch (const UserError& error) {
    return {std::nullopt, error.what()};
  }
}

auto position(const TrainState& state) { return std::tuple(state.step, state.epoch, state.batch, state.finished); }

void rename_file(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail("[checkpoint] {}: cannot be renamed to {}: {}", from, to, std::strerror(errno));
  }
}

void remove_file(const std::string& file) {
  if (::unlink(file.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) {
    fail("[checkpoint] {}: cannot be removed: {}", file, std::strerror(errno));
  }
}

}  // namespace

void CheckpointFolder::sync() const {
  const int error = sync_folder(folder_);
  if (error != 0) fail("[checkpoint] {}: cannot be synced: {}", folder_, std::strerror(error));
}

void CheckpointFolder::save_last(Module& model, const Optimizer& optimizer, const TrainState& state,
                                 const ModelEma* ema) const {
  save_checkpoint(next(), model, optimizer, state, ema);
  promote_next();
}

void CheckpointFolder::promote_next() const {
  const std::string link = previous() + ".luqtmp";
  ::unlink(link.c_str());
  // A second name for the old file first, so that renaming over it loses nothing.
  if (::link(last().c_str(), link.c_str()) == 0) {
    rename_file(link, previous());
    // When both names already are one file, rename does nothing and leaves them.
    ::unlink(link.c_str());
  } else if (errno != ENOENT) {  // a file system without hard links
    std::error_code error;
    fs::copy_file(last(), previous(), fs::copy_options::overwrite_existing, error);
    if (error) fail("[checkpoint] {}: cannot be written: {}", previous(), error.message());
  }
  rename_file(next(), last());
  sync();
}

void CheckpointFolder::prove(Module& model, const Optimizer& optimizer, const TrainState& state,
                             const ModelEma* ema) const {
  save_checkpoint(probe(), model, optimizer, state, ema);
  remove_file(probe());
}

bool CheckpointFolder::empty() const {
  for (const std::string& file : {last(), previous(), best(), next()}) {
    if (is_there(file)) return false;
  }
  return true;
}

Resumable CheckpointFolder::read_last() const {
  Candidate found_last = look_at(last()), found_next = look_at(next());
  const bool next_is_newer =
      found_next.sound && (!found_last.sound || position(found_next.sound->state) > position(found_last.sound->state));
  if (found_last.sound && !next_is_newer) return {std::move(*found_last.sound), ""};
  if (found_last.sound || (found_last.problem.empty() && found_next.sound)) {
    const std::string why =
        found_last.sound ? fmt::format("newer than {}, which is of step {}", last(), found_last.sound->state.step)
                         : "sound, and there is no " + last();
    std::string warning =
        fmt::format("{} is {}: a save was cut off before its last rename; the run goes on from it", next(), why);
    return {std::move(*found_next.sound), std::move(warning)};
  }
  const Candidate found_previous = look_at(previous());
  if (found_last.problem.empty() && found_previous.sound) {
    return {*found_previous.sound, fmt::format("there is no {}; the run goes on from {}, of step {}", last(),
                                               previous(), found_previous.sound->state.step)};
  }
  const std::string problem = !found_last.problem.empty() ? found_last.problem
                              : !found_previous.problem.empty()
                                  ? fmt::format("[checkpoint] {}: is missing; {}", last(), found_previous.problem)
                                  : fmt::format("[checkpoint] {}: there is no checkpoint to go on from", last());
  std::error_code no_matter;
  // cp would copy into a folder.
  const std::string aside = fs::is_directory(last(), no_matter)
                                ? fmt::format("mv {} {} && ", shell_path(last()), shell_path(last() + ".aside"))
                                : "";
  const auto advise = [&](const Candidate& other, const std::string& file, const char* what) {
    fail_user(
        "{}; {} is sound and of step {}: go on from that with\n  {}cp {} {}\nand --resume (--overwrite starts the run "
        "anew)",
        problem, what, other.sound->state.step, aside, shell_path(file), shell_path(last()));
  };
  if (found_next.sound) advise(found_next, next(), "the one that was being written");
  if (found_previous.sound) advise(found_previous, previous(), "the one before it");
  const Candidate found_best = look_at(best());
  if (found_best.sound) advise(found_best, best(), "the best one");
  fail_user("{}; there is no sound checkpoint beside it: --overwrite starts the run anew", problem);
}

void CheckpointFolder::settle(const std::string& read_from) const {
  if (read_from == next()) {
    promote_next();
  } else {
    remove_file(next());
  }
  for (const std::string& file : {next() + ".luqtmp", next() + ".tmp", previous() + ".luqtmp", previous() + ".tmp"}) {
    remove_file(file);
  }
}

void CheckpointFolder::remove_all() const {
  const auto remove = [](const std::string& file) {
    for (const char* suffix : temporary_suffixes) remove_file(file + suffix);
  };
  // The run of which these are can be resumed until its last one is gone.
  for (const std::string& file : {probe(), next(), previous()}) remove(file);
  sync();
  remove(last());
  sync();
  remove(best());
  sync();
}

bool CheckpointFolder::is_ours(const std::string& name) {
  for (const std::string file : {"last", "previous", "best", "next", "probe"}) {
    const std::string whole = file + ".safetensors";
    if (name == whole || name == whole + ".tmp" || name.starts_with(whole + ".luqtmp")) return true;
  }
  return false;
}

std::string first_non_finite(Module& model) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Slot& slot : model_slots(model)) tensors.emplace_back(slot.name, slot.value);
  return first_non_finite(tensors);
}

std::string first_non_finite(const std::vector<std::pair<std::string, Tensor>>& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (tensor.dtype() != DType::float32) continue;
    const Tensor value = tensor.to({});
    const float* values = value.data<float>();
    if (!std::all_of(values, values + value.numel(), [](float value) { return std::isfinite(value); })) return name;
  }
  return "";
}

}  // namespace luq
