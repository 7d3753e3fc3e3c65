// A picture of curves as SVG: panels with axes side by side, and a legend below them.
#pragma once

#include <string>
#include <vector>

namespace luq {

struct Point {
  double x = 0, y = 0;
};

// solid: the earlier of the legend are the broader, so that curves which coincide are all seen.
enum class CurveStyle { thin, marked, dashed, solid };

struct Curve {
  size_t owner = 0;  // index in the legend, which gives colour and marker
  CurveStyle style = CurveStyle::thin;
  std::vector<Point> points;  // rising x, finite
};

// The y axis shows every value, but for high ones in the first half of a marked or dashed curve where the panel has
// thin ones too: a network's first evaluations would flatten everything else. Such a curve comes in through the top.
struct Panel {
  std::string title;
  std::vector<Curve> curves;
  double lowest = 0;         // the y axis does not go below this
  double highest = 0;        // nor above this, where it is larger than lowest
  bool from_lowest = false;  // the y axis begins there
};

struct Picture {
  std::string x_title;
  std::vector<Panel> panels;
  std::vector<std::string> legend;
};

std::string to_svg(const Picture& picture);

// Multiples of 1, 2 or 5 times a power of ten in [low, high], at most count + 1 of them; low < high.
std::vector<double> nice_ticks(double low, double high, int count);

// Text as XML has it: markup escaped, control characters and what is no UTF-8 replaced.
std::string xml_escaped(const std::string& text);

}  // namespace luq
