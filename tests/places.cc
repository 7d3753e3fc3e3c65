#include "tests/places.h"

std::string source_folder() { return LUQ_SOURCE_DIR; }
std::string build_folder() { return LUQ_BINARY_DIR; }
