// `luqtrain plot`: the curves of several runs in one picture.
#pragma once

#include <string>
#include <vector>

namespace luq {

enum class PlotAxis { automatic, epochs, steps };

// An SVG with three panels, loss, top-1 and learning rate, in which the curves of the runs lie over each other: thin
// lines of training, thick ones with markers of the test set, dashed ones of the average of the weights. From many
// lines of training the means of 300 stretches are drawn. The legend names each run by the configuration keys in which
// the runs differ, or by its folder where nothing else tells it from another. runs: folders with config.yaml and
// metrics.jsonl, of runs that are finished, broken off or still running. axis: automatic takes epochs where the number
// of steps in an epoch follows from every run's lines, else steps. Throws UserError naming the run: no run, no line of
// metrics yet, epochs asked for but not known.
std::string plot_runs(const std::vector<std::string>& runs, PlotAxis axis = PlotAxis::automatic);

// Writes the picture. Throws Error naming the file when it cannot.
void plot_runs_to_file(const std::vector<std::string>& runs, PlotAxis axis, const std::string& output);

}  // namespace luq
