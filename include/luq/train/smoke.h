// `luqtrain --smoke`: an experiment in small, to see whether all of it works here.
#pragma once

#include <string>

#include "luq/config/experiment.h"

namespace luq {

// Runs the experiment with its own model, formats, optimiser, schedule and augmentation on a handful of images: two
// steps of four images, an evaluation of six, a checkpoint; then resumes for one more step, and evaluates the last
// checkpoint, which must give what the run said. Where the data set is not there, on made-up ones: JPEG files for sets
// of image files, pixels for others. The run lies in a folder of its own below the system's for temporary files, which
// is removed in the end. Returns what was done, in words. Throws like train(); after an Error the folder stays, and the
// error names it.
std::string smoke_test(const ExperimentConfig& config);

}  // namespace luq
