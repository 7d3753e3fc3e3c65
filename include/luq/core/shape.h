// The extents of a tensor, outermost first.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace luq {

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) : extents_(extents) {}
  explicit Shape(std::vector<int64_t> extents) : extents_(std::move(extents)) {}

  int64_t rank() const { return static_cast<int64_t>(extents_.size()); }
  // Extent of dimension i; negative i counts from the back.
  int64_t operator[](int64_t i) const { return extents_[static_cast<size_t>(i < 0 ? i + rank() : i)]; }
  int64_t numel() const {
    int64_t product = 1;
    for (const int64_t extent : extents_) product *= extent;
    return product;
  }
  auto begin() const { return extents_.begin(); }
  auto end() const { return extents_.end(); }
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::vector<int64_t> extents_;
};

// "(8,56,56,32)"; a scalar is "()".
std::string to_string(const Shape& shape);

}  // namespace luq
