#include "tools/luqtrain/advice.h"

#include <fmt/ranges.h>
#include <algorithm>

#include <filesystem>
#include <map>
#include <optional>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/core/shell.h"
#include "luq/core/shipped.h"

namespace luqtrain {
namespace {

namespace fs = std::filesystem;

using std::string_literals::operator""s;

using Words = std::vector<std::string>;

// Commands of other programs.
const std::map<std::string, std::string> other_commands = {{"evaluate", "eval"},
                                                           {"evaluation", "eval"},
                                                           {"test", "eval"},
                                                           {"val", "eval"},
                                                           {"infer", "predict"},
                                                           {"inference", "predict"},
                                                           {"classify", "predict"},
                                                           {"convert", "export"},
                                                           {"save", "export"},
                                                           {"bench", "profile"},
                                                           {"validate", "validate-data"},
                                                           {"check", "validate-data"},
                                                           {"verify", "validate-data"},
                                                           {"shard", "pack"},
                                                           {"info", "doctor"},
                                                           {"curves", "plot"}};

// Options of other programs, and the keys that they are here.
const std::map<std::string, std::string> other_options = {{"lr", "optimizer.lr"},
                                                          {"learning_rate", "optimizer.lr"},
                                                          {"wd", "optimizer.weight_decay"},
                                                          {"batch", "train.batch_size"},
                                                          {"batch_size", "train.batch_size"},
                                                          {"bs", "train.batch_size"},
                                                          {"b", "train.batch_size"},
                                                          {"epoch", "train.epochs"},
                                                          {"steps", "train.max_steps"},
                                                          {"max_steps", "train.max_steps"},
                                                          {"num_workers", "data.workers"},
                                                          {"j", "data.workers"},
                                                          {"data", "data.path"},
                                                          {"data_dir", "data.path"},
                                                          {"data_path", "data.path"},
                                                          {"dataset", "data.name"},
                                                          {"model", "model.name"},
                                                          {"arch", "model.name"},
                                                          {"pretrained", "model.weights"},
                                                          {"init", "model.weights"},
                                                          {"opt", "optimizer.name"},
                                                          {"scheduler", "lr_scheduler.name"},
                                                          {"output", "run.directory"},
                                                          {"out", "run.directory"},
                                                          {"output_dir", "run.directory"},
                                                          {"save_dir", "run.directory"},
                                                          {"log_dir", "run.directory"},
                                                          {"num_classes", "data.num_classes"},
                                                          {"img_size", "data.image_size"},
                                                          {"num_threads", "threads"},
                                                          {"ema", "train.ema_decay"}};

std::string joined(const Words& words) {
  std::string line = "luqtrain";
  for (const std::string& word : words) line += " " + luq::shell_quote(word);
  return line;
}

Words without(Words words, size_t index) {
  words.erase(words.begin() + static_cast<int64_t>(index));
  return words;
}

Words replaced(Words words, size_t index, size_t count, const Words& by) {
  const auto begin = words.begin() + static_cast<int64_t>(index);
  words.insert(words.erase(begin, begin + static_cast<int64_t>(count)), by.begin(), by.end());
  return words;
}

bool is_option(const std::string& word) { return word.starts_with('-') && word.size() > 1; }

bool is_pytorch_name(const std::string& word) {
  return std::ranges::any_of(std::initializer_list<const char*>{".pth", ".pt", ".bin", ".ckpt", ".tar"},
                             [&](const char* end) { return word.ends_with(end); });
}

bool is_experiment(const std::string& word) { return word.ends_with(".yaml") || word.ends_with(".yml"); }

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The checkpoint that a word stands for: the best of a run's folder, or itself.
std::string checkpoint_of(const std::string& word) {
  for (const char* inside :
       {"checkpoints/best.safetensors", "checkpoints/last.safetensors", "best.safetensors", "last.safetensors"}) {
    const std::string file = (fs::path(word) / inside).string();
    if (exists(file)) return file;
  }
  return word;
}

// The folder of the run that a word stands for: itself, or the one above a checkpoint; "" when there is none.
std::string run_of(const std::string& word) {
  const fs::path path(word);
  for (const fs::path& folder : {path, path.parent_path(), path.parent_path().parent_path()}) {
    if (!folder.empty() && exists((folder / "config.yaml").string())) return (folder / "").parent_path().string();
  }
  return "";
}

// The run in the folder that they are made in at first whose last checkpoint is the newest; "" when there is none.
std::string newest_run() {
  std::error_code error;
  std::string newest;
  fs::file_time_type of_newest = fs::file_time_type::min();
  for (const fs::directory_entry& entry : fs::directory_iterator("runs", error)) {
    const fs::file_time_type time = fs::last_write_time(entry.path() / "checkpoints/last.safetensors", error);
    if (error || time < of_newest || run_of(entry.path().string()).empty()) continue;
    newest = entry.path().string();
    of_newest = time;
  }
  return newest;
}

std::string letters(const std::string& name) {
  std::string only;
  for (const char c : name) {
    if (c != '-' && c != '_') only += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return only;
}

class Adviser {
 public:
  Adviser(const CLI::App& app, const Words& words) : app_(app), words_(words), current_(&app) {}

  Advice advice() {
    std::vector<size_t> operands;
    for (size_t i = 0; i < words_.size(); ++i) {
      const std::string& word = words_[i];
      if (word.starts_with('-') && word.size() > 1) {
        const std::string name = word.substr(0, word.find('='));
        const CLI::Option* option = find(*current_, name);
        if (option == nullptr) return {name, of_option(i, name)};
        const bool is_flag = option->get_expected_max() == 0, has_value = name.size() < word.size();
        if (is_flag && has_value) return {word, of_flag_value(i, name, word.substr(name.size() + 1), i + 1)};
        if (!is_flag && !has_value) ++i;
      } else if (const CLI::App* command = find_command(word); command != nullptr && current_ == &app_) {
        current_ = command;
      } else if (!takes_words(*current_)) {
        return {word, of_word(i)};
      } else {
        operands.push_back(i);
      }
    }
    return {"", of_missing_checkpoint(operands)};
  }

 private:
  static const CLI::Option* find(const CLI::App& app, const std::string& name) {
    for (const CLI::Option* option : app.get_options()) {
      if (option->check_name(name)) return option;
    }
    return nullptr;
  }
  static bool takes_words(const CLI::App& app) {
    return std::ranges::any_of(app.get_options(), [](const CLI::Option* option) { return option->get_positional(); });
  }
  std::vector<const CLI::App*> commands() const {
    return app_.get_subcommands([](const CLI::App*) { return true; });
  }
  const CLI::App* find_command(const std::string& name) const {
    for (const CLI::App* command : commands()) {
      if (command->get_name() == name) return command;
    }
    return nullptr;
  }

  bool is_given(const std::string& option) const {
    return std::ranges::any_of(
        words_, [&](const std::string& word) { return word == option || word.starts_with(option + "="); });
  }

  // The first word from `i` on that is neither an option of training nor its value; the number of words without one.
  size_t first_operand(const Words& words, size_t i) const {
    while (i < words.size() && is_option(words[i])) {
      const CLI::Option* option = find(app_, words[i]);
      i += option != nullptr && option->get_expected_max() > 0 ? 2 : 1;
    }
    return std::min(i, words.size());
  }

  static Words resumption(const std::string& run) {
    return {"--config", run + "/config.yaml", "--set", "run.directory=" + run, "--resume"};
  }

  // Of a command that takes words, when nothing stands where it is not expected.
  std::string of_missing_checkpoint(const std::vector<size_t>& operands) const {
    if (find(*current_, "--checkpoint") == nullptr || is_given("--checkpoint")) return "";
    for (const size_t i : operands) {
      const std::string checkpoint = checkpoint_of(words_[i]);
      if (!checkpoint.ends_with(".safetensors") && !is_pytorch_name(checkpoint)) continue;
      return "did you mean " + joined(replaced(words_, i, 1, {"--checkpoint", checkpoint})) + "?";
    }
    return "";
  }

  std::string of_flag_value(size_t index, const std::string& flag, const std::string& value, size_t end) const {
    const std::string run = flag == "--resume" ? run_of(value) : "";
    if (!run.empty()) {
      return "--resume takes no value, it goes on with the run in run.directory: " + joined(resumption(run));
    }
    return flag +
           (flag == "--resume" ? " takes no value, it goes on with the run in run.directory: " : " takes no value: ") +
           joined(replaced(words_, index, end - index, {flag}));
  }

  std::string of_word(size_t i) const {
    const std::string& word = words_[i];
    if (i >= 2 && words_[i - 2] == "--set" && words_[i - 1].find('=') == std::string::npos) {
      return "a key and its value are one word: " + joined(replaced(words_, i - 1, 2, {words_[i - 1] + "=" + word}));
    }
    if (word.find('=') != std::string::npos && find(*current_, "--set") != nullptr) {
      return "each key=value has a --set of its own: " + joined(replaced(words_, i, 1, {"--set", word}));
    }
    if (i >= 1 && current_ == &app_) {
      const CLI::Option* before = find(app_, words_[i - 1]);
      if (before != nullptr && before->get_expected_max() == 0) return of_flag_value(i - 1, words_[i - 1], word, i + 1);
    }
    return current_ == &app_ ? of_command(i) : of_operand(i);
  }

  // A word for training, which is no command here, and what follows it: an experiment, a run, or neither.
  std::string of_training(size_t i) const {
    Words rest = without(words_, i);
    const bool has_config = is_given("--config"), resumes = words_[i] == "resume" || is_given("--resume");
    const size_t operand = first_operand(rest, i);
    std::string run, missing;
    if (operand < rest.size() && !is_experiment(rest[operand])) {
      run = run_of(rest[operand]);
      if (run.empty()) {
        missing = fmt::format("there is no {} {}; ", resumes ? "run in" : "experiment or run",
                              luq::shell_quote(rest[operand]));
      }
      rest = without(rest, operand);
    } else if (operand < rest.size() && !has_config) {
      rest.insert(rest.begin() + static_cast<int64_t>(operand), "--config");
      if (words_[i] == "resume") rest.push_back("--resume");
      return "it trains without a command: " + joined(rest);
    }
    if (run.empty() && resumes && !has_config) run = newest_run();
    if (!run.empty()) {
      std::erase(rest, "--resume");
      const Words goes_on = resumption(run);
      rest.insert(rest.begin() + static_cast<int64_t>(i), goes_on.begin() + (has_config ? 2 : 0), goes_on.end());
      return missing.empty()
                 ? "it trains without a command, and goes on with --resume: " + joined(rest)
                 : fmt::format("{}that in {} goes on with {}", missing, luq::shell_quote(run), joined(rest));
    }
    if (has_config) {
      if (words_[i] == "resume") rest.push_back("--resume");
      return missing + "it trains without a command: " + joined(rest);
    }
    std::erase(rest, "--resume");
    rest.insert(rest.begin(), {"--config", "resnet20_luq.yaml"});
    return fmt::format("{}it trains without a command, for example: {}",
                       missing.empty() && resumes ? "there is no run in runs; " : missing, joined(rest));
  }

  // A word where a command is expected.
  std::string of_command(size_t i) const {
    const std::string& word = words_[i];
    const bool has_config = is_given("--config");
    if (word == "train" || word == "fit" || word == "run" || word == "resume") {
      return of_training(i);
    }
    if (word == "help") {
      const bool of_one = i + 1 < words_.size() && find_command(words_[i + 1]) != nullptr;
      return "the help is " + (of_one ? joined({words_[i + 1], "--help"}) : joined({"--help"}));
    }
    if (word == "version") return "the version is " + joined({"--version"});
    if (is_experiment(word) && !has_config) {
      return "an experiment is given with --config: " + joined(replaced(words_, i, 1, {"--config", word}));
    }
    if (word == "convert" && i + 1 < words_.size() && is_pytorch_name(words_[i + 1])) {
      return "a file of PyTorch is converted with\n  " + luq::pytorch_conversion_command(words_[i + 1]);
    }
    if (const auto found = other_commands.find(word); found != other_commands.end()) {
      return "the command is " + joined(replaced(words_, i, 1, {found->second}));
    }
    std::vector<std::string> names;
    for (const CLI::App* command : commands()) names.push_back(command->get_name());
    if (const std::string near = luq::nearest(word, names); !near.empty()) {
      return "did you mean " + joined(replaced(words_, i, 1, {near})) + "?";
    }
    if (const std::string run = run_of(word); !run.empty() && is_given("--resume") && !has_config) {
      return "did you mean " + joined(resumption(run)) + "?";
    }
    if (exists(word)) return "did you mean " + joined({"eval", "--checkpoint", checkpoint_of(word)}) + "?";
    return "the commands are " + fmt::format("{}", fmt::join(names, ", ")) + "; without one it trains";
  }

  // A word behind a command that takes none, and those that follow it: each gets the next option that is not given.
  std::string of_operand(size_t i) const {
    Words options;
    size_t count = 0;
    for (; i + count < words_.size() && !is_option(words_[i + count]); ++count) {
      const std::string& word = words_[i + count];
      const auto is_free = [&](const std::string& option) {
        return find(*current_, option) != nullptr && !is_given(option) &&
               std::ranges::find(options, option) == options.end();
      };
      std::string option = is_experiment(word) && is_free("--config") ? "--config" : "";
      for (const char* other : {"--checkpoint", "--input", "--path", "--config", "--output"}) {
        const bool is_other_way = (other == "--config"s && find(*current_, "--checkpoint") != nullptr) ||
                                  (other == "--path"s && is_given("--config"));
        if (option.empty() && is_free(other) && !is_other_way) option = other;
      }
      if (option.empty()) break;
      options.push_back(option);
      options.push_back(option == "--checkpoint" ? checkpoint_of(word) : word);
    }
    return count == 0 ? "" : "did you mean " + joined(replaced(words_, i, count, options)) + "?";
  }

  std::string of_option(size_t i, const std::string& name) const {
    const bool has_value = name.size() < words_[i].size();
    const bool next_is_value = !has_value && i + 1 < words_.size() && !words_[i + 1].starts_with('-');
    const std::string value = has_value ? words_[i].substr(name.size() + 1) : next_is_value ? words_[i + 1] : "VALUE";
    const size_t count = next_is_value ? 2 : 1;
    const std::string plain = letters(name);

    // One of this command's, spelled otherwise or by its first letter.
    for (const CLI::Option* option : current_->get_options()) {
      for (const std::string& known : option->get_lnames()) {
        if (letters(known) != plain && (plain.size() != 1 || known[0] != plain[0] || known == "help")) continue;
        Words words = words_;
        words[i] = "--" + known + words_[i].substr(name.size());
        return "did you mean " + joined(words) + "?";
      }
    }
    for (size_t later = i + 1; later < words_.size() && current_ == &app_; ++later) {
      const CLI::App* command = find_command(words_[later]);
      if (command == nullptr || find(*command, name) == nullptr) continue;
      Words words = without(words_, later);
      words.insert(words.begin(), words_[later]);
      return "a command comes before its options: " + joined(words);
    }
    if (plain == "gpu" || plain == "cuda" || plain == "gpus") {
      return "it is a key of the experiment: " + joined(replaced(words_, i, count, {"--set", "device=cuda"}));
    }
    if (const std::vector<std::string> keys = keys_of(name); !keys.empty() && find(*current_, "--set") != nullptr) {
      std::string text = "it is a key of the experiment: ";
      for (const std::string& key : keys) {
        if (&key != &keys.front()) text += ", or --set " + luq::shell_quote(key + "=" + value);
        if (&key == &keys.front()) text += joined(replaced(words_, i, count, {"--set", key + "=" + value}));
      }
      return text;
    }
    std::vector<std::string> owners;
    for (const CLI::App* command : commands()) {
      if (command != current_ && find(*command, name) != nullptr) owners.push_back(command->get_name());
    }
    if (!owners.empty() && current_ == &app_) {
      const bool is_checkpoint = name == "--checkpoint";
      Words words = words_;
      if (is_checkpoint && next_is_value) words[i + 1] = checkpoint_of(value);
      words.insert(words.begin(), owners.front());
      return fmt::format("it belongs to a command ({}): {}", fmt::join(owners, ", "), joined(words));
    }
    if (current_ != &app_ && find(app_, name) != nullptr) return name + " is an option of training, without a command";
    if (!owners.empty()) return fmt::format("{} is an option of {}", name, fmt::join(owners, ", "));
    std::vector<std::string> names;
    for (const CLI::Option* option : current_->get_options()) {
      for (const std::string& known : option->get_lnames()) names.push_back("--" + known);
    }
    const std::string near = luq::nearest(name, names);
    return near.empty() ? "" : "did you mean " + near + "?";
  }

  // The keys of an experiment that an option's name may mean, the likeliest first.
  static std::vector<std::string> keys_of(const std::string& option) {
    std::string name = option.substr(
        option.find_first_not_of('-') == std::string::npos ? option.size() : option.find_first_not_of('-'));
    std::ranges::replace(name, '-', '_');
    if (const auto found = other_options.find(name); found != other_options.end()) return {found->second};
    std::vector<std::string> keys, names;
    for (const luq::KeyDescription& key : luq::describe_keys()) names.push_back(key.key.substr(key.key.rfind('.') + 1));
    const std::string near = name.size() > 3 ? luq::nearest(name, names) : name;
    for (const luq::KeyDescription& key : luq::describe_keys()) {
      if (key.key == name || key.key.ends_with("." + near)) keys.push_back(key.key);
    }
    return keys;
  }

  const CLI::App& app_;
  const Words& words_;
  const CLI::App* current_;
};

}  // namespace

Advice advice(const CLI::App& app, const std::vector<std::string>& words) { return Adviser(app, words).advice(); }

}  // namespace luqtrain
