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

// A field of a CSV file, whose quotes do not belong to it; none when they are not a pair.
std::optional<std::string_view> unquoted(std::string_view text) {
  const bool opens = text.starts_with('"'), closes = text.size() > 1 && text.ends_with('"');
  if (!opens) return text;
  if (!closes) return std::nullopt;
  return text.substr(1, text.size() - 2);
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
    const std::vector<Line> lines = lines_of(text);
    if (lines.empty())
      fail_user("[data] {}: expected the classes of {} images, got an empty file", file_, images_.size());
    const auto is_pair = [](const Line& line) { return line.text.find_first_of(" \t,") != std::string_view::npos; };
    return is_pair(lines.front()) ? by_name(lines) : in_order(lines);
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
    const auto found = class_index_.find(std::string(name));
    if (found == class_index_.end()) {
      refuse(line, fmt::format("expected one of the {} classes, got {}", classes_.size(), shown(name)));
    }
    return found->second;
  }

  // The two halves of a line "image class" or "image,class ...".
  std::pair<std::string_view, std::string_view> split(const Line& line) const {
    const size_t comma = line.text.find(',');
    const size_t gap = comma != std::string_view::npos ? comma : line.text.find_last_of(white_space);
    if (gap == std::string_view::npos)
      refuse(line, fmt::format("expected an image and its class, got {}", shown(line.text)));
    const auto image_field = unquoted(stripped(line.text.substr(0, gap)));
    const auto class_field = unquoted(stripped(line.text.substr(gap + 1)));
    if (!image_field || !class_field) refuse(line, fmt::format("a quote that does not close: {}", shown(line.text)));
    const std::string_view image = *image_field, name = first_word(*class_field);
    if (image.empty() || name.empty() || name.find(',') != std::string_view::npos) {
      refuse(line, fmt::format("expected an image and its class, got {}", shown(line.text)));
    }
    return {image, name};
  }

  std::vector<int32_t> by_name(std::vector<Line> lines) const {
    std::unordered_map<std::string, size_t> image_index;
    for (size_t i = 0; i < images_.size(); ++i) image_index.emplace(images_[i], i);
    for (size_t i = 0; i < images_.size(); ++i) {  // a whole name wins over one without its extension
      image_index.emplace(images_[i].substr(0, images_[i].rfind('.')), i);
    }
    const auto find_image = [&](std::string_view name) {
      const auto found = image_index.find(std::string(name.substr(name.rfind('/') + 1)));
      return found == image_index.end() ? images_.size() : found->second;
    };
    const bool has_header = lines.front().text.find(',') != std::string_view::npos &&
                            find_image(split(lines.front()).first) == images_.size();
    if (has_header) lines.erase(lines.begin());

    const bool names = std::all_of(lines.begin(), lines.end(), [&](const Line& line) {
      return class_index_.count(std::string(split(line).second)) != 0;
    });
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
};

}  // namespace

std::vector<int32_t> parse_label_file(std::string_view text, const std::string& file,
                                      const std::vector<std::string>& image_names,
                                      const std::vector<std::string>& class_names,
                                      const std::vector<std::string>& devkit_classes) {
  return Parser(file, image_names, class_names, devkit_classes).parse(text);
}

std::vector<std::string> parse_lines(std::string_view text) {
  std::vector<std::string> lines;
  for (const Line& line : lines_of(text)) lines.emplace_back(line.text);
  return lines;
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
