#include "luq/core/stop_signals.h"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <mutex>
#include <tuple>

namespace luq {
namespace {

constexpr std::array<int, 4> numbers{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

// What handlers read and write.
volatile std::sig_atomic_t received_signal = 0;
volatile std::sig_atomic_t is_held = 0;  // by an object that lives
timespec received_at{};
struct FirstOfKind {
  volatile std::sig_atomic_t came = 0;
  timespec at{};
};
std::array<FirstOfKind, 3> first_of_kind;
std::array<char[64], numbers.size()> last_words;

std::mutex mutex;  // guards what follows
int living = 0;
std::atomic<int> takers = 0;  // StopSignals among them
std::array<struct sigaction, numbers.size()> before;
std::array<bool, numbers.size()> installed;

size_t index_of(int number) {
  size_t i = 0;
  while (numbers[i] != number) ++i;
  return i;
}

FirstOfKind& kind_of(int number) { return first_of_kind[number == SIGHUP ? 0 : number == SIGUSR1 ? 1 : 2]; }

bool is_a_second_later(const timespec& first, const timespec& now) {
  return (now.tv_sec - first.tv_sec) * 1000000000 + (now.tv_nsec - first.tv_nsec) >= 1000000000;
}

// As the system ends it. Process 1 of a container is not ended by a signal that has no handler.
void end_as_the_system_does(int number) {
  std::signal(number, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, number);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  std::raise(number);
  _exit(128 + number);
}

// A terminal and what started the program may both send it, so what follows at once is the same request.
void remember(int number) {
  const int error = errno;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  FirstOfKind& kind = kind_of(number);
  if (is_held == 0) {
    if (is_a_second_later(received_at, now)) end_as_the_system_does(number);
  } else if (kind.came != 0) {
    if (is_a_second_later(kind.at, now)) end_as_the_system_does(number);
  } else {
    kind.at = now;
    kind.came = 1;
    if (received_signal == 0) {
      received_at = now;
      received_signal = number;
    }
  }
  errno = error;
}

// Says so where that needs no waiting: nobody may read a pipe.
void end(int number) {
  const char* text = last_words[index_of(number)];
  pollfd standard_error{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  if (poll(&standard_error, 1, 0) == 1 && (standard_error.revents & POLLOUT) != 0) {
    std::ignore = write(STDERR_FILENO, text, std::strlen(text));
  }
  _exit(128 + number);
}

void install(size_t i, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int number : numbers) sigaddset(&action.sa_mask, number);
  sigaddset(&action.sa_mask, SIGPIPE);
  ::sigaction(numbers[i], &action, nullptr);
}

void hold() {
  const std::lock_guard lock(mutex);
  if (living++ > 0) return;
  received_signal = 0;
  for (FirstOfKind& kind : first_of_kind) kind.came = 0;
  is_held = 1;
  for (size_t i = 0; i < numbers.size(); ++i) {
    struct sigaction now {};
    ::sigaction(numbers[i], nullptr, &now);
    // Left by one before that had been stopped: what was there before it is known.
    if (now.sa_handler == remember) continue;
    before[i] = now;
    installed[i] = now.sa_handler != SIG_IGN;
    if (installed[i]) install(i, remember);
  }
}

void stop_by(int number) {
  if (number != 0) throw Stopped(number, std::string("stopped by ") + signal_name(number));
}

bool ends_the_process(const struct sigaction& action) {
  return action.sa_handler == SIG_DFL || action.sa_handler == end;
}

// Returns the signal that came when it is the last one that lets go, else 0.
int release(bool handled) {
  const std::lock_guard lock(mutex);
  if (--living > 0) return 0;
  is_held = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (!installed[i] || (handled && received_signal != 0 && ends_the_process(before[i]))) continue;
    ::sigaction(numbers[i], &before[i], nullptr);
  }
  return received_signal;
}

}  // namespace

const char* signal_name(int number) {
  switch (number) {
    case SIGHUP:
      return "SIGHUP";
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    case SIGUSR1:
      return "SIGUSR1";
    default:
      return "a signal";
  }
}

void end_at_stop_signals(const char* program) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    const std::string text = std::string(program) + ": stopped by " + signal_name(numbers[i]) + "\n";
    text.copy(last_words[i], sizeof(last_words[i]) - 1);
    struct sigaction now {};
    ::sigaction(numbers[i], nullptr, &now);
    if (now.sa_handler != SIG_IGN) install(i, end);
  }
}

void ignore_stop_signals() {
  for (const int number : numbers) std::signal(number, SIG_IGN);
}

StopSignals::StopSignals() {
  ++takers;
  hold();
}
StopSignals::~StopSignals() {
  release(true);
  --takers;
}
int StopSignals::received() const { return received_signal; }

DelayedStopSignals::DelayedStopSignals() { hold(); }
DelayedStopSignals::~DelayedStopSignals() {
  if (const int number = release(false); number != 0) std::raise(number);
}

void DelayedStopSignals::throw_if_due() const {
  if (takers == 0) stop_by(received_signal);
}

bool is_stopping() { return takers != 0 && received_signal != 0; }

void throw_if_stopped() {
  if (is_stopping()) stop_by(received_signal);
}

}  // namespace luq
