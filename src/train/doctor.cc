#include "luq/train/doctor.h"

#include <fmt/ranges.h>

#include "luq/core/device.h"
#include "luq/core/system_info.h"
#include "luq/data/dataset.h"
#include "luq/data/image.h"
#include "luq/models/registry.h"

namespace luq {

std::string doctor_report() {
  std::string text;
  const auto line = [&](const std::string& name, const std::string& value) {
    text += fmt::format("{:<16} {}\n", name, value);
  };
  for (const auto& [name, value] : system_info()) line(name, value);
  line("CUDA", describe_cuda());
  line("images", image_library_versions());
  line("models", fmt::format("{}", fmt::join(model_names(), ", ")));
  text += "\ndata sets\n";
  for (const std::string& name : dataset_names()) {
    if (name == "synthetic") {
      line("  " + name, "made as needed");
      continue;
    }
    const std::string folder = find_dataset(name);
    if (!folder.empty()) {
      line("  " + name, folder);
      continue;
    }
    line("  " + name, fmt::format("not found in {}{}", fmt::join(dataset_locations(name), ", "),
                                  name == "fashion_mnist" ? "; apt-get install dataset-fashion-mnist"
                                                          : "; set data.path to the folder of its files"));
  }
  return text;
}

}  // namespace luq
