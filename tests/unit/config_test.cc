// Reading experiments: what is accepted, what is refused and with which words, and that the documentation is complete.

#include <cstdlib>
#include <filesystem>
#include <random>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/core/text.h"
#include "tests/catch.h"
#include "tests/places.h"
#include "tests/temporary_folder.h"
#include "tests/unit/formats.h"

namespace luq {
namespace {

const std::string kRequired = "model: {name: resnet20}\ndata: {name: synthetic}\n";

ExperimentConfig parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_experiment(yaml, "x.yaml", overrides);
}

std::string refusal(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(yaml, overrides);
  } catch (const UserError& error) {
    return error.what();
  }
  return "accepted";
}

// The tables of docs/configuration.md.
std::string documentation_tables() {
  std::string text, section = "-";
  const auto cell = [](const std::string& value) { return value.empty() ? value : fmt::format("`{}`", value); };
  for (const KeyDescription& key : describe_keys()) {
    const size_t dot = key.key.find('.');
    const std::string own = dot == std::string::npos ? "" : key.key.substr(0, dot);
    if (own != section) {
      section = own;
      text += fmt::format("\n## {}\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n",
                          own.empty() ? "Top level" : cell(own));
    }
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", key.key, key.type, cell(key.default_value), cell(key.range),
                        key.meaning);
  }
  return text;
}

}  // namespace

TEST_CASE("Mistakes name file, line, key, what was expected and the nearest key", "[config]") {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
      {kRequired + "train: {batch_sise: 3}\n", {"x.yaml:3", "train.batch_sise", "unknown key", "train.batch_size"}},
      {kRequired + "trian: {epochs: 3}\n", {"x.yaml:3", "trian", "did you mean train?"}},
      {kRequired + "epochs: 3\n", {"x.yaml:3", "epochs", "did you mean train.epochs?"}},
      {kRequired + "train:\n  epochs: 3\n  epochs: 4\n", {"x.yaml:5", "train.epochs", "duplicate key"}},
      {kRequired + "seed: 1\nmodel: {name: resnet32}\n", {"x.yaml:4", "model", "duplicate key"}},
      {kRequired + "train: {epochs: many}\n", {"x.yaml:3", "train.epochs", "an integer", "'many'"}},
      {kRequired + "train: {epochs: 1.5}\n", {"train.epochs", "an integer", "'1.5'"}},
      {kRequired + "train: {epochs: 0}\n", {"x.yaml:3", "train.epochs", "1..", "'0'"}},
      {kRequired + "train: {batch_size: -4}\n", {"train.batch_size", "1..", "'-4'"}},
      {kRequired + "train: {epochs: [3]}\n", {"train.epochs", "an integer", "a list"}},
      {kRequired + "train: {epochs: }\n", {"train.epochs", "an integer", "nothing"}},
      {kRequired + "train: 3\n", {"x.yaml:3", "train", "keys and values", "'3'"}},
      {kRequired + "seed: -1\n", {"seed", "0..2^64-1", "'-1'"}},
      {kRequired + "optimizer: {lr: .nan}\n", {"optimizer.lr", "a number > 0"}},
      {kRequired + "optimizer: {lr: 0}\n", {"optimizer.lr", "a number > 0"}},
      {kRequired + "optimizer: {lr: .inf}\n", {"optimizer.lr", "a number > 0"}},
      {kRequired + "optimizer: {momentum: 1}\n", {"optimizer.momentum", "0 <= x < 1"}},
      {kRequired + "optimizer: {nesterov: 2}\n", {"optimizer.nesterov", "true or false", "'2'"}},
      {kRequired + "optimizer: {nesterov: true, momentum: 0}\n", {"optimizer.nesterov", "momentum > 0"}},
      {kRequired + "lr_scheduler: {name: cosin}\n", {"lr_scheduler.name", "cosine", "'cosin'"}},
      {kRequired + "lr_scheduler: {name: step}\n", {"lr_scheduler.milestones", "at least one"}},
      {kRequired + "lr_scheduler: {milestones: [3, 2]}\n", {"lr_scheduler.milestones", "rising"}},
      {kRequired + "lr_scheduler: {milestones: 3}\n", {"lr_scheduler.milestones", "a list of numbers"}},
      {"model: {name: resnet20}\ndata: {name: mnist, augment: {mean: [0.5]}}\n", {"data.augment.mean", "both"}},
      {kRequired + "device: gpu\n", {"device", "cpu, cuda"}},
      {kRequired + "precision: bfloat8\n", {"precision", "one of float32, bfloat16"}},
      {kRequired + "quantization: {weights: {format: fp4}}\n", {"quantization.weights.format", "float32, int4"}},
      {kRequired + "quantization: {weights: {granularity: per_channel}}\n", {"granularity", "per_tensor"}},
      {kRequired + "quantization: {gradients: {format: fp4, scale: sawb}}\n",
       {"quantization.gradients.scale", "expected the scale method max for fp4", "got sawb"}},
      {kRequired + "quantization: {gradients: {format: fp5}}\n",
       {"x.yaml:3", "quantization.gradients.format", "one of float32, fp4, int4", "(did you mean fp4?)", "'fp5'"}},
      {kRequired + "? [a, b]\n: 3\n", {"x.yaml:3", "expected a key"}},
      {kRequired + "train: {epochs: 3\n", {"x.yaml:", "not valid YAML"}},
      {"", {"x.yaml", "empty", "model.name"}},
      {"# nothing\n", {"x.yaml", "empty"}},
      {"- 1\n- 2\n", {"x.yaml:1", "keys and values", "a list"}},
      {"resnet20\n", {"keys and values", "'resnet20'"}},
      {"data: {name: synthetic}\n", {"model.name", "required"}},
      {"model: {name: resnet20}\n", {"data.name", "required"}},
  };
  for (const auto& [yaml, words] : cases) {
    const std::string message = refusal(yaml);
    INFO(yaml << "\n" << message);
    CHECK(message.starts_with("[config] "));
    for (const std::string& word : words) CHECK(message.find(word) != std::string::npos);
  }
}

TEST_CASE("Values from the command line win, and their mistakes name them", "[config]") {
  CHECK(parse(kRequired + "seed: 3\n", {"seed=4", "seed=5"}).seed == 5);
  CHECK(parse(kRequired, {"quantization.exempt=[a*, b]"}).quantization.exempt == std::vector<std::string>{"a*", "b"});
  CHECK(parse(kRequired, {"train={epochs: 2, batch_size: 7}"}).train.batch_size == 7);
  CHECK(parse(kRequired, {"data.path=x", "data.path="}).data.path.empty());
  for (const auto& [text, word] :
       std::vector<std::pair<std::string, std::string>>{{"seed", "key.path=value"},
                                                        {"=3", "key.path=value"},
                                                        {"train.epochs=x", "an integer"},
                                                        {"train.epoch=3", "did you mean train.epochs?"},
                                                        {"train.epochs=[1", "not a valid value"},
                                                        {"train=3", "keys and values"}}) {
    const std::string message = refusal(kRequired, {text});
    INFO(message);
    CHECK(message.find("--set " + text) != std::string::npos);
    CHECK(message.find(word) != std::string::npos);
  }
}

TEST_CASE("What is written is read back, to the last digit", "[config]") {
  ExperimentConfig config = parse(kRequired);
  config.seed = ~uint64_t{0};
  config.optimizer.lr = 0.1 + 0.2;
  config.optimizer.weight_decay = 1e-300;
  config.lr_scheduler.milestones = {1.0 / 3, 2, 1e10};
  config.data.path = "a: b #c 'd' \"e\" \\ ü";
  config.run.directory = "true";
  config.quantization.exempt = {"*.downsample.*", "?", "- x"};
  config.quantization.spec = {{}, {}, {Format::fp4, ScaleMethod::max, Rounding::nearest}};
  const std::string yaml = to_yaml(config);
  const ExperimentConfig again = parse(yaml);
  CHECK(again.quantization.spec.gradient_for_data == config.quantization.spec.gradient_for_data);
  CHECK(again.quantization.spec.gradient_for_weights == config.quantization.spec.gradient_for_data);
  config.quantization.spec.gradient_for_weights.rounding = Rounding::stochastic;  // which no key says
  CHECK_THROWS_WITH(to_yaml(config), contains_text("quantization.gradients.rounding: expected the same for both"));
  config.quantization.spec.gradient_for_weights.rounding = Rounding::nearest;
  CHECK(differing_keys(config, again, {}).empty());
  CHECK(to_yaml(again) == yaml);
  CHECK(again.optimizer.lr == config.optimizer.lr);
  CHECK(again.data.path == config.data.path);
  config.quantization.spec.weights = {test::radix4(), ScaleMethod::max, Rounding::nearest};
  CHECK(parse(to_yaml(config)).quantization.spec.weights == config.quantization.spec.weights);
}

// Strings that YAML might take for something else, or change, and bytes that are no UTF-8.
std::vector<std::string> nasty_strings() {
  std::vector<std::string> texts{"",
                                 " ",
                                 " lead",
                                 "trail ",
                                 "1e3",
                                 "0x1f",
                                 "no",
                                 "~",
                                 "null",
                                 "true",
                                 "=",
                                 "<<",
                                 "-",
                                 "- a",
                                 "? a",
                                 "a: b",
                                 "a #b",
                                 "#",
                                 "%",
                                 "@",
                                 "`",
                                 "[a",
                                 "{a",
                                 "a]",
                                 ", ",
                                 "|",
                                 ">",
                                 "!a",
                                 "!!binary YQ==",
                                 "&a",
                                 "*a",
                                 "'",
                                 "\"",
                                 "\\",
                                 "\\n",
                                 "\n",
                                 "a\n",
                                 "\na\n\n b",
                                 "\t",
                                 "a\tb",
                                 "\r\n",
                                 "\x01",
                                 "\x04",
                                 "a\x04"
                                 "b",
                                 "\x1b[31m",
                                 "\x7f",
                                 "---",
                                 "...",
                                 "--- a",
                                 "caf\xe9",
                                 "caf\xe9: x",
                                 "\xff\xfe",
                                 "\xfe\xff"
                                 "a",
                                 "\xef\xbb\xbf"
                                 "a",
                                 "\xc3",
                                 "\xed\xa0\x80",
                                 "\xc0\x80",
                                 "\xef\xbf\xbf",
                                 "\xef\xb7\x90: ",
                                 "\xf0\x9f\xbf\xbe #",
                                 "\xe2\x80\xa8",
                                 "\xc2\x85",
                                 "\xef\xbf\xbd",
                                 "\xe4\xbd\xa0\xe5\xa5\xbd",
                                 std::string(100'000, 'x'),
                                 std::string(100'000, '\xe9')};
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (uint32_t length = random() % 9; length > 0; --length) {
      if (random() % 3 == 0) {
        text += static_cast<char>(1 + random() % 255);
      } else {
        text += texts[random() % 64].substr(0, 8);
      }
    }
    texts.push_back(text);
  }
  return texts;
}

TEST_CASE("Any string comes back as it was, in UTF-8 that JSON can hold", "[config]") {
  ExperimentConfig config = parse(kRequired);
  for (const std::string& text : nasty_strings()) {
    INFO(printable(text.substr(0, 100)));
    config.data.path = config.run.directory = config.model.weights = text;
    config.quantization.exempt = {text, "x", text};
    const std::string yaml = to_yaml(config);
    CHECK(is_utf8(yaml));
    const ExperimentConfig again = parse(yaml);
    CHECK(again.data.path == text);
    CHECK(again.run.directory == text);
    CHECK(again.model.weights == text);
    CHECK(again.quantization.exempt == config.quantization.exempt);
    CHECK(to_yaml(again) == yaml);
    CHECK(differing_keys(config, again, {}).empty());
  }
  config.data.path = "caf\xe9";
  CHECK_THAT(to_yaml(config), contains_text("path: !!binary Y2Fm6Q==\n"));
  CHECK(differing_keys(parse(kRequired), config, {"run.directory", "model.weights", "quantization.exempt"}) ==
        std::vector<std::string>{"data.path: \"\" -> 'caf\\xe9'"});
  for (const auto& [key, value] : flat_values(to_yaml(config), "x.yaml")) {
    if (key == "data.path") CHECK(value == "caf\\xe9");
  }
}

TEST_CASE("A NUL byte, which no path can hold, and broken base64 are refused", "[config]") {
  for (const char* yaml : {"run: {directory: \"a\\0b\"}", "run: {directory: !!binary AGE=}"}) {
    CHECK_THAT(refusal(kRequired + yaml),
               contains_text("x.yaml:3") && contains_text("run.directory") && contains_text("without NUL bytes"));
  }
  CHECK_THAT(refusal(kRequired + "quantization: {exempt: [\"a\\0\"]}"), contains_text("without NUL bytes"));
  CHECK_THAT(refusal(kRequired + "run: {directory: !!binary \"%%%\"}"), contains_text("expected base64"));
  CHECK(parse(kRequired + "run: {directory: !!binary Y2Fm6Q==}").run.directory == "caf\xe9");
}

TEST_CASE("Differing keys are named with both values", "[config]") {
  const ExperimentConfig a = parse(kRequired), b = parse(kRequired + "threads: 3\noptimizer: {lr: 0.5}\n");
  CHECK(differing_keys(a, b, {}).size() == 2);
  CHECK(differing_keys(a, b, {"threads"}) == std::vector<std::string>{"optimizer.lr: 0.1 -> 0.5"});
}

TEST_CASE("A text from the command line is taken as it is", "[config]") {
  const auto shards = [](const std::string& text) {
    return parse_experiment("model: {name: a}\ndata: {name: webdataset}\n", "x", {"data.train_shards=" + text})
        .data.train_shards;
  };
  for (const char* text : {"{a-{00,01},b-1{0..1}}.tar", "{0..3}.tar", "[a].tar", "a: b", "a-{000..146}.tar"}) {
    CHECK(shards(text) == text);
  }
  CHECK(shards("'{0..3}.tar'") == "{0..3}.tar");
  CHECK(shards("\"a b\"") == "a b");
  CHECK(shards("").empty());
  for (const char* text : {" lead", "trail ", "a #b", "#",   "yes", "007", "null",    "!x",           "&a",   "*a", "|",
                           ">",     "- a",    "---",  "...", "a=b", "=",   "'a' 'b'", "\"a\" b",      "it's", "\"", "'",
                           "a\nb",  "{",      "%",    "@a",  "`",   "\\n", "caf\xe9", "!!binary YQ=="}) {
    CHECK(shards(text) == text);
  }
}

TEST_CASE("Numbers and words from the command line are what was typed", "[config]") {
  CHECK(parse(kRequired, {"seed=08"}).seed == 8);
  CHECK(parse(kRequired, {"seed=010"}).seed == 10);
  CHECK(parse(kRequired, {"seed=0"}).seed == 0);
  CHECK(parse(kRequired, {"seed=000"}).seed == 0);
  const auto lines = std::ranges::count(kRequired, '\n');
  CHECK_THAT(refusal(kRequired + "seed:\n# a comment\n\ntrain: {}\n"),
             contains_text(":" + std::to_string(lines + 1) + ": seed: expected an integer"));
  CHECK(parse(kRequired, {"seed='3'"}).seed == 3);
  CHECK(parse(kRequired, {"optimizer.lr=1e-2"}).optimizer.lr == 0.01);
  CHECK(parse(kRequired, {"optimizer.nesterov=yes"}).optimizer.nesterov);
  for (const auto& [text, word] : std::vector<std::pair<std::string, std::string>>{
           {"seed=3 # three", "got '3 # three'"},
           {"seed=", "got ''"},
           {"seed=3\n---\n4", "expected an integer"},
           {"seed=1 2", "expected an integer"},
           {"seed=&a 3", "got '&a 3'"},
           {"seed=!!int 3", "got '!!int 3'"},
           {"train.epochs=[1]", "got a list"},
           {"train={epochs: 2} {epochs: 3}", "expected one YAML document"},
           {"quantization.exempt=[a]\n---\n[b]", "expected one YAML document"},
           {"quantization.exempt=*.down.*", R"(expected a list of strings: --set 'quantization.exempt=["*.down.*"]')"},
           {"quantization.exempt=[*.a, b]", R"(--set 'quantization.exempt=["*.a", "b"]')"},
           {"quantization.exempt=a,b", R"(--set 'quantization.exempt=["a", "b"]')"},
           {"lr_scheduler.milestones=30,60", "--set 'lr_scheduler.milestones=[30, 60]'"},
           {"lr_scheduler.milestones=soon", "expected a list of numbers"},
           {"lr_scheduler.name=", "one of constant"},
           {"lr_scheduler.milestones=[1, 2] x", "expected one YAML document"}}) {
    INFO(text);
    CHECK_THAT(refusal(kRequired, {text}), contains_text(word));
  }
}

TEST_CASE("The ~ at the beginning of a path is the home folder", "[config]") {
  const char* before = std::getenv("HOME");
  const std::string old = before != nullptr ? before : "";
  ::setenv("HOME", "/home/of me", 1);
  for (const char* key : {"run.directory", "model.weights", "data.path", "data.val_labels", "data.devkit_classes",
                          "data.train_shards", "data.val_shards"}) {
    INFO(key);
    const auto value = [&](const std::string& text) {
      const std::string yaml = to_yaml(parse(kRequired, {std::string(key) + "=" + text}));
      for (const auto& [name, written] : flat_values(yaml, "x")) {
        if (name == key) return written;
      }
      return std::string("missing");
    };
    CHECK(value("~") == "/home/of me");
    CHECK(value("~/a b") == "/home/of me/a b");
    CHECK(value("~root/x") == "/root/x");
    for (const char* text : {"a~b", "./~", "~no such user/x", "a/~/b", "~~", "x=~/y"}) CHECK(value(text) == text);
  }
  CHECK(parse(kRequired + "run: {directory: ~/a}\n").run.directory == "/home/of me/a");
  CHECK(parse(kRequired + "run: {directory: '~/a'}\n").run.directory == "/home/of me/a");
  CHECK(parse(kRequired + "run: {directory: $HOME/a}\n").run.directory == "$HOME/a");
  CHECK(parse(kRequired + "quantization: {exempt: ['~/a']}\n").quantization.exempt.front() == "~/a");
  ExperimentConfig literal = parse(kRequired);
  literal.data.path = "~/a";
  CHECK(parse(to_yaml(literal)).data.path == "~/a");
  ::setenv("HOME", "/", 1);
  CHECK(parse(kRequired, {"data.path=~/x"}).data.path == "/x");
  before != nullptr ? ::setenv("HOME", old.c_str(), 1) : ::unsetenv("HOME");
}

TEST_CASE("Keys that do nothing beside the others are told", "[config]") {
  const auto of = [](const std::string& text) {
    return keys_without_effect(parse("model: {name: resnet20}\n" + text));
  };
  CHECK(of("data: {name: mnist}\n").empty());
  CHECK(of("data: {name: mnist, val_shards: a.tar}\n") ==
        std::vector<std::string>{"data.val_shards has no effect with data.name mnist"});
  CHECK(of("data: {name: synthetic, path: here, synthetic: {channels: 1}}\n") ==
        std::vector<std::string>{"data.path has no effect with data.name synthetic"});
  CHECK(of("data: {name: imagenet, synthetic: {channels: 1}, augment: {crop_scale: [0.5, 1]}}\n").size() == 2);
  CHECK(of("data: {name: mnist}\noptimizer: {name: sgd, beta1: 0.8, momentum: 0.8}\n") ==
        std::vector<std::string>{"optimizer.beta1 has no effect with optimizer.name sgd"});
  CHECK(of("data: {name: mnist}\noptimizer: {beta1: 0.9}\n").empty());  // the default
  CHECK(of("data: {name: mnist}\nlr_scheduler: {name: cosine, min_lr: 0.01, gamma: 0.2}\n") ==
        std::vector<std::string>{"lr_scheduler.gamma has no effect with lr_scheduler.name cosine"});
}

TEST_CASE("A base file comes first, and may have none of its own", "[config]") {
  const TemporaryFolder root;
  write_file(root / "base.yaml", kRequired + "seed: 1\ntrain: {epochs: 7}\n");
  write_file(root / "child.yaml", "base: base.yaml\nseed: 2\n");
  write_file(root / "grandchild.yaml", "base: child.yaml\n");
  write_file(root / "twice.yaml", "base: base.yaml\nbase: base.yaml\n");
  write_file(root / "lost.yaml", "base: nowhere.yaml\n");
  write_file(root / "broken.yaml", "base: bad.yaml\n");
  write_file(root / "bad.yaml", "train: {epochs: x}\n");
  const ExperimentConfig config = load_experiment(root / "child.yaml", {"train.batch_size=9"});
  CHECK(config.seed == 2);
  CHECK(config.train.epochs == 7);
  CHECK(config.train.batch_size == 9);
  CHECK(config.run.directory == "runs/child");
  const auto message = [&](const char* name) {
    try {
      load_experiment(root / name, {});
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  CHECK(message("grandchild.yaml").find("may not have a base") != std::string::npos);
  CHECK(message("twice.yaml").find("duplicate key") != std::string::npos);
  CHECK(message("lost.yaml").find("nowhere.yaml") != std::string::npos);
  CHECK(message("broken.yaml").find("bad.yaml:1: train.epochs") != std::string::npos);
  CHECK(message("").find("a folder") != std::string::npos);
  CHECK(message("missing.yaml").find("cannot be read") != std::string::npos);
}

TEST_CASE("YAML's rarer forms are read as YAML means them, or refused", "[config]") {
  CHECK(parse(kRequired + "seed: 0x10\n").seed == 16);
  CHECK(parse(kRequired + "seed: 010\n").seed == 8);  // octal, as in YAML 1.1
  CHECK(parse(kRequired + "train: {epochs: 0x10}\n").train.epochs == 16);
  CHECK(parse(kRequired + "optimizer: {lr: 1e-2}\n").optimizer.lr == 0.01);
  CHECK(parse(kRequired + "optimizer: {nesterov: yes}\n").optimizer.nesterov);
  CHECK(parse(kRequired + "seed: &s 7\ntrain: {batch_size: *s}\n").train.batch_size == 7);
  CHECK(parse(kRequired + "seed: !!int 7\n...\n").seed == 7);
  CHECK(parse("---\n" + kRequired + "seed: 7\n").seed == 7);
  CHECK(parse("\xEF\xBB\xBF" + kRequired + "seed: 3\r\n").seed == 3);
  const std::vector<std::pair<std::string, std::string>> cases{
      {kRequired + "seed: 1e3\n", "expected an integer"},
      {kRequired + "seed: 18446744073709551616\n", "expected an integer"},
      {kRequired + "train: {epochs: 99999999999999999999}\n", "expected an integer"},
      {kRequired + "seed: ''\n", "expected an integer"},
      {kRequired + "seed: 1 2\n", "expected an integer"},
      {kRequired + "seed: ~\n", "got nothing"},
      {kRequired + "train: &t {epochs: 2}\noptimizer: {<<: *t}\n", "optimizer.<<: unknown key"},
      {kRequired + "train: *nowhere\n", "not valid YAML"},
      {kRequired + "train: &t {epochs: *t}\n", "got a section"},
      {"&r\nmodel: *r\ndata: {name: synthetic}\n", "model.model"},
      {kRequired + "train:\n\tepochs: 3\n", "not valid YAML"},
      {kRequired + "train.epochs: 3\n", "x.yaml:3: train.epochs: expected a section"},
      {kRequired + "seed: " + std::string(100000, '[') + "\n", "not valid YAML"},
      {std::string(100000, '{'), "not valid YAML"},
      {kRequired + "--- # a second document\nseed: 3\n", "x.yaml:4: expected one YAML document, got 2"},
      {kRequired + "---\n", "expected one YAML document"},
      {kRequired + "...\nseed: 3\n", "expected one YAML document"},
      {"{model: {name: resnet20}, data: {name: synthetic}} x\n", "expected one YAML document"},
      {kRequired + "seed: \"3\n", "a quote is opened and not closed"},
      {kRequired + "device: 'cpu\n", "a quote is opened and not closed"},
      {kRequired + "seed: !mine 3\n", "x.yaml:3: seed: expected a value without the tag !mine"},
      {kRequired + "train: !mine {epochs: 3}\n", "the tag !mine"},
      {kRequired + "seed: 12abc\n", "expected an integer"},
      {kRequired + "seed: 1_000\n", "expected an integer"},
      {kRequired + "seed: 1,5\n", "expected an integer"},
      {kRequired + "seed: 08\n", "expected an integer"},
      {kRequired + "train: {epochs: 3.0}\n", "expected an integer"},
      {kRequired + "train: {epochs: 9223372036854775808}\n", "expected an integer of at most 2^40"},
      {kRequired + "threads: -9223372036854775809\n", "expected an integer in 0.."},
      {kRequired + "optimizer: {lr: 0,1}\n", "optimizer"},
      {kRequired + "optimizer: {lr: 0.1x}\n", "expected a number"},
      {kRequired + "optimizer: {lr: 1e999}\n", "expected a number"},
      {"model: {name: a}\ndata: {name: mnist, augment: {mean: [.inf], std: [1]}}\n", "data.augment.mean"},
      {"model: {name: a}\ndata: {name: mnist, augment: {mean: [.nan], std: [1]}}\n", "data.augment.mean"},
      {kRequired + "data: {path: ~}\n", "duplicate"},
      {"model: {name: a}\ndata: {name: mnist, path: ~}\n", "~ alone is YAML's word for nothing"},
      {kRequired + std::string("seed: 1\0\n", 9), "not valid YAML"},
  };
  for (const auto& [yaml, word] : cases) {
    const std::string message = refusal(yaml);
    INFO(yaml.substr(0, 200) << "\n" << message.substr(0, 500));
    CHECK(message.starts_with("[config] x.yaml"));
    CHECK(message.find(word) != std::string::npos);
  }
}

TEST_CASE("A damaged configuration is refused or read, never more", "[config]") {
  const std::string whole = read_file(source_folder() + "/configs/fashion_mnist/resnet20_luq.yaml");
  REQUIRE_FALSE(whole.empty());
  std::mt19937 rng(7);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = whole;
    for (unsigned edit = 0; edit < 1 + rng() % 4; ++edit) {
      const size_t at = rng() % text.size();
      if (rng() % 3 == 0) text.erase(at, 1 + rng() % 20);
      if (text.empty()) text = "x";
      if (rng() % 2 == 0) text[rng() % text.size()] = static_cast<char>(rng());
      if (rng() % 4 == 0) text.insert(rng() % text.size(), text.substr(rng() % text.size(), 30));
    }
    try {
      parse(text);
    } catch (const UserError&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
}

TEST_CASE("Every shipped configuration loads, and names are unique", "[config]") {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source_folder() + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    INFO(entry.path());
    const ExperimentConfig config = load_experiment(entry.path().string(), {});
    CHECK(to_yaml(parse(to_yaml(config))) == to_yaml(config));
    CHECK(keys_without_effect(config) == std::vector<std::string>{});
    CHECK(std::find(names.begin(), names.end(), entry.path().filename()) == names.end());
    names.push_back(entry.path().filename());
  }
  CHECK(names.size() >= 2);
}

TEST_CASE("Shipped pairs of _fp32 and _luq differ in the section quantization alone", "[config]") {
  std::vector<std::string> pairs;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(source_folder() + "/configs")) {
    const std::string file = entry.path().string(), end = "_luq.yaml";
    if (!file.ends_with(end)) continue;
    const std::string other = file.substr(0, file.size() - end.size()) + "_fp32.yaml";
    if (!std::filesystem::exists(other)) continue;
    INFO(file);
    const std::vector<std::string> differing =
        differing_keys(load_experiment(file, {}), load_experiment(other, {}), {"run.directory"});
    CHECK_FALSE(differing.empty());
    for (const std::string& key : differing) CHECK(key.starts_with("quantization."));
    pairs.push_back(entry.path().filename().string());
  }
  for (const char* name : {"resnet20_luq.yaml", "cifar100_resnet18_luq.yaml", "resnet18_luq.yaml", "resnet50_luq.yaml",
                           "resnext50_32x4d_luq.yaml", "mobilenet_v2_luq.yaml", "vit_b_16_luq.yaml"}) {
    INFO(name);
    CHECK(std::ranges::count(pairs, name) == 1);
  }
}

TEST_CASE("docs/configuration.md lists every key as it is", "[config][docs]") {
  const std::string document = read_file(source_folder() + "/docs/configuration.md");
  const std::string tables = documentation_tables();
  if (document.find(tables) == std::string::npos) {
    const std::string file = build_folder() + "/configuration_tables.md";
    write_file(file, tables);
    FAIL("docs/configuration.md does not hold the tables of the schema; they are in " << file << ", to be pasted");
  }
}

}  // namespace luq
