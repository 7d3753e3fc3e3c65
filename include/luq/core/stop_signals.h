// Signals that ask a program to stop: SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 (a batch
// system's warning before the time limit). One that the program inherited as ignored stays ignored, as SIGINT in
// `cmd &` of a script and SIGHUP under nohup.
#pragma once

#include <stdexcept>
#include <string>

namespace luq {

// "SIGINT" of its number, for the four.
const char* signal_name(int number);

// Work was left undone because a signal asked for it: neither a failure nor the user's mistake. A program that is ended
// by it exits with exit_code().
class Stopped : public std::runtime_error {
 public:
  Stopped(int number, const std::string& text) : std::runtime_error(text), number_(number) {}
  int number() const { return number_; }
  int exit_code() const { return 128 + number_; }

 private:
  int number_;
};

// For a program's main(): from here on each of the four ends the process with 128 + its number after a line
// "program: stopped by SIGINT" on standard error, unless one of the classes below lives.
void end_at_stop_signals(const char* program);

// For the end of main(), when all is done and said: they are ignored from here on.
void ignore_stop_signals();

// While one lives, a first signal is remembered. A second one that comes a second or more later ends the process as the
// system does: SIGINT or SIGTERM after SIGINT or SIGTERM, and otherwise the same signal again, so that a lost terminal
// does not break off what Ctrl-C began. Several may live at a time; they know the same signal. After the last one the
// handlers from before are back, but for those that end the process, if it was told to stop: they come back a second
// after the signal, so that a signal that is sent twice does not end a program that is saying what it did.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal's number, 0 when none came.
  int received() const;
  // "SIGINT", of the one that came.
  const char* name() const { return signal_name(received()); }
};

// For the life of temporary files: a signal that comes meanwhile does its work when the last one is gone, unless
// StopSignals took it.
class DelayedStopSignals {
 public:
  DelayedStopSignals();
  ~DelayedStopSignals();
  DelayedStopSignals(const DelayedStopSignals&) = delete;
  DelayedStopSignals& operator=(const DelayedStopSignals&) = delete;

  // Throws Stopped when a signal waits for its work, so that long work is broken off: nothing where StopSignals lives.
  void throw_if_due() const;
};

// Whether StopSignals live and received one.
bool is_stopping();

// Throws Stopped where is_stopping(): for work that takes long and has written nothing yet.
void throw_if_stopped();

}  // namespace luq
