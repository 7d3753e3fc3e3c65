// Files that give the classes of images which lie in one folder, such as ImageNet's validation images.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace luq {

// The class of each image. text, the contents of `file`, is one of
//   lines "image class", separated by white space or a comma, in any order: val.txt, LOC_val_solution.csv (whose header
//     line is recognised, whose images have no extension, and whose boxes after the class are not read);
//   lines "class", one for each image in order: imagenet_2012_validation_synset_labels.txt;
//   lines "id", one for each image in order, with ids 1..devkit_classes.size() in the order of devkit_classes:
//     ILSVRC2012_validation_ground_truth.txt.
// A class beside an image is a name out of class_names or, when every line has one, an index into them from 0. Empty
// lines and carriage returns are passed over. image_names are sorted, without folder. devkit_classes may be empty: then
// a file of mere numbers is refused with what to do. Throws UserError naming `file`, the line and what was expected.
std::vector<int32_t> parse_label_file(std::string_view text, const std::string& file,
                                      const std::vector<std::string>& image_names,
                                      const std::vector<std::string>& class_names,
                                      const std::vector<std::string>& devkit_classes);

// A name on each line, without white space around it: "bee eater". Several classes may have one name. Throws UserError
// naming `file` and the line for an empty line that is not at the end.
std::vector<std::string> parse_class_names(std::string_view text, const std::string& file);

// Names of classes, one to a line: "n01440764", or "n01440764 tench, Tinca tinca", of which the first word is taken.
// Throws UserError for an empty list and for a name that stands twice.
std::vector<std::string> parse_class_list(std::string_view text, const std::string& file);

}  // namespace luq
