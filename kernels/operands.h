// The arrays that a call of an entry reads and writes, in one place: how many elements each has, and how often a call
// reads and writes them. Profiles count bytes by this list (src/core/profile.cc), and tests copy operands by it, to a
// device and back (tests/kernels/device_table.cc) or beside each other (tests/cuda_emulation/shadow.h).
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"

// X(name, Args), as in kernels.h: the entries that a device may have.
#define LUQ_DEVICE_KERNEL_ENTRIES(X)                \
  LUQ_REQUIRED_KERNEL_ENTRIES(X)                    \
  X(stats_many, StatsManyArgs)                      \
  X(qconv_forward_moments, QConvForwardMomentsArgs) \
  X(batch_norm_act, BatchNormActArgs)               \
  X(batch_norm_act_backward, BatchNormActBackwardArgs)

namespace luq::kernels {

// An array of a call.
struct KernelArray {
  enum class Type : uint8_t { float32, bfloat16, other };
  Type type;
  int64_t count, element_bytes;
  // Whether what it holds before the call matters, since it is read or not all of it is written; and whether the call
  // writes it. An array that is neither lies in the args, but this call does not touch it.
  bool read, written;
  int64_t moved;  // elements that are read and written, each counted as often as it is
  int64_t bytes() const { return count * element_bytes; }
  int64_t moved_bytes() const { return moved * element_bytes; }
};

// visit() puts other pointers into the args of one call: for each array what array() or value() gives. Null is no
// array, and stays. The args are of use while this lives.
class KernelArrays {
 public:
  KernelArrays() = default;
  KernelArrays(const KernelArrays&) = delete;
  KernelArrays& operator=(const KernelArrays&) = delete;

  void visit(ConvertArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(StatsArgs& a) {
    in(a.x, a.count);
    out_on_host(a.stats);
  }
  void visit(StatsManyArgs& a) {
    tensors_.assign(a.tensors, a.tensors + a.count);
    for (StatsArgs& one : tensors_) visit(one);
    a.tensors = tensors_.data();
  }
  void visit(EncodeArgs& a) {
    in(a.x, a.rows * a.cols);
    out(a.codes, packed(a.rows, a.cols));
  }
  void visit(DecodeArgs& a) {
    in(a.codes, packed(a.rows, a.cols));
    visit_result(a.x, a.rows * a.cols, a.accumulate);
  }

  void visit(QConvForwardArgs& a) {
    in(a.x, packed_x(a.shape));
    in(a.w, packed_w(a.shape));
    in(a.scales, a.shape.o);
    in(a.bias, a.shape.o);
    visit_result(a.y, a.shape.y_size(), a.accumulate, a.sums);
  }
  void visit(QConvForwardMomentsArgs& a) {
    visit(a.conv);
    out(a.mean, a.conv.shape.o);
    out(a.variance, a.conv.shape.o);
  }
  void visit(QConvBackwardDataArgs& a) {
    in(a.dy, packed_y(a.shape));
    in(a.w, packed_w(a.shape));
    in(a.scales, a.shape.n);
    visit_result(a.dx, a.shape.x_size(), a.accumulate, a.sums);
  }
  void visit(QConvBackwardWeightArgs& a) {
    in(a.dy, packed_y(a.shape));
    in(a.x, packed_x(a.shape));
    in(a.scales, a.shape.o);
    visit_result(a.dw, a.shape.w_size(), a.accumulate, a.sums);
  }

  void visit(ConvForwardArgs& a) {
    in(a.x, a.shape.x_size());
    in(a.w, a.shape.w_size());
    in(a.bias, a.shape.o);
    out(a.y, a.shape.y_size());
  }
  void visit(ConvBackwardDataArgs& a) {
    in(a.dy, a.shape.y_size());
    in(a.w, a.shape.w_size());
    out(a.dx, a.shape.x_size());
  }
  void visit(ConvBackwardWeightArgs& a) {
    in(a.dy, a.shape.y_size());
    in(a.x, a.shape.x_size());
    out(a.dw, a.shape.w_size());
  }
  void visit(ColumnSumArgs& a) {
    in(a.x, a.rows * a.cols);
    out(a.sum, a.cols);
  }

  void visit(BatchNormStatsArgs& a) {
    in(a.x, a.rows * a.c);
    out(a.mean, a.c);
    out(a.variance, a.c);
  }
  void visit(BatchNormApplyArgs& a) {
    visit_scale(a);
    in(a.beta, a.c);
    in(a.x, a.rows * a.c);
    out(a.y, a.rows * a.c);
  }
  void visit(BatchNormActArgs& a) {
    visit_scale(a);
    in(a.beta, a.c);
    in(a.x, a.rows * a.c);
    in(a.residual, a.rows * a.c);
    out(a.y, a.rows * a.c);
    out(a.mask, mask_bytes(a.rows * a.c));
    out_on_host(a.stats);
  }
  void visit(BatchNormBackwardArgs& a) {
    visit_scale(a);
    visit_norm_backward(a, 2);
  }
  void visit(BatchNormActBackwardArgs& a) {
    visit_scale(a);
    in(a.mask, mask_bytes(a.rows * a.c), 2);
    out(a.dresidual, a.rows * a.c);
    visit_norm_backward(a, 2);
    out_on_host(a.stats);
  }
  void visit(BatchNormFinishArgs& a) {
    use(a.mean, a.c, {.read = a.running_mean != nullptr});
    in(a.variance, a.c);
    out(a.inverse_std, a.c);
    in_out(a.running_mean, a.c);
    in_out(a.running_variance, a.c);
  }
  void visit(LayerNormArgs& a) {
    in(a.x, a.rows * a.c);
    in(a.gamma, a.c);
    in(a.beta, a.c);
    out(a.y, a.rows * a.c);
    out(a.mean, a.rows);
    out(a.inverse_std, a.rows);
  }
  void visit(LayerNormBackwardArgs& a) {
    in(a.mean, a.rows);
    in(a.inverse_std, a.rows);
    in(a.gamma, a.c);
    visit_norm_backward(a, 1);
  }

  void visit(AttentionArgs& a) {
    const int64_t rows = a.n * a.tokens * a.heads;
    in(a.qkv, 3 * rows * a.head_dim);
    out(a.y, rows * a.head_dim);
    out(a.log_sum, rows);
  }
  void visit(AttentionBackwardArgs& a) {
    const int64_t rows = a.n * a.tokens * a.heads;
    in(a.qkv, 3 * rows * a.head_dim);
    in(a.y, rows * a.head_dim);
    in(a.log_sum, rows);
    in(a.dy, rows * a.head_dim);
    out(a.dqkv, 3 * rows * a.head_dim);
  }

  void visit(ReluArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
    out(a.mask, mask_bytes(a.count));
  }
  void visit(ReluBackwardArgs& a) {
    in(a.dy, a.count);
    in(a.mask, mask_bytes(a.count));
    out(a.dx, a.count);
  }
  void visit(GeluArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(GeluBackwardArgs& a) {
    in(a.x, a.count);
    in(a.dy, a.count);
    out(a.dx, a.count);
  }
  void visit(AddArgs& a) {
    in(a.a, a.count);
    in(a.b, a.count);
    out(a.y, a.count);
  }
  void visit(DropoutArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void visit(MovingAverageArgs& a) {
    in(a.value, a.count);
    in_out(a.average, a.count);
  }
  void visit(CopyRowsArgs& a) {
    const auto extent = [&](int64_t stride) { return a.rows > 0 ? (a.rows - 1) * stride + a.bytes : 0; };
    const int64_t moved = a.rows * a.bytes;
    use(a.from, extent(a.from_stride), {.read = true}, moved);
    use(a.to, extent(a.to_stride), {.read = true, .written = true}, moved);
  }

  void visit(FinishImagesArgs& a) {
    const int64_t image = a.h * a.w * a.c, edit = image_edit_bytes(a.c) / static_cast<int64_t>(sizeof(double));
    const int64_t reads = a.mix.kind == ImageMix::Kind::mixup ? 2 : 1;  // the image before it too
    use(a.x, a.n * image, {.read = true}, reads * a.count * image);
    const auto* edits = static_cast<const double*>(a.edits);  // which is how they are aligned
    use(edits, a.n * edit, {.read = true}, a.count * edit);
    a.edits = edits;
    out(a.y, a.count * image);
  }
  void visit(ResizeArgs& a) {
    use(a.x, a.h > 0 ? (a.h - 1) * a.row_bytes + a.w * a.c : 0, {.read = true}, a.h * a.w * a.c);
    out(a.y, a.oh * a.ow * a.c);
  }

  void visit(MaxPoolArgs& a) {
    in(a.x, inputs(a.shape));
    out(a.y, outputs(a.shape));
    out(a.index, outputs(a.shape));
  }
  void visit(MaxPoolBackwardArgs& a) {
    in(a.dy, outputs(a.shape));
    in(a.index, outputs(a.shape));
    out(a.dx, inputs(a.shape));
  }
  void visit(AvgPoolArgs& a) {
    in(a.x, inputs(a.shape));
    out(a.y, outputs(a.shape));
  }
  void visit(AvgPoolBackwardArgs& a) {
    in(a.dy, outputs(a.shape));
    out(a.dx, inputs(a.shape));
  }
  void visit(AdaptiveAvgPoolArgs& a) {
    in(a.x, a.n * a.h * a.w * a.c);
    out(a.y, a.n * a.oh * a.ow * a.c);
  }
  void visit(AdaptiveAvgPoolBackwardArgs& a) {
    in(a.dy, a.n * a.oh * a.ow * a.c);
    out(a.dx, a.n * a.h * a.w * a.c);
  }

  void visit(CrossEntropyArgs& a) {
    in(a.logits, a.rows * a.classes);
    in(a.labels, a.rows);
    in(a.other_labels, a.rows);
    in(a.label_weight, a.rows);
    out(a.loss, a.rows);
    out(a.dlogits, a.rows * a.classes);
    out_on_host(a.correct);
  }
  void visit(SgdArgs& a) {
    in(a.gradient, a.count);
    in_out(a.w, a.count);
    use(a.velocity, a.count, {.read = !a.first_step, .written = true});
  }
  void visit(AdamWArgs& a) {
    in(a.gradient, a.count);
    for (float** state : {&a.w, &a.m, &a.v}) in_out(*state, a.count);
  }

  void visit(PeakArgs&) {}
  void visit(PeakReadArgs& a) {
    in(a.x, a.bytes);
    out(a.all, 1);
  }
  void visit(RandomBitsArgs& a) { out(a.all, 1); }

 protected:
  ~KernelArrays() = default;

  // A pointer to take the place of `data`.
  virtual void* array(void* data, const KernelArray& array) = 0;
  // A pointer to take the place of one to a value that every table writes on the host.
  virtual Stats* value(Stats* stats) { return stats; }
  virtual int64_t* value(int64_t* count) { return count; }

 private:
  static int64_t packed(int64_t rows, int64_t cols) { return rows * packed_row_bytes(cols); }
  static int64_t packed_x(const ConvShape& s) { return packed(s.n * s.h * s.w, s.c); }
  static int64_t packed_y(const ConvShape& s) { return packed(s.n * s.oh() * s.ow(), s.o); }
  static int64_t packed_w(const ConvShape& s) { return packed(s.o * s.kh * s.kw, s.c_group()); }
  static int64_t mask_bytes(int64_t count) { return (count + 7) / 8; }
  static int64_t inputs(const PoolShape& s) { return s.n * s.h * s.w * s.c; }
  static int64_t outputs(const PoolShape& s) { return s.n * s.oh() * s.ow() * s.c; }

  template <typename Args>
  void visit_scale(Args& a) {
    for (const float** of_channels : {&a.mean, &a.inverse_std, &a.gamma}) in(*of_channels, a.c);
  }
  template <typename Args>
  void visit_norm_backward(Args& a, int64_t passes) {
    in(a.x, a.rows * a.c, passes);
    in(a.dy, a.rows * a.c, passes);
    out(a.dx, a.rows * a.c);
    out(a.dgamma, a.c);
    out(a.dbeta, a.c);
  }
  // If sums are asked for, they are written and the floats are not touched.
  template <typename Y>
  void visit_result(Y& y, int64_t count, bool accumulate) {
    use(y, count, {.read = accumulate, .written = true});
  }
  template <typename Y>
  void visit_result(Y& y, int64_t count, bool accumulate, int64_t*& sums) {
    if (sums == nullptr) return visit_result(y, count, accumulate);
    use(y, count, {});
    out(sums, count);
  }

  struct Use {
    bool read = false, written = false;
  };

  template <typename X>
  void in(X& x, int64_t count, int64_t passes = 1) {
    use(x, count, {.read = true}, passes * count);
  }
  template <typename Y>
  void out(Y& y, int64_t count) {
    use(y, count, {.written = true});
  }
  template <typename Y>
  void in_out(Y& y, int64_t count) {
    use(y, count, {.read = true, .written = true});
  }
  template <typename T>
  void out_on_host(T*& pointer) {
    if (pointer != nullptr) pointer = value(pointer);
  }

  // x: a pointer, ConstFloats or Floats.
  template <typename X>
  void use(X& x, int64_t count, Use how) {
    use(x, count, how, (how.read ? count : 0) + (how.written ? count : 0));
  }
  template <typename T>
  void use(T*& x, int64_t count, Use how, int64_t moved) {
    constexpr auto type =
        std::is_same_v<std::remove_const_t<T>, float> ? KernelArray::Type::float32 : KernelArray::Type::other;
    int64_t bytes = 1;
    if constexpr (!std::is_void_v<T>) bytes = sizeof(T);
    x = static_cast<T*>(replaced(x, {type, count, bytes, how.read, how.written, moved}));
  }
  void use(ConstFloats& x, int64_t count, Use how, int64_t moved) { x.data = replaced_floats(x, count, how, moved); }
  void use(Floats& y, int64_t count, Use how, int64_t moved) { y.data = replaced_floats(y, count, how, moved); }
  void* replaced_floats(ConstFloats x, int64_t count, Use how, int64_t moved) {
    const auto type = x.bfloat16 ? KernelArray::Type::bfloat16 : KernelArray::Type::float32;
    return replaced(x.data, {type, count, x.element_bytes(), how.read, how.written, moved});
  }
  void* replaced(const void* data, const KernelArray& of) {
    return data != nullptr ? array(const_cast<void*>(data), of) : nullptr;
  }

  std::vector<StatsArgs> tensors_;
};

}  // namespace luq::kernels
