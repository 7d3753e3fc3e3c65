#include "src/data/label_file.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <unordered_map>

#include "luq/core/error.h"

namespace luq {
namespace {

constexpr std::string_view white_space = " \t\r\f\v";

struct Line {
  int64_t number;  // from 1
  std::string_view text;
};

std::string_view stripped(std::string_view text) {
  const size_t begin = text.find_first_not_of(white_space);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(white_space) - begin + 1);
}

std::vector<Line> lines_of(std::string_view text) {
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);  // byte order mark
  std::vector<Line> lines;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = stripped(text.substr(0, end));
    if (!line.empty()) lines.push_back({number, line});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::optional<int64_t> whole_number(std::string_view word) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size() || word.front() == '-') return std::nullopt;
  return value;
}

// The fields of a line of a CSV file, without blanks around them and without the quotes that do not belong to them (""
// in quotes is a quote); none when a quote does not close.
std::optional<std::vector<std::string>> fields_of(std::string_view line, char separator) {
  std::vector<std::string> fields;
  for (bool more = true; more;) {
    line = line.substr(std::min(line.find_first_not_of(white_space), line.size()));
    std::string field;
    if (line.starts_with('"')) {
      size_t end = 1;
      for (; end < line.size(); ++end) {
        if (line[end] != '"') {
          field += line[end];
        } else if (end + 1 < line.size() && line[end + 1] == '"') {
          field += line[end++];
        } else {
          break;
        }
      }
      if (end >= line.size()) return std::nullopt;
      line.remove_prefix(end + 1);
      const std::string_view behind = stripped(line.substr(0, line.find(separator)));
      if (!behind.empty()) return std::nullopt;
    } else {
      field = stripped(line.substr(0, line.find(separator)));
    }
    fields.push_back(field);
    const size_t next = line.find(separator);
    more = next != std::string_view::npos;
    if (more) line.remove_prefix(next + 1);
  }
  return fields;
}

std::string_view first_word(std::string_view text) { return text.substr(0, text.find_first_of(white_space)); }

// What a message shows of a word, whatever is in the file.
std::string shown(std::string_view word) {
  std::string out = "'";
  for (const char c : word.substr(0, 60)) out += c >= ' ' && c != '\x7f' ? c : '?';
  return out + (word.size() > 60 ? "...'" : "'");
}

class Parser {
 public:
  Parser(const std::string& file, const std::vector<std::string>& images, const std::vector<std::string>& classes,
         const std::vector<std::string>& devkit_classes)
      : file_(file), images_(images), classes_(classes), devkit_classes_(devkit_classes) {
    for (size_t i = 0; i < classes.size(); ++i) class_index_.emplace(classes[i], static_cast<int32_t>(i));
  }

  std::vector<int32_t> parse(std::string_view text) {
    std::vector<Line> lines = lines_of(text);
    // Excel's: a line that names the separator, and rows of empty cells.
    if (!lines.empty() && lines.front().text.size() == 5 && lines.front().text.starts_with("sep=")) {
      lines.erase(lines.begin());
    }
    std::erase_if(lines,
                  [](const Line& line) { return line.text.find_first_not_of(" \t,;") == std::string_view::npos; });
    if (lines.empty())
      fail_user("[data] {}: expected the classes of {} images, got an empty file", file_, images_.size());
    const auto is_pair = [](const Line& line) { return line.text.find_first_of(" \t,;") != std::string_view::npos; };
    const bool are_classes = std::all_of(lines.begin(), lines.end(), [&](const Line& line) {
      return class_index_.count(without_quotes(line.text)) != 0;
    });
    return is_pair(lines.front()) && !are_classes ? by_name(lines) : in_order(lines);
  }

 private:
  [[noreturn]] void refuse(const Line& line, const std::string& problem) const {
    fail_user("[data] {}:{}: {}", file_, line.number, problem);
  }

  std::vector<int32_t> in_order(const std::vector<Line>& lines) const {
    if (lines.size() != images_.size()) {
      fail_user("[data] {}: expected a line for each of the {} images, got {}", file_, images_.size(), lines.size());
    }
    const bool numbers = std::all_of(lines.begin(), lines.end(), [&](const Line& line) {
      return whole_number(line.text) && class_index_.count(std::string(line.text)) == 0;
    });
    if (numbers && devkit_classes_.empty()) {
      fail_user(
          "[data] {}: holds a number for each image: the development kit's ids, whose order is not that of the "
          "classes' "
          "names. Set data.devkit_classes to a file of the classes in the kit's order (a line for each of "
          "ILSVRC2012_ID 1, "
          "2, ... of its meta.mat), or use a file of lines \"image class\", such as LOC_val_solution.csv",
          file_);
    }
    std::vector<int32_t> labels;
    labels.reserve(lines.size());
    for (const Line& line : lines) labels.push_back(numbers ? from_id(line) : from_name(line, line.text));
    return labels;
  }

  int32_t from_id(const Line& line) const {
    const int64_t id = *whole_number(line.text);
    if (id < 1 || id > static_cast<int64_t>(devkit_classes_.size())) {
      refuse(line, fmt::format("expected an id in 1..{}, got {}", devkit_classes_.size(), id));
    }
    return from_name(line, devkit_classes_[static_cast<size_t>(id - 1)]);
  }

  int32_t from_name(const Line& line, std::string_view name) const {
    const auto found = class_index_.find(without_quotes(name));
    if (found == class_index_.end()) {
      refuse(line, fmt::format("expected one of the {} classes, got {}", classes_.size(), shown(name)));
    }
    return found->second;
  }

  // A name on a line of its own, which Excel puts into quotes where there is a separator in it.
  static std::string without_quotes(std::string_view name) {
    const auto fields = name.starts_with('"') ? fields_of(name, '\0') : std::nullopt;
    return fields && fields->size() == 1 ? fields->front() : std::string(name);
  }

  // The two halves of a line "image class" or "image,class ...", of which the class may be more than its name.
  std::pair<std::string, std::string> split(const Line& line) const {
    std::optional<std::vector<std::string>> fields;
    if (line.text.find(separator_) != std::string_view::npos) {
      fields = fields_of(line.text, separator_);
    } else {
      const size_t gap = line.text.find_last_of(white_space);
      if (gap == std::string_view::npos)
        refuse(line, fmt::format("expected an image and its class, got {}", shown(line.text)));
      const auto image = fields_of(line.text.substr(0, gap), '\0'), name = fields_of(line.text.substr(gap), '\0');
      if (image && name) fields = {image->front(), name->front()};
    }
    if (!fields) refuse(line, fmt::format("a quote that does not close: {}", shown(line.text)));
    while (fields->size() > 2 && fields->back().empty()) fields->pop_back();  // cells of Excel's
    const bool is_pair = fields->size() == 2 && !(*fields)[0].empty() && !(*fields)[1].empty();
    if (!is_pair) refuse(line, fmt::format("expected an image and its class, got {}", shown(line.text)));
    const std::string& name = (*fields)[1];
    return {(*fields)[0], class_index_.count(name) != 0 ? name : std::string(first_word(name))};
  }

  // Of those in the first lines the one that leaves the name of an image before it.
  template <typename IsImage>
  void find_separator(const std::vector<Line>& lines, const IsImage& is_image) {
    int most = -1;
    for (const char candidate : {',', ';', '\t'}) {
      if (lines.front().text.find(candidate) == std::string_view::npos) continue;
      int images = 0;
      for (size_t i = 0; i < std::min<size_t>(lines.size(), 2); ++i) {
        const auto fields = fields_of(lines[i].text, candidate);
        images += fields && fields->size() > 1 && is_image(fields->front()) ? 1 : 0;
      }
      if (images > most) separator_ = candidate;
      most = std::max(most, images);
    }
  }

  std::vector<int32_t> by_name(std::vector<Line> lines) {
    std::unordered_map<std::string, size_t> image_index;
    for (size_t i = 0; i < images_.size(); ++i) image_index.emplace(images_[i], i);
    for (size_t i = 0; i < images_.size(); ++i) {  // a whole name wins over one without its extension
      image_index.emplace(images_[i].substr(0, images_[i].rfind('.')), i);
    }
    const auto find_image = [&](std::string_view name) {
      const auto found = image_index.find(std::string(name.substr(name.rfind('/') + 1)));
      return found == image_index.end() ? images_.size() : found->second;
    };
    find_separator(lines, [&](const std::string& name) { return find_image(name) != images_.size(); });
    const bool has_header = lines.front().text.find(separator_) != std::string_view::npos &&
                            find_image(split(lines.front()).first) == images_.size();
    if (has_header) lines.erase(lines.begin());

    const bool names = std::all_of(lines.begin(), lines.end(),
                                   [&](const Line& line) { return class_index_.count(split(line).second) != 0; });
    std::vector<int32_t> labels(images_.size(), -1);
    for (const Line& line : lines) {
      const auto [image, name] = split(line);
      const size_t index = find_image(image);
      if (index == images_.size()) refuse(line, fmt::format("there is no image {}", shown(image)));
      if (labels[index] >= 0) refuse(line, fmt::format("the image {} stands twice", shown(image)));
      labels[index] = names ? from_name(line, name) : from_index(line, name);
    }
    const auto missing = std::find(labels.begin(), labels.end(), -1);
    if (missing != labels.end()) {
      fail_user("[data] {}: {} of {} images have no line, the first of them {}", file_,
                std::count(labels.begin(), labels.end(), -1), images_.size(),
                images_[static_cast<size_t>(missing - labels.begin())]);
    }
    return labels;
  }

  int32_t from_index(const Line& line, std::string_view word) const {
    const std::optional<int64_t> index = whole_number(word);
    if (!index || *index >= static_cast<int64_t>(classes_.size())) {
      refuse(line,
             fmt::format("expected one of the {} classes, by its name or (on every line) by its index in 0..{}, got {}",
                         classes_.size(), classes_.size() - 1, shown(word)));
    }
    return static_cast<int32_t>(*index);
  }

  const std::string& file_;
  const std::vector<std::string>&images_, &classes_, &devkit_classes_;
  std::unordered_map<std::string, int32_t> class_index_;
  char separator_ = ',';
};

}  // namespace

std::vector<int32_t> parse_label_file(std::string_view text, const std::string& file,
                                      const std::vector<std::string>& image_names,
                                      const std::vector<std::string>& class_names,
                                      const std::vector<std::string>& devkit_classes) {
  return Parser(file, image_names, class_names, devkit_classes).parse(text);
}

std::vector<std::string> parse_class_names(std::string_view text, const std::string& file) {
  std::vector<std::string> names;
  for (const Line& line : lines_of(text)) {
    const auto expected = static_cast<int64_t>(names.size()) + 1;
    if (line.number != expected) {
      fail_user("[data] {}:{}: expected the name of class {}, got an empty line", file, expected, expected - 1);
    }
    names.emplace_back(line.text);
  }
  return names;
}

std::vector<std::string> parse_class_list(std::string_view text, const std::string& file) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const Line& line : lines_of(text)) {
    names.emplace_back(first_word(line.text));
    if (!seen.insert(names.back()).second) {
      fail_user("[data] {}:{}: the class {} stands twice", file, line.number, shown(names.back()));
    }
  }
  if (names.empty()) fail_user("[data] {}: expected a class on each line, got an empty file", file);
  return names;
}

}  // namespace luq
