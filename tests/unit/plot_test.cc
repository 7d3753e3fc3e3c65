#include "luq/train/plot.h"

#include <filesystem>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "src/train/metrics.h"
#include "src/train/svg.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::string line(const char* kind, int64_t epoch, int64_t step, double loss) {
  return to_json({.kind = kind, .epoch = epoch, .step = step, .loss = loss, .top1 = 50, .lr = 0.1}) + "\n";
}

class Folders {
 public:
  // A run of 2 epochs of 10 steps with this configuration; its path.
  std::string add(const std::string& name, const std::string& config, const std::string& metrics) {
    const std::string path = folder_ / name;
    std::filesystem::create_directory(path);
    write_file(path + "/config.yaml", config);
    write_file(path + "/metrics.jsonl", metrics);
    return path;
  }
  std::string operator/(const std::string& name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
};

const std::string kMetrics =
    line("train", 1, 10, 2) + line("eval", 1, 10, 3) + line("train", 2, 20, 1) + line("eval", 2, 20, 1.5);

std::string refusal(const std::vector<std::string>& runs, PlotAxis axis = PlotAxis::automatic) {
  try {
    plot_runs(runs, axis);
  } catch (const UserError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("plot: runs are named by the keys in which they differ", "[plot]") {
  Folders folders;
  const std::string a = folders.add(
      "a", "seed: 1\noptimizer: {lr: 0.5}\nrun: {directory: a}\ntrain: {epochs: 2, batch_size: 8}\n", kMetrics);
  const std::string b = folders.add(
      "b", "seed: 1\nrun: {directory: b}\ntrain: {epochs: 2, batch_size: 9}\nunknown: {key: [1, 2]}\n", kMetrics);
  const std::string svg = plot_runs({a, b});
  CHECK_THAT(svg, contains_text(">lr=0.5, train.batch_size=8, key=-<") &&
                      contains_text(">lr=0.1, train.batch_size=9, key=[1, 2]<"));
  CHECK_THAT(svg, contains_text(">epoch<") && !contains_text(">step<") && !contains_text("directory"));
  CHECK_THAT(plot_runs({a, b}, PlotAxis::steps), contains_text(">step<") && !contains_text(">epoch<"));
  CHECK_THAT(plot_runs({a}), contains_text(">" + a + "<"));
  // Two of the same configuration, and one of another.
  const std::string c =
      folders.add("c", "seed: 2\ntrain: {epochs: 2, batch_size: 8}\noptimizer: {lr: 0.5}\n", kMetrics);
  const std::string three = plot_runs({a, c, a});
  CHECK(count(three, ">seed=1 (" + a + ")<") == 2);
  CHECK(count(three, ">seed=2<") == 1);
}

TEST_CASE("plot: curves of training, of the test set, and of the average where there is one", "[plot]") {
  Folders folders;
  const std::string plain = folders.add("plain", "train: {epochs: 2}\n", kMetrics);
  CHECK(count(plot_runs({plain}), "<path") == 2 + 2 + 1);
  Metrics eval{.kind = "eval", .epoch = 2, .step = 20};
  eval.ema_loss = eval.ema_top1 = 1;
  const std::string averaged = folders.add("averaged", "train: {epochs: 2}\n", kMetrics + to_json(eval));
  CHECK(count(plot_runs({averaged}), "stroke-dasharray") == 2 + 1);
  CHECK_THAT(plot_runs({averaged}), contains_text("EMA") && !contains_text("nan") && !contains_text("inf"));
}

TEST_CASE("plot: a run that is not finished", "[plot]") {
  Folders folders;
  const std::string begun = folders.add("begun", "seed: 1\n", line("train", 1, 5, 2) + "{\"kind\":\"train\",\"st");
  const std::string svg = plot_runs({begun});
  CHECK(count(svg, "<path") == 3);
  CHECK(count(svg, "<circle") == 3 + 1);  // a point has no line; one is the legend's
  CHECK_THAT(svg, contains_text(">step<"));
  CHECK_THAT(refusal({begun}, PlotAxis::epochs), contains_text(begun) && contains_text("use steps"));
  // Ended in mid-epoch, and longer since: the evaluation does not tell the length of an epoch.
  const std::string longer =
      folders.add("longer", "train: {max_steps: 12}\n", line("eval", 2, 12, 1) + line("train", 2, 15, 1));
  CHECK_THAT(refusal({longer}, PlotAxis::epochs), contains_text("use steps"));
}

TEST_CASE("plot: what is no run with lines is refused by name", "[plot]") {
  Folders folders;
  const std::string good = folders.add("good", "seed: 1\n", kMetrics), empty = folders.add("empty", "seed: 1\n", "");
  CHECK_THAT(refusal({good, folders / "none"}), contains_text(folders / "none: is no run: there is no such folder"));
  CHECK_THAT(refusal({good, folders / ""}), contains_text("is no run: it holds no config.yaml"));
  CHECK_THAT(refusal({good, empty}), contains_text(empty + ": metrics.jsonl holds no line that can be drawn"));
  CHECK_THAT(refusal({folders.add("bad", "a: [", kMetrics)}), contains_text("not valid YAML"));
  CHECK_THAT(refusal({}), contains_text("one run or more"));
}

TEST_CASE("plot: many lines become means of stretches", "[plot]") {
  Folders folders;
  std::string metrics;
  for (int64_t step = 1; step <= 5000; ++step)
    metrics += line("train", 1, step, 1 + 0.5 * static_cast<double>(step % 2));
  const std::string svg = plot_runs({folders.add("long", "seed: 1\n", metrics)});
  CHECK(svg.size() < 60000);
  CHECK(count(svg, "L") > 3 * 290);
}

TEST_CASE("svg: text is valid XML whatever it holds", "[plot]") {
  CHECK(xml_escaped("a<b>&\"c\"") == "a&lt;b&gt;&amp;&quot;c&quot;");
  CHECK(xml_escaped("x\n\x01y\x7f") == "x  y ");
  CHECK(xml_escaped("gr\xc3\xbc\xc3\x9f") == "gr\xc3\xbc\xc3\x9f");
  CHECK(xml_escaped("\xff!") == "\xef\xbf\xbd!");
}

TEST_CASE("svg: ticks are round numbers", "[plot]") {
  CHECK(nice_ticks(0, 1, 5) == std::vector<double>{0, 0.2, 0.4, 6 * 0.1, 0.8, 1});
  CHECK(nice_ticks(0, 15, 8) == std::vector<double>{0, 2, 4, 6, 8, 10, 12, 14});
  CHECK(nice_ticks(-3, 3, 6) == std::vector<double>{-3, -2, -1, 0, 1, 2, 3});
  CHECK(nice_ticks(1e5, 4.5e5, 6) == std::vector<double>{1e5, 2e5, 3e5, 4e5});
}

}  // namespace luq
