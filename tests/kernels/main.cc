// The program of the kernel tests. A run of all of them fails where they leave out an entry of this machine's device.
#define CATCH_CONFIG_RUNNER
#include <iostream>

#include "tests/catch.h"
#include "tests/kernels/device_table.h"

int main(int argc, char** argv) {
  const int failed = Catch::Session().run(argc, argv);
  if (failed != 0 || argc > 1) return failed;
  const std::vector<std::string> missing = luq::test::device_entries_not_run();
  for (const std::string& entry : missing) std::cerr << "No test ran the device's entry " << entry << "\n";
  return missing.empty() ? 0 : 1;
}
