// A child process that is talked to in lines.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

namespace luq::bench {

class Process {
 public:
  // Starts arguments[0], looked up in PATH, with the environment of this process and `environment` ("NAME=value") on
  // top. Its standard error is this process's. Throws Error when it cannot be started.
  Process(const std::vector<std::string>& arguments, const std::vector<std::string>& environment);
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  // Closes its input, which asks it to end, and waits for that.
  ~Process();

  void write_line(const std::string& line);
  // Its next line of output, without the end of line. Throws Error, naming the program, when there is none.
  std::string read_line();

 private:
  [[noreturn]] void ended();

  std::string name_;
  pid_t pid_ = -1;
  FILE *to_ = nullptr, *from_ = nullptr;
};

}  // namespace luq::bench
