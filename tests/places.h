// Folders that tests read from and write to. Only places.cc is compiled with their paths, so that a copy of the tree
// elsewhere compiles everything else to the same objects.
#pragma once

#include <string>

std::string source_folder();
std::string build_folder();
