#include "src/train/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace luq {
namespace {

constexpr double kPanelWidth = 330, kPanelHeight = 250;                           // inside the axes
constexpr double kLeft = 62, kTop = 44, kBetween = 76, kRight = 24, kXAxis = 46;  // around them
constexpr double kLegendLine = 20, kLegendLetter = 6.4;                           // estimated width of a letter
constexpr size_t kMostMarkers = 40;
// Okabe and Ito's colours without the yellow, which white paper swallows: told apart with any kind of colour vision.
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
constexpr const char* kGrey = "#444444";

const char* colour_of(size_t owner) { return kColours[owner % std::size(kColours)]; }

// Colours come again after the seventh run, with another marker.
std::string marker(size_t owner, double x, double y, const char* colour) {
  switch (owner / std::size(kColours) % 3) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\" fill=\"{}\"/>\n", x, y, colour);
    case 1:
      return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"5\" height=\"5\" fill=\"{}\"/>\n", x - 2.5, y - 2.5,
                         colour);
    default:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l3.4 5.6h-6.8z\" fill=\"{}\"/>\n", x, y - 3.4, colour);
  }
}

// later: how many entries of the legend come after the curve's.
std::string stroke(CurveStyle style, const char* colour, size_t later) {
  switch (style) {
    case CurveStyle::thin:
      return fmt::format("stroke=\"{}\" stroke-width=\"1.1\" stroke-opacity=\"0.5\"", colour);
    case CurveStyle::dashed:
      return fmt::format("stroke=\"{}\" stroke-width=\"1.8\" stroke-dasharray=\"6 3\"", colour);
    case CurveStyle::marked:
      return fmt::format("stroke=\"{}\" stroke-width=\"2\"", colour);
    default:
      return fmt::format("stroke=\"{}\" stroke-width=\"{:.1f}\"", colour,
                         1.6 + 1.8 * static_cast<double>(std::min<size_t>(later, 4)));
  }
}

std::string line(double x1, double y1, double x2, double y2, const std::string& attributes) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2, y2,
                     attributes);
}

std::string text_at(double x, double y, const std::string& attributes, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes, xml_escaped(text));
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// Never empty.
Range x_range(const Picture& picture) {
  Range range;
  range.include(0);
  for (const Panel& panel : picture.panels) {
    for (const Curve& curve : panel.curves) {
      for (const Point& point : curve.points) range.include(point.x);
    }
  }
  if (!(range.high > range.low)) range.high = range.low + 1;
  return range;
}

bool has_style(const Panel& panel, CurveStyle style) {
  return std::ranges::any_of(panel.curves,
                             [style](const Curve& curve) { return curve.style == style && !curve.points.empty(); });
}

Range y_range(const Panel& panel) {
  Range range;
  const bool has_thin = has_style(panel, CurveStyle::thin);
  for (const Curve& curve : panel.curves) {
    const bool is_cut = has_thin && curve.style != CurveStyle::thin;
    for (size_t i = 0; i < curve.points.size(); ++i) {
      const double y = curve.points[i].y;
      range.include(is_cut && 2 * i + 1 < curve.points.size() ? std::min(y, range.high) : y);
      range.low = std::min(range.low, y);
    }
  }
  if (!(range.high >= range.low)) range = {0, 1};
  const double margin = range.high > range.low ? 0.05 * (range.high - range.low) : 0.05 * std::abs(range.high) + 1e-9;
  range.low = panel.from_lowest ? panel.lowest : std::max(panel.lowest, range.low - margin);
  range.high += margin;
  if (panel.highest > panel.lowest) range.high = std::min(panel.highest, range.high);
  if (!(range.high > range.low)) range.low = range.high - 1;
  return range;
}

class PanelWriter {
 public:
  // clip: name of the panel's clip path; owners: entries of the legend.
  PanelWriter(const Panel& panel, const Range& x, double left, const std::string& clip, size_t owners)
      : panel_(panel), x_(x), y_(y_range(panel)), left_(left), clip_(clip), owners_(owners) {}

  std::string write(const std::string& x_title) const {
    const double right = left_ + kPanelWidth, middle = left_ + kPanelWidth / 2, bottom = kTop + kPanelHeight;
    const std::string grid = "stroke=\"#e4e4e4\"", centred = fmt::format("text-anchor=\"middle\" fill=\"{}\"", kGrey);
    std::string text =
        text_at(middle, kTop - 14, "text-anchor=\"middle\" font-size=\"14\" font-weight=\"bold\"", panel_.title);
    for (const double tick : nice_ticks(x_.low, x_.high, 8)) {
      text += line(place_x(tick), kTop, place_x(tick), bottom, grid);
      text += text_at(place_x(tick), bottom + 17, centred, fmt::format("{:g}", tick));
    }
    for (const double tick : nice_ticks(y_.low, y_.high, 8)) {
      text += line(left_, place_y(tick), right, place_y(tick), grid);
      text += text_at(left_ - 7, place_y(tick) + 4, fmt::format("text-anchor=\"end\" fill=\"{}\"", kGrey),
                      fmt::format("{:g}", tick));
    }
    text += text_at(middle, bottom + 36, centred, x_title);
    const std::string box = fmt::format("x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"", left_, kTop,
                                        kPanelWidth, kPanelHeight);
    text += fmt::format("<clipPath id=\"{}\"><rect {}/></clipPath>\n", clip_, box);
    text += fmt::format("<rect {} fill=\"none\" stroke=\"#888888\"/>\n", box);
    // Thin curves first, so that they cover no other.
    for (const CurveStyle style : {CurveStyle::thin, CurveStyle::solid, CurveStyle::dashed, CurveStyle::marked}) {
      for (const Curve& curve : panel_.curves) {
        if (curve.style == style) text += draw(curve);
      }
    }
    return text;
  }

 private:
  double place_x(double x) const { return left_ + kPanelWidth * (x - x_.low) / (x_.high - x_.low); }
  double place_y(double y) const { return kTop + kPanelHeight * (1 - (y - y_.low) / (y_.high - y_.low)); }

  std::string draw(const Curve& curve) const {
    std::string path, markers;
    const size_t count = curve.points.size();
    // A curve of one point has no line to be seen.
    const bool has_markers = count == 1 || (curve.style == CurveStyle::marked && count <= kMostMarkers);
    for (const Point& point : curve.points) {
      const double x = place_x(point.x), y = place_y(point.y);
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x, y);
      if (has_markers && point.y <= y_.high) markers += marker(curve.owner, x, y, colour_of(curve.owner));
    }
    if (path.empty()) return "";
    return fmt::format("<path d=\"{}\" fill=\"none\" stroke-linejoin=\"round\" {} clip-path=\"url(#{})\"/>\n{}", path,
                       stroke(curve.style, colour_of(curve.owner), owners_ - 1 - curve.owner), clip_, markers);
  }

  const Panel& panel_;
  Range x_, y_;
  double left_;
  std::string clip_;
  size_t owners_;
};

// Broken at ", " into lines of at most `letters`, where that can be.
std::vector<std::string> wrapped(const std::string& text, size_t letters) {
  std::vector<std::string> lines{""};
  for (size_t begin = 0; begin < text.size();) {
    const size_t comma = text.find(", ", begin);
    const size_t end = comma == std::string::npos ? text.size() : comma + 2;
    if (!lines.back().empty() && lines.back().size() + end - begin > letters) lines.emplace_back();
    lines.back() += text.substr(begin, end - begin);
    begin = end;
  }
  return lines;
}

// What the kinds of lines mean.
std::string style_key(const Picture& picture, double y) {
  std::string text;
  double x = kLeft;
  const auto add = [&](CurveStyle style, const std::string& name) {
    if (std::ranges::none_of(picture.panels, [&](const Panel& panel) { return has_style(panel, style); })) return;
    text += line(x, y - 4, x + 24, y - 4, stroke(style, kGrey, 0));
    if (style == CurveStyle::marked) text += marker(0, x + 12, y - 4, kGrey);
    text += text_at(x + 32, y, fmt::format("fill=\"{}\"", kGrey), name);
    x += 56 + kLegendLetter * static_cast<double>(name.size());
  };
  add(CurveStyle::thin, "training");
  add(CurveStyle::marked, "test");
  add(CurveStyle::dashed, "test, average of the weights (EMA)");
  return text;
}

}  // namespace

std::string to_svg(const Picture& picture) {
  const auto panels = static_cast<double>(picture.panels.size());
  const double width = kLeft + panels * kPanelWidth + (panels - 1) * kBetween + kRight;
  double y = kTop + kPanelHeight + kXAxis + 26;
  std::string legend = style_key(picture, y);
  const auto letters = static_cast<size_t>((width - kLeft - 32 - kRight) / kLegendLetter);
  for (size_t owner = 0; owner < picture.legend.size(); ++owner) {
    y += kLegendLine;
    legend += line(kLeft, y - 4, kLeft + 24, y - 4, stroke(CurveStyle::marked, colour_of(owner), 0));
    legend += marker(owner, kLeft + 12, y - 4, colour_of(owner));
    const std::vector<std::string> lines = wrapped(picture.legend[owner], letters);
    for (size_t i = 0; i < lines.size(); ++i) {
      if (i > 0) y += kLegendLine - 4;
      legend += text_at(kLeft + 32, y, "", lines[i]);
    }
  }
  std::string text = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
      width, y + 20);
  const Range x = x_range(picture);
  for (size_t i = 0; i < picture.panels.size(); ++i) {
    const double left = kLeft + static_cast<double>(i) * (kPanelWidth + kBetween);
    text += PanelWriter(picture.panels[i], x, left, fmt::format("panel{}", i), picture.legend.size())
                .write(picture.x_title);
  }
  return text + legend + "</svg>\n";
}

std::vector<double> nice_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double fraction = rough / power;
  const double step = power * (fraction <= 1 ? 1 : fraction <= 2 ? 2 : fraction <= 5 ? 5 : 10);
  std::vector<double> ticks;
  // Whole steps, so that no error adds up; what is outside by an error of rounding is inside.
  for (double k = std::ceil(low / step - 1e-9); k <= high / step + 1e-9; ++k) ticks.push_back(k == 0 ? 0 : k * step);
  return ticks;
}

std::string xml_escaped(const std::string& text) {
  using Json = nlohmann::json;
  const auto valid = Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
  std::string escaped;
  for (const char c : valid) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else {
      escaped += (c >= 0 && c < ' ') || c == 0x7f ? ' ' : c;
    }
  }
  return escaped;
}

}  // namespace luq
