// What a shell does with words, for what is read from users and for the commands that messages print.
#pragma once

#include <string>

namespace luq {

// The word as a POSIX shell has to read it to get these bytes; as it is where nothing in it is special. Control
// characters and bytes that are no UTF-8 become $'\351', which bash, zsh and ksh read.
std::string shell_quote(const std::string& word);
// The same for a path, which is no option whatever it begins with: ./-x.
std::string shell_path(const std::string& path);

// `~`, `~/x` and `~user/x` with the home folder, from $HOME or the system's list of users; everything else, and the
// name of a user that there is not, as it is. A folder that is named `~` is ./~.
std::string expand_home(const std::string& path);

}  // namespace luq
