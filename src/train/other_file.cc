#include "src/train/other_file.h"

#include <filesystem>

#include "luq/core/error.h"

namespace luq {

void check_other_file(const std::string& where, const std::string& option, const std::string& input,
                      const std::string& output) {
  std::error_code error;
  if (!std::filesystem::equivalent(input, output, error)) return;
  fail_user("[{}] {}: expected another file than the input {}", where, option, input);
}

}  // namespace luq
