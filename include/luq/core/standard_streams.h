// Standard input, output and error as they may be: closed, full, without a reader, or not waiting for one.
#pragma once

#include <string_view>

namespace luq {

// For the beginning of main(). What is closed is opened, so that no file that is opened later gets its number and what
// is said gets into that file: standard input is empty then, what is written to standard output is an error, and what
// is written to standard error is lost. std::cout and std::cerr wait for a descriptor that does not (O_NONBLOCK).
void open_standard_streams();

// Writes all of it to STDOUT_FILENO or STDERR_FILENO, and waits for who reads there, but not when the program is asked
// to stop (is_stopping()): EINTR then. Returns 0, or the system's error number.
int write_standard(int descriptor, std::string_view text) noexcept;

// A terminal that can go back to the begin of a line (TERM is set, and not "dumb"), of whose jobs this process is the
// one in the foreground.
bool can_redraw(int descriptor);

}  // namespace luq
