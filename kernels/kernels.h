// THE kernel contract: one args struct and one function pointer per kernel.
//
// Rules that hold for every entry:
// - Pointers are to dense row-major arrays; the shape stands beside each. Activations are (N, H, W, C), weights
//   (O, KH, KW, C/groups). `rows` is the product of all dimensions but the last, `cols` the last.
// - Packed codes: packed_row_bytes(cols) bytes a row, low nibble first; the pad nibble of an odd row is 0.
// - No allocation of result memory, no exceptions, no I/O; scratch comes from per-thread or function-local buffers, and
//   a kernel that gets none says so (kernels/memory.h). Arguments are checked by the caller (src/); a kernel may assume
//   them right. Sizes may be 0.
// - Inputs and outputs do not overlap, except where an entry says that they may be the same pointer.
// - Results do not depend on the number of threads. Codes, statistics and integer sums are the same, to the bit, in
//   every table; float results of other entries may differ between tables within the bounds of tests/kernels/.
// - A quantised matmul multiplies decoded codes in int8 and adds exactly: in int32, split into int64 past
//   max_int32_terms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "kernels/memory.h"
#include "kernels/numerics.h"
#include "luq/core/bfloat16.h"
#include "luq/core/conv_shape.h"
#include "luq/core/device.h"
#include "luq/core/grid.h"
#include "luq/core/image_edit.h"
#include "luq/core/rng.h"

namespace luq::kernels {

// ---- Floats of two types --------------------------------------------------------------------------------------------

// Activations and their gradients are float32 or bfloat16, all of one call of one type. Arithmetic is in float32 either
// way; what is stored as bfloat16 is rounded to nearest, ties to even.
struct ConstFloats {
  const void* data = nullptr;
  bool bfloat16 = false;

  ConstFloats() = default;
  ConstFloats(std::nullptr_t) {}
  ConstFloats(const float* values) : data(values) {}
  ConstFloats(const BFloat16* values) : data(values), bfloat16(true) {}
  explicit operator bool() const { return data != nullptr; }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t element_bytes() const { return bfloat16 ? 2 : 4; }
};

struct Floats {
  void* data = nullptr;
  bool bfloat16 = false;

  Floats() = default;
  Floats(std::nullptr_t) {}
  Floats(float* values) : data(values) {}
  Floats(BFloat16* values) : data(values), bfloat16(true) {}
  explicit operator bool() const { return data != nullptr; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  operator ConstFloats() const {
    return bfloat16 ? ConstFloats(static_cast<const BFloat16*>(data)) : ConstFloats(static_cast<const float*>(data));
  }
};

struct ConvertArgs {
  ConstFloats x;  // (count) of one type
  int64_t count;
  Floats y;  // (count) of the other
};

// ---- Quantisers -----------------------------------------------------------------------------------------------------

struct StatsArgs {
  ConstFloats x;  // (count)
  int64_t count;
  Stats* stats;  // out; the order of the sums is fixed, see numerics.h
};

// Statistics of many tensors of float32 at once: what stats gives of each. A device waits once, not for each.
struct StatsManyArgs {
  const StatsArgs* tensors;  // (count), on the host
  int64_t count;
};

struct EncodeArgs {
  ConstFloats x;  // (rows, cols)
  int64_t rows, cols;
  Grid grid;
  float inverse_scale;  // of the grid's 1; 0: all codes 0
  Rounding rounding;
  RngKey key;      // used by stochastic rounding; element index = row * cols + col
  uint8_t* codes;  // (rows, packed_row_bytes(cols))
};

struct DecodeArgs {
  const uint8_t* codes;  // (rows, packed_row_bytes(cols))
  int64_t rows, cols;
  CodeTable table;
  float scale;
  bool accumulate = false;  // add to x instead of overwriting it
  float* x;                 // (rows, cols), scale * decode(code)
};

// ---- 4-bit matmuls --------------------------------------------------------------------------------------------------
// Operands are codes with the tables of what they stand for: any two, of magnitudes up to kMaxCodeValue. An entry
// writes floats: float(sum) times the result's scale, which is `scale`, or scale * scales[i] where scales are given
// (one rounding each); then the bias is added, then the old value where asked. Or, when `sums` is not null, it writes
// the exact integer sums there instead (tests, hardware models).

struct QConvForwardArgs {
  ConvShape shape;
  const uint8_t* x;  // (n, h, w, c) packed
  CodeTable x_table;
  const uint8_t* w;  // (o, kh, kw, c/groups) packed
  CodeTable w_table;
  float scale;                    // scale of x times scale of w
  const float* scales = nullptr;  // (o) or null
  const float* bias;              // (o) or null
  bool accumulate = false;        // add to y instead of overwriting it
  Floats y;                       // (n, oh, ow, o)
  int64_t* sums;                  // (n, oh, ow, o) or null
};

// qconv_forward, and mean and variance of each output channel as batch_norm_stats would find them in the results before
// they are rounded to their type. The moments are added up in integers, so that they are the same for every order.
struct QConvForwardMomentsArgs {
  QConvForwardArgs conv;  // bias and sums are null, accumulate is false
  float* mean;            // (o)
  float* variance;        // (o) biased

  // Rows that a table may add in int32.
  static constexpr int64_t kMomentRows = 32;

  // True when int32 and int64 hold what is added up, of 2^shift times each sum, and there is something to add.
  bool fit(int shift = 0) const {
    const ConvShape& s = conv.shape;
    const int64_t rows = s.n * s.oh() * s.ow(), terms = s.kh * s.kw * s.c_group();
    const int64_t largest = (terms * conv.x_table.magnitude() * conv.w_table.magnitude()) << shift;
    return rows > 0 && largest > 0 && largest <= 0x7fffffff / kMomentRows && rows <= INT64_MAX / largest / largest;
  }
};

struct QConvBackwardDataArgs {
  ConvShape shape;
  const uint8_t* dy;  // (n, oh, ow, o) packed
  CodeTable dy_table;
  const uint8_t* w;  // (o, kh, kw, c/groups) packed
  CodeTable w_table;
  float scale;
  const float* scales = nullptr;  // (n), of each image, or null
  bool accumulate = false;        // add to dx instead of overwriting it
  Floats dx;                      // (n, h, w, c)
  int64_t* sums;                  // (n, h, w, c) or null
};

struct QConvBackwardWeightArgs {
  ConvShape shape;
  const uint8_t* dy;  // (n, oh, ow, o) packed
  CodeTable dy_table;
  const uint8_t* x;  // (n, h, w, c) packed
  CodeTable x_table;
  float scale;
  const float* scales = nullptr;  // (o), of the rows of dw, or null
  bool accumulate = false;        // add to dw instead of overwriting it
  float* dw;                      // (o, kh, kw, c/groups)
  int64_t* sums;                  // (o, kh, kw, c/groups) or null
};

// ---- Float convolutions ---------------------------------------------------------------------------------------------

// Also linear layers: h = w = kh = kw = 1. Sums run in an order that depends on the shape alone. Beside activations of
// bfloat16, w is rounded to bfloat16 too. Where cuDNN gives no float32 beside them ("cuda" of cuda_kernel_tables), dw
// has been rounded to bfloat16, and y twice where there is a bias.

struct ConvForwardArgs {
  ConvShape shape;
  ConstFloats x;      // (n, h, w, c)
  const float* w;     // (o, kh, kw, c/groups)
  const float* bias;  // (o) or null
  Floats y;           // (n, oh, ow, o)
};
struct ConvBackwardDataArgs {
  ConvShape shape;
  ConstFloats dy;  // (n, oh, ow, o)
  const float* w;  // (o, kh, kw, c/groups)
  Floats dx;       // (n, h, w, c)
};
struct ConvBackwardWeightArgs {
  ConvShape shape;
  ConstFloats dy;  // (n, oh, ow, o)
  ConstFloats x;   // (n, h, w, c)
  float* dw;       // (o, kh, kw, c/groups)
};
struct ColumnSumArgs {  // the gradient of a bias
  const float* x;       // (rows, cols)
  int64_t rows, cols;
  float* sum;  // (cols)
};

// ---- Batch norm over (rows, c): rows = n * h * w ------------------------------------------------------------------

struct BatchNormStatsArgs {
  ConstFloats x;  // (rows, c)
  int64_t rows, c;
  float* mean;      // (c)
  float* variance;  // (c) biased: divided by rows
};
struct BatchNormApplyArgs {
  ConstFloats x;  // (rows, c)
  int64_t rows, c;
  const float *mean, *inverse_std, *gamma, *beta;  // (c) each
  Floats y;                                        // (rows, c) (x - mean) * (inverse_std * gamma) + beta; may be x
};
struct BatchNormBackwardArgs {
  ConstFloats x;   // (rows, c)
  ConstFloats dy;  // (rows, c)
  int64_t rows, c;
  const float *mean, *inverse_std, *gamma;  // (c) each
  bool training;  // true: mean and std came from x and carry gradient; false: they are constants
  Floats dx;      // (rows, c); may be dy
  float* dgamma;  // (c)
  float* dbeta;   // (c)
};

// Derives, for each channel, what a norm needs beside the moments of a batch.
struct BatchNormFinishArgs {
  const float *mean, *variance;  // (c) of the batch, or the running ones
  int64_t c;
  float eps;
  float* inverse_std;                 // (c) 1 / sqrt(variance + eps)
  float* running_mean = nullptr;      // (c) in and out: (1 - momentum) old + momentum mean; or null
  float* running_variance = nullptr;  // (c) likewise with variance_factor variance; null where running_mean is
  float momentum = 0, variance_factor = 1;
};

// The fused kernels around batch norm. Each does in few passes what a chain of entries above and below does, to the bit
// of the same table's chain; in bfloat16 the result is rounded once, where the chain rounds after each entry.

struct BatchNormActArgs {  // batch_norm_apply, then add, relu and stats
  ConstFloats x;           // (rows, c)
  int64_t rows, c;
  const float *mean, *inverse_std, *gamma, *beta;  // (c) each
  ConstFloats residual;                            // (rows, c) added before ReLU, or null
  bool relu;
  Floats y;           // (rows, c); may be x or residual
  uint8_t* mask;      // as ReluArgs::mask; null where relu is false
  Stats* stats;       // of y, or null
  float ceiling = 0;  // as ReluArgs::ceiling
};
struct BatchNormActBackwardArgs {  // relu_backward, then batch_norm_backward and stats
  ConstFloats x;                   // (rows, c)
  ConstFloats dy;                  // (rows, c)
  int64_t rows, c;
  const float *mean, *inverse_std, *gamma;  // (c) each
  bool training;                            // as in BatchNormBackwardArgs
  const uint8_t* mask;                      // of relu, or null
  Floats dresidual;                         // (rows, c) dy where the mask is set, or null; may be dy
  Floats dx;                                // (rows, c); may be dy where dresidual is null
  float* dgamma;                            // (c)
  float* dbeta;                             // (c)
  Stats* stats;                             // of dx, or null
};

// ---- Layer norm over each of (rows, c) -----------------------------------------------------------------------------

struct LayerNormArgs {
  ConstFloats x;  // (rows, c)
  int64_t rows, c;
  const float *gamma, *beta;  // (c) each
  float eps;
  Floats y;            // (rows, c) (x - mean) / sqrt(variance + eps) * gamma + beta, variance biased; may be x
  float* mean;         // (rows) or null
  float* inverse_std;  // (rows) or null
};
struct LayerNormBackwardArgs {
  ConstFloats x;   // (rows, c)
  ConstFloats dy;  // (rows, c)
  int64_t rows, c;
  const float *mean, *inverse_std;  // (rows) each
  const float* gamma;               // (c)
  Floats dx;                        // (rows, c); may be dy
  float *dgamma, *dbeta;            // (c) each
};

// ---- Attention ------------------------------------------------------------------------------------------------------

// Scaled dot-product attention of each image and head by itself: y = softmax(q k^T / sqrt(head_dim)) v.
struct AttentionArgs {
  int64_t n, tokens, heads, head_dim;
  ConstFloats qkv;  // (n, tokens, 3, heads, head_dim): queries, keys, values
  Floats y;         // (n, tokens, heads, head_dim)
  float* log_sum;   // (n, heads, tokens) or null: log of the sum of the exponentials of each query's scaled scores
};
struct AttentionBackwardArgs {
  int64_t n, tokens, heads, head_dim;
  ConstFloats qkv;       // (n, tokens, 3, heads, head_dim)
  ConstFloats y;         // (n, tokens, heads, head_dim) of the forward pass
  const float* log_sum;  // (n, heads, tokens) of the forward pass
  ConstFloats dy;        // (n, tokens, heads, head_dim)
  Floats dqkv;           // (n, tokens, 3, heads, head_dim)
};

// ---- Pointwise ----------------------------------------------------------------------------------------------------

struct ReluArgs {
  ConstFloats x;  // (count)
  int64_t count;
  Floats y;           // (count) max(x, 0), NaN passes; may be x
  uint8_t* mask;      // (ceil(count / 8)) or null: bit i % 8 of byte i / 8: y is not 0, NaN included
  float ceiling = 0;  // above 0: y = min(max(x, 0), ceiling), and the mask is clear where y is the ceiling (ReLU6)
};
struct GeluArgs {
  ConstFloats x;  // (count)
  int64_t count;
  Floats y;  // (count) x (1 + erf(x / sqrt(2))) / 2; may be x
};
struct GeluBackwardArgs {
  ConstFloats x, dy;  // (count)
  int64_t count;
  Floats dx;  // (count); may be dy
};
struct ReluBackwardArgs {
  ConstFloats dy;  // (count)
  const uint8_t* mask;
  int64_t count;
  Floats dx;  // (count); may be dy
};
struct AddArgs {
  ConstFloats a, b;  // (count)
  int64_t count;
  Floats y;  // (count) a + b; may be a or b
};
struct MovingAverageArgs {
  const float* value;  // (count)
  int64_t count;
  float decay, rest;
  float* average;  // (count) in and out: decay average + rest value
};
struct CopyRowsArgs {
  const void* from;  // rows from_stride bytes apart
  int64_t from_stride;
  int64_t rows, bytes;  // of each row
  int64_t to_stride;
  void* to;
};
struct DropoutArgs {  // forward and backward alike
  const float* x;     // (count)
  int64_t count;
  float probability;  // of zeroing; kept values are multiplied by 1 / (1 - probability)
  RngKey key;         // element i is kept when random16 >= round(probability * 65536)
  float* y;           // (count); may be x
};

// ---- Pooling --------------------------------------------------------------------------------------------------------

struct PoolShape {
  int64_t n, h, w, c, kh, kw, stride_h, stride_w, pad_h, pad_w;
  bool ceil_mode;
  int64_t extent(int64_t size, int64_t kernel, int64_t stride, int64_t pad) const {
    int64_t out = (size + 2 * pad - kernel + (ceil_mode ? stride - 1 : 0)) / stride + 1;
    if (ceil_mode && (out - 1) * stride >= size + pad) --out;  // the last window starts inside the data, as in PyTorch
    return out;
  }
  int64_t oh() const { return extent(h, kh, stride_h, pad_h); }
  int64_t ow() const { return extent(w, kw, stride_w, pad_w); }
};
struct MaxPoolArgs {
  PoolShape shape;
  ConstFloats x;   // (n, h, w, c)
  Floats y;        // (n, oh, ow, c)
  int32_t* index;  // (n, oh, ow, c) or null: h * W + w of the first maximum; a NaN wins
};
struct MaxPoolBackwardArgs {
  PoolShape shape;
  ConstFloats dy;        // (n, oh, ow, c)
  const int32_t* index;  // (n, oh, ow, c)
  Floats dx;             // (n, h, w, c)
};
struct AvgPoolArgs {
  PoolShape shape;
  const float* x;  // (n, h, w, c)
  float* y;        // (n, oh, ow, c)
  bool count_include_pad;
};
struct AvgPoolBackwardArgs {
  PoolShape shape;
  const float* dy;  // (n, oh, ow, c)
  float* dx;        // (n, h, w, c)
  bool count_include_pad;
};

// Output (i, j) is the mean of input rows floor(i h / oh) to ceil((i + 1) h / oh) - 1 and the columns alike (PyTorch's
// AdaptiveAvgPool2d); oh = ow = 1 is global average pooling.
struct AdaptiveAvgPoolArgs {
  int64_t n, h, w, c, oh, ow;
  const float* x;  // (n, h, w, c)
  float* y;        // (n, oh, ow, c)
};
struct AdaptiveAvgPoolBackwardArgs {
  int64_t n, h, w, c, oh, ow;
  const float* dy;  // (n, oh, ow, c)
  float* dx;        // (n, h, w, c)
};

// ---- Loss and update ------------------------------------------------------------------------------------------------

struct CrossEntropyArgs {
  const float* logits;    // (rows, classes)
  const int32_t* labels;  // (rows), each in 0..classes-1
  int64_t rows, classes;
  float label_smoothing;  // s in [0, 1): target = (1 - s) one-hot + s / classes
  float* loss;            // (rows) or null: per-row loss
  float* dlogits;         // (rows, classes) or null: (softmax - target) * gradient_scale
  float gradient_scale;
  int64_t* correct;  // one value or null: rows whose first maximum is the label
  // Mixed images (mixup, cutmix): one-hot becomes weight one-hot(label) + (1 - weight) one-hot(other label).
  const int32_t* other_labels = nullptr;  // (rows) or null
  const float* label_weight = nullptr;    // (rows), each in [0, 1], or null where other_labels is
};

struct SgdArgs {
  float* w;               // (count) in and out
  const float* gradient;  // (count)
  float* velocity;        // (count) in and out, or null when momentum is 0
  int64_t count;
  float lr, momentum, weight_decay;
  bool nesterov;
  bool first_step;           // velocity is set to the gradient (PyTorch), not read
  float gradient_scale = 1;  // the gradient is multiplied by this first (clipping)
};

// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW: w -= lr weight_decay w; m and v
// are moving averages of g and g^2; w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps), t = step.
struct AdamWArgs {
  float* w;               // (count) in and out
  const float* gradient;  // (count)
  float *m, *v;           // (count) in and out
  int64_t count;
  float lr, beta1, beta2, eps, weight_decay;
  int64_t step;  // from 1
  float gradient_scale = 1;
};

// ---- Images ---------------------------------------------------------------------------------------------------------

// Resampling of 8-bit images as Pillow does it: a triangle filter (bilinear) whose support grows with the reduction,
// first along rows, then along columns, rounded to 8 bits after each, in fixed point of 22 bits. Called from many
// threads at once; runs on the calling one alone.
struct ResizeArgs {
  const uint8_t* x;  // (h, w, c), rows row_bytes apart
  int64_t h, w, c, row_bytes;
  int64_t oh, ow;
  uint8_t* y;  // (oh, ow, c)
  // x and y may be parts of a larger resize, described per direction. Without these they are the whole.
  struct Part {
    int64_t from = 0, to = 0;          // extents of the whole image before and after; 0: h and oh, or w and ow
    int64_t x_begin = 0, y_begin = 0;  // where x and y begin in them
  };
  Part rows = {}, columns = {};
};

// The pixels, of `from` in a direction, that resize reads for its outputs begin .. end of `to`.
struct ResizeSupport {
  int64_t begin = 0, end = 0;
};
ResizeSupport resize_support(int64_t from, int64_t to, int64_t begin, int64_t end);

// Makes the network's input of bytes. Each image is mirrored or not, and x * scale + shift for each channel, in
// double with one rounding for the product and sum, then to float32; then its part is set to 0; then it is mixed with
// the one before it, as that one is by then: in float32, each product and the sum rounded. The same to the bit in every
// table.
struct FinishImagesArgs {
  const uint8_t* x;  // (n, h, w, c)
  int64_t n, h, w, c;
  const void* edits;     // (n, image_edit_bytes(c)), see luq/core/image_edit.h
  ImageMix mix;          // of all n
  int64_t first, count;  // the images to make
  Floats y;              // (count, h, w, c)
};

// ---- What the machine can do ----------------------------------------------------------------------------------------

struct PeakArgs {  // a loop of nothing but multiply-adds, in registers, on the calling thread: the unit's rate
  int64_t iterations;
  double* operations;  // out: how many were done, a multiply-add counting as two
};

struct PeakReadArgs {  // reads memory and does nothing else, on the calling thread
  const uint8_t* x;    // (bytes), at a multiple of 64
  int64_t bytes;       // a multiple of 1024
  uint8_t* all;        // out: one byte that depends on all of them
};

struct RandomBitsArgs {  // the random bits of stochastic rounding and nothing else: what they cost alone
  RngKey key;
  int64_t count;  // elements, 16 bits each; fewer than 2^35
  uint32_t* all;  // out: exclusive or of the numbers of all elements, two to a word: even ones low, odd ones high
};

// ---- The table ------------------------------------------------------------------------------------------------------

// X(name, Args). A missing required entry fails at start-up with the list. An optional one may be null: an op then
// runs the chain of required ones, and a rate is not known.
#define LUQ_REQUIRED_KERNEL_ENTRIES(X)                       \
  X(convert, ConvertArgs)                                    \
  X(stats, StatsArgs)                                        \
  X(encode, EncodeArgs)                                      \
  X(decode, DecodeArgs)                                      \
  X(qconv_forward, QConvForwardArgs)                         \
  X(qconv_backward_data, QConvBackwardDataArgs)              \
  X(qconv_backward_weight, QConvBackwardWeightArgs)          \
  X(conv_forward, ConvForwardArgs)                           \
  X(conv_backward_data, ConvBackwardDataArgs)                \
  X(conv_backward_weight, ConvBackwardWeightArgs)            \
  X(column_sum, ColumnSumArgs)                               \
  X(batch_norm_stats, BatchNormStatsArgs)                    \
  X(batch_norm_apply, BatchNormApplyArgs)                    \
  X(batch_norm_backward, BatchNormBackwardArgs)              \
  X(batch_norm_finish, BatchNormFinishArgs)                  \
  X(layer_norm, LayerNormArgs)                               \
  X(layer_norm_backward, LayerNormBackwardArgs)              \
  X(attention, AttentionArgs)                                \
  X(attention_backward, AttentionBackwardArgs)               \
  X(relu, ReluArgs)                                          \
  X(relu_backward, ReluBackwardArgs)                         \
  X(gelu, GeluArgs)                                          \
  X(gelu_backward, GeluBackwardArgs)                         \
  X(add, AddArgs)                                            \
  X(dropout, DropoutArgs)                                    \
  X(moving_average, MovingAverageArgs)                       \
  X(copy_rows, CopyRowsArgs)                                 \
  X(max_pool, MaxPoolArgs)                                   \
  X(max_pool_backward, MaxPoolBackwardArgs)                  \
  X(avg_pool, AvgPoolArgs)                                   \
  X(avg_pool_backward, AvgPoolBackwardArgs)                  \
  X(adaptive_avg_pool, AdaptiveAvgPoolArgs)                  \
  X(adaptive_avg_pool_backward, AdaptiveAvgPoolBackwardArgs) \
  X(cross_entropy, CrossEntropyArgs)                         \
  X(sgd, SgdArgs)                                            \
  X(adamw, AdamWArgs)                                        \
  X(finish_images, FinishImagesArgs)

// Required of the CPU's tables; the loader prepares images there for every device.
#define LUQ_HOST_KERNEL_ENTRIES(X) X(resize, ResizeArgs)

#define LUQ_OPTIONAL_KERNEL_ENTRIES(X)                 \
  X(stats_many, StatsManyArgs)                         \
  X(qconv_forward_moments, QConvForwardMomentsArgs)    \
  X(batch_norm_act, BatchNormActArgs)                  \
  X(batch_norm_act_backward, BatchNormActBackwardArgs) \
  X(peak_int8, PeakArgs)                               \
  X(peak_float32, PeakArgs)                            \
  X(peak_bfloat16, PeakArgs)                           \
  X(peak_read, PeakReadArgs)                           \
  X(random_bits, RandomBitsArgs)

#define LUQ_KERNEL_ENTRIES(X)    \
  LUQ_REQUIRED_KERNEL_ENTRIES(X) \
  LUQ_HOST_KERNEL_ENTRIES(X)     \
  LUQ_OPTIONAL_KERNEL_ENTRIES(X)

}  // namespace luq::kernels

namespace luq {

// Throws OutOfMemory naming the implementation where a kernel noted, since the last call from this thread, that it got
// no memory (kernels/memory.h).
void check_kernel_memory(const char* implementation);

// One kernel: the function and the name of what runs it ("ref", "avx2", "avx512vnni", "onednn" ...).
template <typename Args>
struct Kernel {
  void (*run)(const Args&) = nullptr;
  const char* implementation = nullptr;
  // Gets the scratch memory that a call with these arguments needs from the same thread, and makes what else is kept
  // from call to call; what their pointers point to is neither read nor written. Null where there is nothing to get.
  void (*prepare)(const Args&) = nullptr;
  explicit operator bool() const { return run != nullptr; }
  // Throws OutOfMemory where the kernel has no memory for itself; the results are undefined then. For src/: a kernel
  // that calls another one calls `run`, which throws nothing, and the call from outside reports for both.
  void operator()(const Args& args) const {
    try {
      run(args);
    } catch (const std::bad_alloc&) {  // of a container
      kernels::note_no_memory(0);
    }
    check_kernel_memory(implementation);
  }
};

struct Kernels {
#define LUQ_DECLARE_ENTRY(name, Args) Kernel<kernels::Args> name;
  LUQ_KERNEL_ENTRIES(LUQ_DECLARE_ENTRY)
#undef LUQ_DECLARE_ENTRY
};

// Every table this machine can run on the CPU, "ref" first, for tests and benchmarks.
struct NamedKernels {
  std::string name;  // ref, avx2, avx512, vnni, bf16; cuda-plain, cuda, cuda-cublaslt
  Kernels table;
};
std::vector<NamedKernels> cpu_kernel_tables();
// Gives the tables for a CUDA device, whether there is one or not: "cuda-plain", own kernels alone; where libraries are
// built in, "cuda", with them for float convolutions, and "cuda-cublaslt", which has cublasLt's int8 products for 4-bit
// matmuls that are plain ones, too; none in a build without CUDA.
std::vector<NamedKernels> cuda_kernel_tables();
// Gives the one of these that a device uses: "cuda" where it is there, or what LUQ_CUDA_KERNELS names. Throws
// UserError for another name. Empty in a build without CUDA.
Kernels cuda_kernels();

// Version of oneDNN, which runs the float convolutions.
std::string kernel_library_version();

}  // namespace luq
