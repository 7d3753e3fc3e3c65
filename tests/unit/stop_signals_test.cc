#include "src/core/stop_signals.h"

#include <csignal>

#include "tests/catch.h"

using namespace luq;

namespace {

using Handler = void (*)(int);

Handler handler_of(int number) {
  struct sigaction now {};
  ::sigaction(number, nullptr, &now);
  return now.sa_handler;
}

void own_handler(int) {}

}  // namespace

TEST_CASE("A process that was stopped is not ended by the same signal again, and later ones count", "[stop_signals]") {
  const Handler before = std::signal(SIGINT, SIG_DFL);
  {
    const StopSignals signals;
    std::raise(SIGINT);
    CHECK(signals.received() == SIGINT);
  }
  std::raise(SIGINT);  // which would end this program
  {
    const StopSignals signals;
    CHECK(signals.received() == 0);
  }
  CHECK(handler_of(SIGINT) == SIG_DFL);
  std::signal(SIGINT, before);
}

TEST_CASE("A handler from before comes back, whether a signal came or not", "[stop_signals]") {
  const Handler before = std::signal(SIGTERM, own_handler);
  for (const bool stopped : {false, true}) {
    {
      const StopSignals signals;
      if (stopped) std::raise(SIGTERM);
      CHECK(signals.received() == (stopped ? SIGTERM : 0));
    }
    CHECK(handler_of(SIGTERM) == own_handler);
  }
  std::signal(SIGTERM, before);
}
