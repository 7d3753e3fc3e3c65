#include "src/core/stop_signals.h"

#include <ctime>
#include <initializer_list>

namespace luq {
namespace {

volatile std::sig_atomic_t received_signal = 0;
timespec received_at{};
int living = 0;

// A terminal and what started the program may both send it, so what follows at once is the same request.
void remember(int number) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (received_signal == 0) {
    received_at = now;
    received_signal = number;
  } else if ((now.tv_sec - received_at.tv_sec) * 1000000000 + (now.tv_nsec - received_at.tv_nsec) >= 1000000000) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
}

}  // namespace

StopSignals::StopSignals() {
  if (living++ == 0) received_signal = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &old_interrupt_);
  ::sigaction(SIGTERM, &action, &old_terminate_);
  // Left by one before that had been stopped: what was there before it is the default.
  if (living > 1) return;
  for (struct sigaction* old : {&old_interrupt_, &old_terminate_}) {
    if (old->sa_handler == remember) old->sa_handler = SIG_DFL;
  }
}

StopSignals::~StopSignals() {
  --living;
  // A program that was stopped and had no handler of its own may be told so again while it ends.
  const auto give_back = [](int number, const struct sigaction& old) {
    if (received_signal == 0 || old.sa_handler != SIG_DFL) ::sigaction(number, &old, nullptr);
  };
  give_back(SIGINT, old_interrupt_);
  give_back(SIGTERM, old_terminate_);
}

int StopSignals::received() const { return received_signal; }

}  // namespace luq
