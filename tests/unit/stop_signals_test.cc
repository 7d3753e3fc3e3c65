#include "luq/core/stop_signals.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "luq/data/dataset.h"
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

// How a process ends that does this with the system's own handlers, as waitpid() says it.
class Child {
 public:
  explicit Child(const std::function<void()>& run) : process_(::fork()) {
    if (process_ != 0) return;
    for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGUSR1}) std::signal(number, SIG_DFL);
    run();
    ::_exit(0);
  }
  int status() const {
    int status = 0;
    ::waitpid(process_, &status, 0);
    return status;
  }
  bool ends_with(int code) const {
    const int how = status();
    return WIFEXITED(how) && WEXITSTATUS(how) == code;
  }
  bool is_killed_by(int number) const {
    const int how = status();
    return WIFSIGNALED(how) && WTERMSIG(how) == number;
  }

 private:
  pid_t process_;
};

void raise_after_a_second(int number) {
  ::usleep(1100000);
  std::raise(number);
}

}  // namespace

TEST_CASE("A process that was stopped is not ended by the same signal again, and later ones count", "[stop_signals]") {
  for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGUSR1}) {
    const Handler before = std::signal(number, SIG_DFL);
    {
      const StopSignals signals;
      std::raise(number);
      CHECK(signals.received() == number);
      CHECK_THROWS_AS(throw_if_stopped(), Stopped);
    }
    throw_if_stopped();
    std::raise(number);  // which would end this program
    {
      const StopSignals signals;
      CHECK(signals.received() == 0);
      throw_if_stopped();
    }
    CHECK(handler_of(number) == SIG_DFL);
    std::signal(number, before);
  }
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

TEST_CASE("A signal that is ignored stays ignored", "[stop_signals]") {
  for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGUSR1}) {
    const Handler before = std::signal(number, SIG_IGN);
    {
      const StopSignals signals;
      std::raise(number);
      CHECK(signals.received() == 0);
      const DelayedStopSignals delay;
      CHECK(handler_of(number) == SIG_IGN);
    }
    CHECK(handler_of(number) == SIG_IGN);
    const Child child([number] {
      std::signal(number, SIG_IGN);
      end_at_stop_signals("test");
      std::raise(number);
    });
    CHECK(child.ends_with(0));
    std::signal(number, before);
  }
}

TEST_CASE("A signal a second later ends the process, but for one of another kind", "[stop_signals]") {
  const auto first_and_second = [](int first, int second) {
    return Child([first, second] {
      const StopSignals signals;
      std::raise(first);
      std::raise(second);  // at once: the same request
      raise_after_a_second(second);
    });
  };
  const Child interrupted = first_and_second(SIGINT, SIGINT), terminated = first_and_second(SIGINT, SIGTERM),
              hung_up = first_and_second(SIGHUP, SIGHUP);
  const Child warned([] {
    const StopSignals signals;
    std::raise(SIGUSR1);
    raise_after_a_second(SIGTERM);  // a batch system's limit, while the run still saves
    if (signals.received() != SIGUSR1) ::_exit(1);
  });
  const Child after_the_end([] {
    {
      const StopSignals signals;
      std::raise(SIGINT);
    }
    raise_after_a_second(SIGTERM);
  });
  CHECK(interrupted.is_killed_by(SIGINT));
  CHECK(terminated.is_killed_by(SIGTERM));
  CHECK(hung_up.is_killed_by(SIGHUP));
  CHECK(warned.ends_with(0));
  CHECK(after_the_end.is_killed_by(SIGTERM));
}

TEST_CASE("A delayed signal does its work when temporary files are gone, or is left to who waits for it",
          "[stop_signals]") {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const auto delayed = [&](bool breaks_off) {
    const DelayedStopSignals delay;
    std::raise(SIGTERM);
    bool is_due = false;
    try {
      delay.throw_if_due();
    } catch (const Stopped&) {
      is_due = true;
    }
    if (is_due != breaks_off) ::_exit(2);
    if (::write(pipe[1], "x", 1) != 1) ::_exit(3);
  };
  const Child killed([&] { delayed(true); });
  CHECK(killed.is_killed_by(SIGTERM));
  const Child ended([&] {
    end_at_stop_signals("test");
    delayed(true);
  });
  CHECK(ended.ends_with(128 + SIGTERM));
  const Child taken([&] {
    const StopSignals signals;
    delayed(false);
    if (signals.received() != SIGTERM) ::_exit(1);
  });
  CHECK(taken.ends_with(0));
  char bytes[4];
  CHECK(::read(pipe[0], bytes, sizeof(bytes)) == 3);  // each came to its end
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_CASE("A program that may be ended says by what", "[stop_signals]") {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const Child child([&] {
    ::dup2(pipe[1], STDERR_FILENO);
    end_at_stop_signals("program");
    std::raise(SIGHUP);
  });
  CHECK(child.ends_with(128 + SIGHUP));
  char text[64] = {};
  CHECK(::read(pipe[0], text, sizeof(text) - 1) > 0);
  CHECK(std::string(text) == "program: stopped by SIGHUP\n");
  const Child full([&] {  // nobody reads
    ::dup2(pipe[1], STDERR_FILENO);
    end_at_stop_signals("program");
    ::signal(SIGALRM, SIG_DFL);
    ::alarm(60);
    for (;;) {
      if (::write(pipe[1], text, sizeof(text)) < 0) ::_exit(3);
      pollfd room{.fd = pipe[1], .events = POLLOUT, .revents = 0};
      if (::poll(&room, 1, 0) == 0) break;
    }
    std::raise(SIGINT);
  });
  CHECK(full.ends_with(128 + SIGINT));
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_CASE("The listing of a data set is stopped", "[stop_signals]") {
  const std::filesystem::path root =
      std::filesystem::temp_directory_path() / ("luq_stop_signals_" + std::to_string(::getpid()));
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root / "train/ant");
  std::ofstream(root / "train/ant/1.png") << "an image";
  const auto open = [&root] { return open_dataset("image_folder", root.string(), Split::train, {}, {}); };
  const Handler before = std::signal(SIGTERM, SIG_DFL);
  {
    const StopSignals signals;
    CHECK(open()->info().images == 1);
    std::raise(SIGTERM);
    CHECK_THROWS_AS(open(), Stopped);
  }
  std::signal(SIGTERM, before);
  std::filesystem::remove_all(root);
}
