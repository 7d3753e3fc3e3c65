// The command line: training by default, and a few commands beside it.

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>

#include "luq/core/allocator.h"
#include "luq/core/error.h"
#include "luq/core/log.h"
#include "luq/core/standard_streams.h"
#include "luq/core/stop_signals.h"
#include "luq/core/threads.h"
#include "tools/luqtrain/commands.h"

namespace {

using luqtrain::kFailure;
using luqtrain::kUserMistake;

// libgomp's threads spin for milliseconds at every barrier by default, which makes a step several times slower as soon
// as anything else wants a core. It reads its settings once, when the program is loaded: set a short spin and start
// again.
void spin_briefly(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", 0);
  std::error_code error;
  const std::string program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (!error) execv(program.c_str(), argv);  // comes back only when it failed; the defaults do then
}

// The lack of memory where nothing may be thrown, as in a destructor of a library, ends the program with a message too.
[[noreturn]] void end_at_once() {
  try {
    if (std::current_exception()) std::rethrow_exception(std::current_exception());
  } catch (const std::bad_alloc&) {
    constexpr char text[] = "luqtrain: error: [luqtrain] out of memory where it cannot be put right\n";
    if (::write(STDERR_FILENO, text, sizeof text - 1) < 0) ::_exit(kFailure);
    ::_exit(kFailure);
  } catch (...) {
  }
  std::abort();
}

// has_log: what it says stands in the log.txt of a run too.
int run(int argc, char** argv, bool& has_log) {
  luqtrain::Arguments arguments;
  if (const std::optional<int> code = luqtrain::parse(argc, argv, arguments)) return *code;
  try {
    has_log = arguments.is_training();
    return luqtrain::run_command(arguments);
  } catch (const luq::Stopped& stopped) {
    std::cerr << "luqtrain: " << stopped.what() << "\n";
    return stopped.exit_code();
  } catch (const luq::UserError& error) {
    luq::log_error(error.what());
    return kUserMistake;
  } catch (const std::bad_alloc&) {  // where nothing more is known
    luq::log_error(fmt::format("[{}] out of memory: {} in use", arguments.command.empty() ? "train" : arguments.command,
                               luq::memory_stats().live_bytes));
    return kFailure;
  } catch (const std::exception& error) {
    luq::log_error(error.what());
    return kFailure;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::set_terminate(end_at_once);
  luq::open_standard_streams();
  luq::set_log_program("luqtrain");
  if (const std::string problem = luq::check_thread_environment(); !problem.empty()) luq::log_warning(problem);
  spin_briefly(argv);
  luq::use_threads(0);
  luq::end_at_stop_signals("luqtrain");
  std::signal(SIGXFSZ, SIG_IGN);  // what passes the limit of a file's size is an error of the write
  int code = kFailure;
  bool has_log = false;
  try {
    code = run(argc, argv, has_log);
  } catch (const std::bad_alloc&) {  // before it was known what to do
    luq::log_error("[luqtrain] out of memory when it started");
  }
  const bool said = static_cast<bool>(std::cout.flush());
  luq::ignore_stop_signals();
  if (said || has_log) return code;
  luq::log_error("standard output cannot be written; what was said there is incomplete");
  return code == 0 ? kFailure : code;
}
