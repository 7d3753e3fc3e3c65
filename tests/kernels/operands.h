// The operands of every entry that a device may have, in one place: which arrays a call reads and writes, and how many
// elements each has. Tests copy operands by this list, to a device and back (device_table.cc) or beside each other
// (tests/cuda_emulation/shadow.h).
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"

// X(name, Args), as in kernels.h; the other entries are the host's.
#define LUQ_DEVICE_KERNEL_ENTRIES(X)                \
  LUQ_REQUIRED_KERNEL_ENTRIES(X)                    \
  X(stats_many, StatsManyArgs)                      \
  X(qconv_forward_moments, QConvForwardMomentsArgs) \
  X(batch_norm_act, BatchNormActArgs)               \
  X(batch_norm_act_backward, BatchNormActBackwardArgs)

namespace luq::test {

// An array of a call.
struct Operand {
  enum class Type : uint8_t { float32, bfloat16, other };
  Type type;
  int64_t count, element_bytes;
  bool read, written;  // read: also where not all of it is written
  int64_t bytes() const { return count * element_bytes; }
};

// visit() puts other pointers into the args of one call: for each operand what array() or value() gives. Null is no
// operand, and stays. The args are of use while this lives.
class Operands {
 public:
  Operands() = default;
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  void visit(kernels::ConvertArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(kernels::StatsArgs& a) {
    in(a.x, a.count);
    out_on_host(a.stats);
  }
  void visit(kernels::StatsManyArgs& a) {
    tensors_.assign(a.tensors, a.tensors + a.count);
    for (kernels::StatsArgs& one : tensors_) visit(one);
    a.tensors = tensors_.data();
  }
  void visit(kernels::EncodeIntArgs& a) {
    in(a.x, a.rows * a.cols);
    out(a.codes, packed(a.rows, a.cols));
  }
  void visit(kernels::EncodeFp4Args& a) {
    in(a.x, a.rows * a.cols);
    out(a.codes, packed(a.rows, a.cols));
  }
  void visit(kernels::DecodeArgs& a) {
    in(a.codes, packed(a.rows, a.cols));
    out(a.x, a.rows * a.cols);
  }

  // With sums the floats are not written.
  void visit(kernels::QConvForwardArgs& a) {
    in(a.x, packed_x(a.shape));
    in(a.w, packed_w(a.shape));
    in(a.bias, a.shape.o);
    out(a.y, a.shape.y_size(), a.sums != nullptr);
    out(a.sums, a.shape.y_size());
  }
  void visit(kernels::QConvForwardMomentsArgs& a) {
    visit(a.conv);
    out(a.mean, a.conv.shape.o);
    out(a.variance, a.conv.shape.o);
  }
  void visit(kernels::QConvBackwardDataArgs& a) {
    in(a.dy, packed_y(a.shape));
    in(a.w, packed_w(a.shape));
    out(a.dx, a.shape.x_size(), a.accumulate || a.sums != nullptr);
    out(a.sums, a.shape.x_size());
  }
  void visit(kernels::QConvBackwardWeightArgs& a) {
    in(a.dy, packed_y(a.shape));
    in(a.x, packed_x(a.shape));
    out(a.dw, a.shape.w_size(), a.sums != nullptr);
    out(a.sums, a.shape.w_size());
  }

  void visit(kernels::ConvForwardArgs& a) {
    in(a.x, a.shape.x_size());
    in(a.w, a.shape.w_size());
    in(a.bias, a.shape.o);
    out(a.y, a.shape.y_size());
  }
  void visit(kernels::ConvBackwardDataArgs& a) {
    in(a.dy, a.shape.y_size());
    in(a.w, a.shape.w_size());
    out(a.dx, a.shape.x_size());
  }
  void visit(kernels::ConvBackwardWeightArgs& a) {
    in(a.dy, a.shape.y_size());
    in(a.x, a.shape.x_size());
    out(a.dw, a.shape.w_size());
  }
  void visit(kernels::ColumnSumArgs& a) {
    in(a.x, a.rows * a.cols);
    out(a.sum, a.cols);
  }

  void visit(kernels::BatchNormStatsArgs& a) {
    in(a.x, a.rows * a.c);
    out(a.mean, a.c);
    out(a.variance, a.c);
  }
  void visit(kernels::BatchNormApplyArgs& a) {
    visit_scale(a);
    in(a.beta, a.c);
    in(a.x, a.rows * a.c);
    out(a.y, a.rows * a.c);
  }
  void visit(kernels::BatchNormActArgs& a) {
    visit_scale(a);
    in(a.beta, a.c);
    in(a.x, a.rows * a.c);
    in(a.residual, a.rows * a.c);
    out(a.y, a.rows * a.c);
    out(a.mask, mask_bytes(a.rows * a.c));
    out_on_host(a.stats);
  }
  void visit(kernels::BatchNormBackwardArgs& a) {
    visit_scale(a);
    visit_norm_backward(a);
  }
  void visit(kernels::BatchNormActBackwardArgs& a) {
    visit_scale(a);
    in(a.mask, mask_bytes(a.rows * a.c));
    out(a.dresidual, a.rows * a.c);
    visit_norm_backward(a);
    out_on_host(a.stats);
  }
  void visit(kernels::BatchNormFinishArgs& a) {
    in(a.mean, a.c);
    in(a.variance, a.c);
    out(a.inverse_std, a.c);
    out(a.running_mean, a.c, true);
    out(a.running_variance, a.c, true);
  }
  void visit(kernels::LayerNormArgs& a) {
    in(a.x, a.rows * a.c);
    in(a.gamma, a.c);
    in(a.beta, a.c);
    out(a.y, a.rows * a.c);
    out(a.mean, a.rows);
    out(a.inverse_std, a.rows);
  }
  void visit(kernels::LayerNormBackwardArgs& a) {
    in(a.mean, a.rows);
    in(a.inverse_std, a.rows);
    in(a.gamma, a.c);
    visit_norm_backward(a);
  }

  void visit(kernels::AttentionArgs& a) {
    const int64_t rows = a.n * a.tokens * a.heads;
    in(a.qkv, 3 * rows * a.head_dim);
    out(a.y, rows * a.head_dim);
    out(a.log_sum, rows);
  }
  void visit(kernels::AttentionBackwardArgs& a) {
    const int64_t rows = a.n * a.tokens * a.heads;
    in(a.qkv, 3 * rows * a.head_dim);
    in(a.y, rows * a.head_dim);
    in(a.log_sum, rows);
    in(a.dy, rows * a.head_dim);
    out(a.dqkv, 3 * rows * a.head_dim);
  }

  void visit(kernels::ReluArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
    out(a.mask, mask_bytes(a.count));
  }
  void visit(kernels::ReluBackwardArgs& a) {
    in(a.dy, a.count);
    in(a.mask, mask_bytes(a.count));
    out(a.dx, a.count);
  }
  void visit(kernels::GeluArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(kernels::GeluBackwardArgs& a) {
    in(a.x, a.count);
    in(a.dy, a.count);
    out(a.dx, a.count);
  }
  void visit(kernels::AddArgs& a) {
    in(a.a, a.count);
    in(a.b, a.count);
    out(a.y, a.count);
  }
  void visit(kernels::DropoutArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(kernels::MovingAverageArgs& a) {
    in(a.value, a.count);
    out(a.average, a.count, true);
  }
  void visit(kernels::CopyRowsArgs& a) {
    const auto bytes = [&](int64_t stride) { return a.rows > 0 ? (a.rows - 1) * stride + a.bytes : 0; };
    in(a.from, bytes(a.from_stride));
    out(a.to, bytes(a.to_stride), true);
  }

  void visit(kernels::FinishImagesArgs& a) {
    in(a.x, a.n * a.h * a.w * a.c);
    const auto* edits = static_cast<const double*>(a.edits);  // which is how they are aligned
    in(edits, a.n * image_edit_bytes(a.c) / static_cast<int64_t>(sizeof(double)));
    a.edits = edits;
    out(a.y, a.count * a.h * a.w * a.c);
  }

  void visit(kernels::MaxPoolArgs& a) {
    in(a.x, inputs(a.shape));
    out(a.y, outputs(a.shape));
    out(a.index, outputs(a.shape));
  }
  void visit(kernels::MaxPoolBackwardArgs& a) {
    in(a.dy, outputs(a.shape));
    in(a.index, outputs(a.shape));
    out(a.dx, inputs(a.shape));
  }
  void visit(kernels::AvgPoolArgs& a) {
    in(a.x, inputs(a.shape));
    out(a.y, outputs(a.shape));
  }
  void visit(kernels::AvgPoolBackwardArgs& a) {
    in(a.dy, outputs(a.shape));
    out(a.dx, inputs(a.shape));
  }
  void visit(kernels::AdaptiveAvgPoolArgs& a) {
    in(a.x, a.n * a.h * a.w * a.c);
    out(a.y, a.n * a.oh * a.ow * a.c);
  }
  void visit(kernels::AdaptiveAvgPoolBackwardArgs& a) {
    in(a.dy, a.n * a.oh * a.ow * a.c);
    out(a.dx, a.n * a.h * a.w * a.c);
  }

  void visit(kernels::CrossEntropyArgs& a) {
    in(a.logits, a.rows * a.classes);
    in(a.labels, a.rows);
    in(a.other_labels, a.rows);
    in(a.label_weight, a.rows);
    out(a.loss, a.rows);
    out(a.dlogits, a.rows * a.classes);
    out_on_host(a.correct);
  }
  void visit(kernels::SgdArgs& a) {
    in(a.gradient, a.count);
    out(a.w, a.count, true);
    out(a.velocity, a.count, true);
  }
  void visit(kernels::AdamWArgs& a) {
    in(a.gradient, a.count);
    for (float** state : {&a.w, &a.m, &a.v}) out(*state, a.count, true);
  }

 protected:
  ~Operands() = default;

  // A pointer to take the place of `data`.
  virtual void* array(void* data, const Operand& operand) = 0;
  // Likewise of one value, which every table writes on the host.
  virtual Stats* value(Stats* stats) { return stats; }
  virtual int64_t* value(int64_t* count) { return count; }

 private:
  static int64_t packed(int64_t rows, int64_t cols) { return rows * packed_row_bytes(cols); }
  static int64_t packed_x(const ConvShape& s) { return packed(s.n * s.h * s.w, s.c); }
  static int64_t packed_y(const ConvShape& s) { return packed(s.n * s.oh() * s.ow(), s.o); }
  static int64_t packed_w(const ConvShape& s) { return packed(s.o * s.kh * s.kw, s.c_group()); }
  static int64_t mask_bytes(int64_t count) { return (count + 7) / 8; }
  static int64_t inputs(const kernels::PoolShape& s) { return s.n * s.h * s.w * s.c; }
  static int64_t outputs(const kernels::PoolShape& s) { return s.n * s.oh() * s.ow() * s.c; }

  template <typename Args>
  void visit_scale(Args& a) {
    for (const float** of_channels : {&a.mean, &a.inverse_std, &a.gamma}) in(*of_channels, a.c);
  }
  template <typename Args>
  void visit_norm_backward(Args& a) {
    in(a.x, a.rows * a.c);
    in(a.dy, a.rows * a.c);
    out(a.dx, a.rows * a.c);
    out(a.dgamma, a.c);
    out(a.dbeta, a.c);
  }

  template <typename T>
  void in(const T*& pointer, int64_t count) {
    pointer = static_cast<const T*>(replaced(const_cast<T*>(pointer), of<T>(count, true, false)));
  }
  void in(kernels::ConstFloats& x, int64_t count) {
    x.data = replaced(const_cast<void*>(x.data), of_floats(x, count, true, false));
  }
  // keeps: what lies there is read, or not all of it written.
  template <typename T>
  void out(T*& pointer, int64_t count, bool keeps = false) {
    pointer = static_cast<T*>(replaced(pointer, of<T>(count, keeps, true)));
  }
  void out(kernels::Floats& y, int64_t count, bool keeps = false) {
    y.data = replaced(y.data, of_floats(y, count, keeps, true));
  }
  template <typename T>
  void out_on_host(T*& pointer) {
    if (pointer != nullptr) pointer = value(pointer);
  }

  template <typename T>
  static Operand of(int64_t count, bool read, bool written) {
    const auto type = std::is_same_v<T, float> ? Operand::Type::float32 : Operand::Type::other;
    if constexpr (std::is_void_v<T>) {
      return {type, count, 1, read, written};
    } else {
      return {type, count, sizeof(T), read, written};
    }
  }
  static Operand of_floats(kernels::ConstFloats x, int64_t count, bool read, bool written) {
    const auto type = x.bfloat16 ? Operand::Type::bfloat16 : Operand::Type::float32;
    return {type, count, x.element_bytes(), read, written};
  }
  void* replaced(void* data, const Operand& operand) { return data != nullptr ? array(data, operand) : nullptr; }

  std::vector<kernels::StatsArgs> tensors_;
};

}  // namespace luq::test
