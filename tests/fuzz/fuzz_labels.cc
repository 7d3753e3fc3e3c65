// Files of labels: validation labels in every form, lists of classes, .cls and .json. The first byte says which.
#include "luq/core/error.h"
#include "src/data/label_file.h"
#include "src/data/tar_shard.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static const std::vector<std::string> images = {"a.JPEG", "b.JPEG", "c d.png"}, classes = {"n1", "n2", "n3"},
                                        devkit = {"n3", "n1", "n2"}, none;
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    if (data[0] == 'c') {
      for (const std::string& name : luq::parse_class_list(text, "file")) {
        if (name.empty()) __builtin_trap();
      }
    } else if (data[0] == 'd') {
      if (luq::parse_cls_label(text).value_or(0) < 0) __builtin_trap();
    } else if (data[0] == 'j') {
      if (luq::parse_json_label(text).value_or(0) < 0) __builtin_trap();
    } else {
      const std::vector<int32_t> labels =
          luq::parse_label_file(text, "file", images, classes, data[0] == 'k' ? devkit : none);
      if (labels.size() != images.size()) __builtin_trap();
      for (const int32_t label : labels) {
        if (label < 0 || label > 2) __builtin_trap();
      }
    }
  } catch (const luq::UserError&) {
  }
  return 0;
}
