// Where the time of a training step goes.
#pragma once

#include <string>

#include "luq/config/experiment.h"

namespace luq {

struct ProfileOptions {
  int64_t steps = 5;    // recorded, after two that are not
  bool shapes = false;  // a row for each shape of a kernel
};

// Runs a few steps of the experiment on one of its batches, and tells, per phase and kernel: calls, time, share of the
// step, bytes, operations, their rates, and how near the time is to this machine's limits, which are measured first,
// and again where a kernel beats them. Writes nothing. Throws like train().
std::string profile_report(const ExperimentConfig& config, const ProfileOptions& options);

}  // namespace luq
