// SIGINT and SIGTERM as a request to stop.
#pragma once

#include <csignal>

namespace luq {

// While one lives, the first SIGINT or SIGTERM is remembered, and one that comes a second or more later ends the
// process as usual. One inside another knows what the outer one received. Afterwards the handlers from before are back,
// but for the default of a process that was told to stop: that comes back a second after the signal.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal's number, 0 when none came.
  int received() const;
  // "SIGINT" or "SIGTERM", of the one that came.
  const char* name() const { return received() == SIGINT ? "SIGINT" : "SIGTERM"; }

 private:
  struct sigaction old_interrupt_ {};
  struct sigaction old_terminate_ {};
};

}  // namespace luq
