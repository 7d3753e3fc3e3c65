// A kernel table that runs every call on the device and again by ref on copies of the same operands. What tables must
// agree on to the bit is compared with ==; floats within what two orders of a sum of n terms can differ by, twice
// n 2^-24 of the sum of the terms' magnitudes, computed from the operands, and the bounds of tests/kernels elsewhere.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/kernels.h"

namespace luq::test {

class Shadow {
 public:
  struct Count {
    int calls = 0, wrong = 0;
    std::string first;  // difference
  };

  // Of the device's table, or one like it; one at a time.
  explicit Shadow(const Kernels& device = kernels_for({DeviceType::cuda, 0}))
      : device_(device), ref_(cpu_kernel_tables().front().table), table_(device_) {
    active() = this;
#define LUQ_SHADOW_ENTRY(name, Args) \
  if (table_.name) table_.name.run = [](const kernels::Args& args) { active()->run<&Kernels::name>(#name, args); };
    LUQ_KERNEL_ENTRIES(LUQ_SHADOW_ENTRY)
#undef LUQ_SHADOW_ENTRY
  }
  ~Shadow() { active() = nullptr; }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  const Kernels& table() const { return table_; }
  const std::map<std::string, Count>& counts() const { return counts_; }

 private:
  static constexpr double kTwoSums = 0x1p-23;  // per term: each of the two sums may be 2^-24 off
  using Bound = std::function<double(size_t)>;
  using Wide = std::vector<float>;

  static Shadow*& active() {
    static Shadow* shadow = nullptr;
    return shadow;
  }

  struct Result {
    const void* there;  // on the device
    void* here;         // ref's
    int64_t count;
    char kind;    // f: float32, b: bfloat16, otherwise bytes
    Bound bound;  // none: equal to the bit
  };

  // ---- Copies on the host, until the call is over -------------------------------------------------------------------

  template <typename T>
  T* fetch(const T* p, int64_t count) {
    if (p == nullptr) return nullptr;
    const auto bytes = static_cast<size_t>(count) * sizeof(T);
    copies_.emplace_back((bytes + 7) / 8 + 1);
    if (bytes > 0) device_memory({DeviceType::cuda, 0})->to_host(copies_.back().data(), p, static_cast<int64_t>(bytes));
    return reinterpret_cast<T*>(copies_.back().data());
  }
  template <typename T>
  void in(const T*& p, int64_t count) {
    p = fetch(p, count);
  }
  void in(kernels::ConstFloats& x, int64_t count) {
    x.data = x.bfloat16 ? static_cast<const void*>(fetch(x.as<BFloat16>(), count)) : fetch(x.as<float>(), count);
  }
  template <typename T>
  void out(T*& p, int64_t count, Bound bound = {}) {
    if (p == nullptr) return;
    const void* there = p;
    p = fetch(p, count);
    const char kind = std::is_same_v<T, float> ? 'f' : 'x';
    results_.push_back({there, p, kind == 'f' ? count : count * static_cast<int64_t>(sizeof(T)), kind, bound});
  }
  void out(kernels::Floats& y, int64_t count, Bound bound = {}) {
    if (!y) return;
    const void* there = y.data;
    y.data = y.bfloat16 ? static_cast<void*>(fetch(y.as<BFloat16>(), count)) : fetch(y.as<float>(), count);
    results_.push_back({there, y.data, count, y.bfloat16 ? 'b' : 'f', bound});
  }
  // The host's values: ref's are replaced by new memory, and the device's stay where they are.
  Stats* host_stats(Stats* there) {
    if (there == nullptr) return nullptr;
    stats_there_ = there;
    return &stats_here_;
  }

  static bool same(const Stats& a, const Stats& b) {
    return a.sum_abs == b.sum_abs && a.sum_sq == b.sum_sq && a.count == b.count && a.nonzero == b.nonzero &&
           a.abs_bits_max == b.abs_bits_max;
  }

  static Wide widened(kernels::ConstFloats x, int64_t count) {
    Wide y(static_cast<size_t>(count));
    for (size_t i = 0; i < y.size(); ++i) y[i] = x.bfloat16 ? to_float(x.as<BFloat16>()[i]) : x.as<float>()[i];
    return y;
  }
  static Wide magnitudes(kernels::ConstFloats x, int64_t count) {
    Wide y = widened(x, count);
    for (float& value : y) value = std::fabs(value);
    return y;
  }
  static double largest(kernels::ConstFloats x, int64_t count) {
    double most = 0;
    for (const float value : widened(x, count)) most = std::max(most, std::fabs(static_cast<double>(value)));
    return most;
  }
  static double at(const Wide& x, int64_t i) { return static_cast<double>(x[static_cast<size_t>(i)]); }

  // ---- The call -----------------------------------------------------------------------------------------------------

  template <auto Entry, typename Args>
  void run(const char* name, const Args& args) {
    copies_.clear();
    results_.clear();
    stats_there_ = dx_stats_ = nullptr;
    many_there_.clear();
    correct_there_ = nullptr;
    Args mirrored = args;
    mirror(mirrored);
    (device_.*Entry)(args);
    by_ref(ref_.*Entry, mirrored);
    Count& count = counts_[name];
    ++count.calls;
    const std::string difference = first_difference();
    if (difference.empty()) return;
    if (count.wrong++ == 0) count.first = difference;
  }

  template <typename Args>
  void by_ref(const Kernel<Args>& kernel, const Args& args) {
    kernel(args);
  }
  // ref has no fused entries: the chains of kernels.h, in float32 and rounded at the end.
  void by_ref(const Kernel<kernels::QConvForwardMomentsArgs>&, const kernels::QConvForwardMomentsArgs& a) {
    const int64_t o = a.conv.shape.o, rows = o > 0 ? a.conv.shape.y_size() / o : 0;
    Wide y(static_cast<size_t>(rows * o));
    kernels::QConvForwardArgs wide = a.conv;
    wide.y = y.data();
    ref_.qconv_forward(wide);
    store(y, a.conv.y);
    ref_.batch_norm_stats({y.data(), rows, o, a.mean, a.variance});
  }
  void by_ref(const Kernel<kernels::BatchNormActArgs>&, const kernels::BatchNormActArgs& a) {
    const int64_t count = a.rows * a.c;
    Wide y = widened(a.x, count);
    ref_.batch_norm_apply({y.data(), a.rows, a.c, a.mean, a.inverse_std, a.gamma, a.beta, y.data()});
    if (a.residual) ref_.add({y.data(), widened(a.residual, count).data(), count, y.data()});
    if (a.relu) ref_.relu({y.data(), count, y.data(), a.mask, a.ceiling});
    store(y, a.y);
    if (a.stats != nullptr) ref_.stats({a.y, count, a.stats});
  }
  void by_ref(const Kernel<kernels::BatchNormActBackwardArgs>&, const kernels::BatchNormActBackwardArgs& a) {
    const int64_t count = a.rows * a.c;
    const Wide x = widened(a.x, count);
    Wide dy = widened(a.dy, count);
    if (a.mask != nullptr) ref_.relu_backward({dy.data(), a.mask, count, dy.data()});
    if (a.dresidual) store(dy, a.dresidual);
    ref_.batch_norm_backward(
        {x.data(), dy.data(), a.rows, a.c, a.mean, a.inverse_std, a.gamma, a.training, dy.data(), a.dgamma, a.dbeta});
    store(dy, a.dx);
  }
  void store(const Wide& x, kernels::Floats y) {
    if (y.bfloat16) {
      for (size_t i = 0; i < x.size(); ++i) y.as<BFloat16>()[i] = to_bfloat16(x[i]);
    } else {
      std::copy(x.begin(), x.end(), y.as<float>());
    }
  }

  std::string first_difference() {
    for (size_t which = 0; which < results_.size(); ++which) {
      const Result& r = results_[which];
      const std::string name = "result " + std::to_string(which);
      if (r.kind == 'x') {
        const uint8_t* got = fetch(static_cast<const uint8_t*>(r.there), r.count);
        if (std::memcmp(got, r.here, static_cast<size_t>(r.count)) != 0) return name;
        continue;
      }
      const kernels::ConstFloats here = r.kind == 'b' ? kernels::ConstFloats(static_cast<const BFloat16*>(r.here))
                                                      : kernels::ConstFloats(static_cast<const float*>(r.here));
      kernels::ConstFloats there = here;
      there.data = r.there;
      in(there, r.count);
      const Wide got = widened(there, r.count), want = widened(here, r.count);
      for (size_t i = 0; i < got.size(); ++i) {
        const double a = static_cast<double>(got[i]), b = static_cast<double>(want[i]);
        // Two values close to each other are rounded to neighbours at most.
        const double bound = r.bound ? r.bound(i) + (r.kind == 'b' ? 0x1p-7 * std::fabs(b) : 0) : 0;
        if (a == b || std::fabs(a - b) <= bound) continue;
        return name + " element " + std::to_string(i) + ": " + std::to_string(a) + ", ref " + std::to_string(b) +
               ", within " + std::to_string(bound);
      }
    }
    for (size_t i = 0; i < many_there_.size(); ++i) {
      if (!same(*many_there_[i], many_here_[i])) return "statistics of tensor " + std::to_string(i);
    }
    if (dx_stats_ != nullptr) {
      in(dx_there_, dx_count_);
      ref_.stats({dx_there_, dx_count_, &stats_here_});
      stats_there_ = dx_stats_;
    }
    if (stats_there_ != nullptr && !same(*stats_there_, stats_here_)) return "statistics";
    if (correct_there_ != nullptr && *correct_there_ != correct_here_) return "correct";
    return "";
  }

  // ---- Operands and results of each entry ---------------------------------------------------------------------------

  void mirror(kernels::ConvertArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void mirror(kernels::FinishImagesArgs& a) {
    in(a.x, a.n * a.h * a.w * a.c);
    const auto* edits = static_cast<const uint8_t*>(a.edits);
    in(edits, a.n * image_edit_bytes(a.c));
    a.edits = edits;
    out(a.y, a.count * a.h * a.w * a.c);
  }
  void mirror(kernels::StatsArgs& a) {
    in(a.x, a.count);
    a.stats = host_stats(a.stats);
  }
  void mirror(kernels::EncodeIntArgs& a) {
    in(a.x, a.rows * a.cols);
    out(a.codes, a.rows * packed_row_bytes(a.cols));
  }
  void mirror(kernels::StatsManyArgs& a) {
    many_.assign(a.tensors, a.tensors + a.count);
    many_here_.resize(many_.size());
    for (size_t i = 0; i < many_.size(); ++i) {
      many_there_.push_back(many_[i].stats);
      in(many_[i].x, many_[i].count);
      many_[i].stats = &many_here_[i];
    }
    a.tensors = many_.data();
  }
  void by_ref(const Kernel<kernels::StatsManyArgs>&, const kernels::StatsManyArgs& a) {
    for (int64_t i = 0; i < a.count; ++i) ref_.stats(a.tensors[i]);
  }
  void mirror(kernels::EncodeFp4Args& a) {
    in(a.x, a.rows * a.cols);
    out(a.codes, a.rows * packed_row_bytes(a.cols));
  }
  void mirror(kernels::DecodeArgs& a) {
    in(a.codes, a.rows * packed_row_bytes(a.cols));
    out(a.x, a.rows * a.cols);
  }

  static int64_t x_bytes(const ConvShape& s) { return s.n * s.h * s.w * packed_row_bytes(s.c); }
  static int64_t w_bytes(const ConvShape& s) { return s.o * s.kh * s.kw * packed_row_bytes(s.c_group()); }
  static int64_t y_bytes(const ConvShape& s) { return s.n * s.oh() * s.ow() * packed_row_bytes(s.o); }

  // A product of codes is exact in both, and so is everything but what is added to it afterwards, in one rounding.
  void mirror(kernels::QConvForwardArgs& a) {
    in(a.x, x_bytes(a.shape));
    in(a.w, w_bytes(a.shape));
    in(a.bias, a.shape.o);
    out(a.y, a.shape.y_size());
    out(a.sums, a.shape.y_size());
  }
  void mirror(kernels::QConvForwardMomentsArgs& a) {
    mirror(a.conv);
    const ConvShape& s = a.conv.shape;
    const double most = static_cast<double>(s.kh * s.kw * s.c_group() * kernels::max_magnitude(a.conv.x_format) *
                                            kernels::max_magnitude(a.conv.w_format)) *
                        static_cast<double>(a.conv.scale);
    out(a.mean, s.o, [most](size_t) { return 1e-6 * most; });
    out(a.variance, s.o, [most](size_t) { return 1e-6 * most * most; });
  }
  void mirror(kernels::QConvBackwardDataArgs& a) {
    in(a.dy, y_bytes(a.shape));
    in(a.w, w_bytes(a.shape));
    out(a.dx, a.shape.x_size());
    out(a.sums, a.shape.x_size());
  }
  void mirror(kernels::QConvBackwardWeightArgs& a) {
    in(a.dy, y_bytes(a.shape));
    in(a.x, x_bytes(a.shape));
    out(a.dw, a.shape.w_size());
    out(a.sums, a.shape.w_size());
  }

  // (terms + 2): the bias, and the rounding of a product.
  static Bound sums_bound(Wide magnitude, int64_t terms) {
    return [magnitude = std::move(magnitude), terms](size_t i) {
      return static_cast<double>(terms + 2) * kTwoSums * static_cast<double>(magnitude[i]);
    };
  }
  void mirror(kernels::ConvForwardArgs& a) {
    const ConvShape& s = a.shape;
    in(a.x, s.x_size());
    in(a.w, s.w_size());
    in(a.bias, s.o);
    Wide y(static_cast<size_t>(s.y_size()));
    const Wide x = magnitudes(a.x, s.x_size()), w = magnitudes(a.w, s.w_size());
    const Wide bias = a.bias != nullptr ? magnitudes(a.bias, s.o) : Wide();
    ref_.conv_forward({s, x.data(), w.data(), a.bias != nullptr ? bias.data() : nullptr, y.data()});
    out(a.y, s.y_size(), sums_bound(std::move(y), s.kh * s.kw * s.c_group()));
  }
  void mirror(kernels::ConvBackwardDataArgs& a) {
    const ConvShape& s = a.shape;
    in(a.dy, s.y_size());
    in(a.w, s.w_size());
    Wide dx(static_cast<size_t>(s.x_size()));
    const Wide dy = magnitudes(a.dy, s.y_size()), w = magnitudes(a.w, s.w_size());
    ref_.conv_backward_data({s, dy.data(), w.data(), dx.data()});
    out(a.dx, s.x_size(), sums_bound(std::move(dx), s.kh * s.kw * s.o_group()));
  }
  void mirror(kernels::ConvBackwardWeightArgs& a) {
    const ConvShape& s = a.shape;
    in(a.dy, s.y_size());
    in(a.x, s.x_size());
    Wide dw(static_cast<size_t>(s.w_size()));
    const Wide dy = magnitudes(a.dy, s.y_size()), x = magnitudes(a.x, s.x_size());
    ref_.conv_backward_weight({s, dy.data(), x.data(), dw.data()});
    out(a.dw, s.w_size(), sums_bound(std::move(dw), s.n * s.oh() * s.ow()));
  }
  void mirror(kernels::ColumnSumArgs& a) {
    in(a.x, a.rows * a.cols);
    Wide sums(static_cast<size_t>(a.cols));
    const Wide x = magnitudes(a.x, a.rows * a.cols);
    ref_.column_sum({x.data(), a.rows, a.cols, sums.data()});
    out(a.sum, a.cols, sums_bound(std::move(sums), a.rows));
  }

  void mirror(kernels::BatchNormStatsArgs& a) {
    in(a.x, a.rows * a.c);
    const double most = largest(a.x, a.rows * a.c);
    out(a.mean, a.c, [most](size_t) { return 1e-6 * most; });
    out(a.variance, a.c, [most](size_t) { return 1e-6 * most * most; });
  }
  void mirror(kernels::BatchNormApplyArgs& a) {
    in(a.x, a.rows * a.c);
    in(a.mean, a.c), in(a.inverse_std, a.c), in(a.gamma, a.c), in(a.beta, a.c);
    out(a.y, a.rows * a.c);
  }
  void mirror(kernels::BatchNormFinishArgs& a) {
    in(a.mean, a.c), in(a.variance, a.c);
    out(a.inverse_std, a.c);
    out(a.running_mean, a.c), out(a.running_variance, a.c);
  }
  void mirror(kernels::BatchNormActArgs& a) {
    in(a.x, a.rows * a.c);
    in(a.mean, a.c), in(a.inverse_std, a.c), in(a.gamma, a.c), in(a.beta, a.c);
    in(a.residual, a.rows * a.c);
    out(a.y, a.rows * a.c);
    out(a.mask, (a.rows * a.c + 7) / 8);
    a.stats = host_stats(a.stats);
  }

  // Of sums of dy and dy * xhat over the rows of each channel, and what dx takes from them.
  struct NormSums {
    Wide dbeta, dgamma;  // of magnitudes
    double dy = 0, xhat = 0;
  };
  template <typename MeanOf>
  static NormSums norm_sums(const Wide& x, const Wide& dy, int64_t rows, int64_t c, const MeanOf& xhat_of) {
    NormSums sums{Wide(static_cast<size_t>(c)), Wide(static_cast<size_t>(c))};
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < c; ++i) {
        const double g = std::fabs(at(dy, row * c + i)), xhat = std::fabs(xhat_of(row, i, at(x, row * c + i)));
        sums.dbeta[static_cast<size_t>(i)] += static_cast<float>(g);
        sums.dgamma[static_cast<size_t>(i)] += static_cast<float>(g * xhat);
        sums.dy = std::max(sums.dy, g);
        sums.xhat = std::max(sums.xhat, xhat);
      }
    }
    return sums;
  }
  template <typename Args>
  void mirror_batch_norm_backward(Args& a, const Wide& masked) {
    const Wide x = widened(a.x, a.rows * a.c);
    const NormSums sums = norm_sums(x, masked, a.rows, a.c, [&](int64_t, int64_t i, double value) {
      return (value - static_cast<double>(a.mean[i])) * static_cast<double>(a.inverse_std[i]);
    });
    Wide factor(static_cast<size_t>(a.c));
    for (int64_t i = 0; i < a.c; ++i) factor[static_cast<size_t>(i)] = std::fabs(a.gamma[i] * a.inverse_std[i]);
    const auto c = static_cast<size_t>(a.c);
    // gamma / std (dy - mean of dy - xhat mean of dy xhat): a mean's error is that of its sum over the rows.
    const Bound dx = [sums, factor, c](size_t i) {
      const size_t channel = i % c;
      return 4 * kTwoSums * static_cast<double>(factor[channel]) *
             (sums.dy + static_cast<double>(sums.dbeta[channel]) +
              (sums.xhat + 1) * static_cast<double>(sums.dgamma[channel]));
    };
    out(a.dx, a.rows * a.c, dx);
    out(a.dgamma, a.c, sums_bound(sums.dgamma, a.rows + 4));
    out(a.dbeta, a.c, sums_bound(sums.dbeta, a.rows));
  }
  void mirror(kernels::BatchNormBackwardArgs& a) {
    in(a.x, a.rows * a.c), in(a.dy, a.rows * a.c);
    in(a.mean, a.c), in(a.inverse_std, a.c), in(a.gamma, a.c);
    mirror_batch_norm_backward(a, widened(a.dy, a.rows * a.c));
  }
  void mirror(kernels::BatchNormActBackwardArgs& a) {
    const int64_t count = a.rows * a.c;
    in(a.x, count), in(a.dy, count);
    in(a.mean, a.c), in(a.inverse_std, a.c), in(a.gamma, a.c);
    in(a.mask, (count + 7) / 8);
    dx_there_ = a.dx;
    dx_count_ = count;
    Wide masked = widened(a.dy, count);
    if (a.mask != nullptr) ref_.relu_backward({masked.data(), a.mask, count, masked.data()});
    out(a.dresidual, count);
    mirror_batch_norm_backward(a, masked);
    dx_stats_ = a.stats;  // of the device's dx, which is not ref's to the bit
  }

  void mirror(kernels::LayerNormArgs& a) {
    const int64_t count = a.rows * a.c;
    in(a.x, count), in(a.gamma, a.c), in(a.beta, a.c);
    const double terms = static_cast<double>(a.c + 4), most = largest(a.x, count);
    const double gamma = largest(a.gamma, a.c);
    Wide mean(static_cast<size_t>(a.rows)), inverse(mean), unused(static_cast<size_t>(count));
    ref_.layer_norm(
        {widened(a.x, count).data(), a.rows, a.c, a.gamma, a.beta, a.eps, unused.data(), mean.data(), inverse.data()});
    const auto c = static_cast<size_t>(a.c);
    // Relative, of the standard deviation: of a sum of squares of (x - mean).
    const auto relative = [inverse, terms, most](size_t row) {
      const double spread = most * static_cast<double>(inverse[row]);
      return kTwoSums * terms * (1 + spread);
    };
    out(a.y, count, [=](size_t i) {
      const double spread = most * static_cast<double>(inverse[i / c]);
      return gamma * (relative(i / c) * 2 * spread + kTwoSums * terms * spread) + kTwoSums * spread * gamma;
    });
    out(a.mean, a.rows, [=](size_t) { return kTwoSums * terms * most; });
    out(a.inverse_std, a.rows, [=](size_t row) { return relative(row) * static_cast<double>(inverse[row]); });
  }
  void mirror(kernels::LayerNormBackwardArgs& a) {
    const int64_t count = a.rows * a.c;
    in(a.x, count), in(a.dy, count), in(a.mean, a.rows), in(a.inverse_std, a.rows), in(a.gamma, a.c);
    const Wide x = widened(a.x, count), dy = widened(a.dy, count);
    const NormSums sums = norm_sums(x, dy, a.rows, a.c, [&](int64_t row, int64_t, double value) {
      return (value - static_cast<double>(a.mean[row])) * static_cast<double>(a.inverse_std[row]);
    });
    const double most = sums.dy * largest(a.gamma, a.c), terms = static_cast<double>(a.c + 8);
    const auto c = static_cast<size_t>(a.c);
    out(a.dx, count, [inverse = a.inverse_std, sums, most, terms, c](size_t i) {
      return kTwoSums * terms * static_cast<double>(inverse[i / c]) * most * (2 + sums.xhat * sums.xhat);
    });
    out(a.dgamma, a.c, sums_bound(sums.dgamma, a.rows + 8));
    out(a.dbeta, a.c, sums_bound(sums.dbeta, a.rows));
  }

  // Relative error of a probability: that of a score, a sum of head_dim products.
  template <typename Args>
  static double score_error(const Args& a, double q, double k) {
    return kTwoSums * (std::sqrt(static_cast<double>(a.head_dim)) * static_cast<double>(a.head_dim) * q * k + 16);
  }
  template <typename Args>
  static double part(const Args& a, int which) {  // largest of q, k or v
    const Wide all = magnitudes(a.qkv, a.n * a.tokens * 3 * a.heads * a.head_dim);
    const int64_t row = a.heads * a.head_dim;
    double most = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i) {
      if (i / row % 3 == which) most = std::max(most, at(all, i));
    }
    return most;
  }
  void mirror(kernels::AttentionArgs& a) {
    const int64_t count = a.n * a.tokens * a.heads * a.head_dim;
    in(a.qkv, 3 * count);
    const double score = score_error(a, part(a, 0), part(a, 1)), v = part(a, 2);
    const double sum = kTwoSums * static_cast<double>(a.tokens);
    out(a.y, count, [=](size_t) { return v * (2 * score + sum); });
    out(a.log_sum, a.n * a.heads * a.tokens, [=](size_t) { return 2 * score + sum; });
  }
  void mirror(kernels::AttentionBackwardArgs& a) {
    const int64_t count = a.n * a.tokens * a.heads * a.head_dim;
    in(a.qkv, 3 * count), in(a.y, count), in(a.log_sum, a.n * a.heads * a.tokens), in(a.dy, count);
    const double q = part(a, 0), k = part(a, 1), v = part(a, 2), dy = largest(a.dy, count);
    const double dim = static_cast<double>(a.head_dim), tokens = static_cast<double>(a.tokens);
    // dS = p (dP - D), both of size head_dim dy v; then a sum over the tokens of at most `tokens` probabilities.
    const double relative = 2 * score_error(a, q, k) + kTwoSums * (dim + tokens);
    const double most = tokens * std::max({q * dim * v, k * dim * v, 1.0}) * dy;
    out(a.dqkv, 3 * count, [=](size_t) { return 2 * relative * most; });
  }

  void mirror(kernels::ReluArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
    out(a.mask, (a.count + 7) / 8);
  }
  void mirror(kernels::ReluBackwardArgs& a) {
    in(a.dy, a.count), in(a.mask, (a.count + 7) / 8);
    out(a.dx, a.count);
  }
  // Each is within 2.5e-7 |x|, and 4e-7 |dy|, of the exact value, and half a unit of the last place.
  void mirror(kernels::GeluArgs& a) {
    in(a.x, a.count);
    const Wide x = magnitudes(a.x, a.count);
    out(a.y, a.count, [x](size_t i) { return (5e-7 + kTwoSums) * static_cast<double>(x[i]); });
  }
  void mirror(kernels::GeluBackwardArgs& a) {
    in(a.x, a.count), in(a.dy, a.count);
    const Wide dy = magnitudes(a.dy, a.count);
    out(a.dx, a.count, [dy](size_t i) { return 8e-7 * static_cast<double>(dy[i]); });
  }
  void mirror(kernels::AddArgs& a) {
    in(a.a, a.count), in(a.b, a.count);
    out(a.y, a.count);
  }
  void mirror(kernels::DropoutArgs& a) {
    in(a.x, a.count);
    out(a.y, a.count);
  }
  void mirror(kernels::MovingAverageArgs& a) {
    in(a.value, a.count);
    out(a.average, a.count);
  }
  void mirror(kernels::CopyRowsArgs& a) {
    const auto extent = [&a](int64_t stride) { return a.rows > 0 ? (a.rows - 1) * stride + a.bytes : 0; };
    auto* from = static_cast<const uint8_t*>(a.from);
    auto* to = static_cast<uint8_t*>(a.to);
    in(from, extent(a.from_stride));
    out(to, extent(a.to_stride));
    a.from = from;
    a.to = to;
  }

  static int64_t x_size(const kernels::PoolShape& s) { return s.n * s.h * s.w * s.c; }
  static int64_t y_size(const kernels::PoolShape& s) { return s.n * s.oh() * s.ow() * s.c; }
  void mirror(kernels::MaxPoolArgs& a) {
    in(a.x, x_size(a.shape));
    out(a.y, y_size(a.shape));
    out(a.index, y_size(a.shape));
  }
  void mirror(kernels::MaxPoolBackwardArgs& a) {
    in(a.dy, y_size(a.shape)), in(a.index, y_size(a.shape));
    out(a.dx, x_size(a.shape));
  }
  void mirror(kernels::AvgPoolArgs& a) {
    in(a.x, x_size(a.shape));
    out(a.y, y_size(a.shape));
  }
  void mirror(kernels::AvgPoolBackwardArgs& a) {
    in(a.dy, y_size(a.shape));
    out(a.dx, x_size(a.shape));
  }
  void mirror(kernels::AdaptiveAvgPoolArgs& a) {
    in(a.x, a.n * a.h * a.w * a.c);
    out(a.y, a.n * a.oh * a.ow * a.c);
  }
  void mirror(kernels::AdaptiveAvgPoolBackwardArgs& a) {
    in(a.dy, a.n * a.oh * a.ow * a.c);
    out(a.dx, a.n * a.h * a.w * a.c);
  }

  void mirror(kernels::CrossEntropyArgs& a) {
    in(a.logits, a.rows * a.classes), in(a.labels, a.rows), in(a.other_labels, a.rows), in(a.label_weight, a.rows);
    const double scale = std::fabs(static_cast<double>(a.gradient_scale)), most = largest(a.logits, a.rows * a.classes);
    out(a.loss, a.rows, [=](size_t) { return 2e-7 + 1e-6 * (1 + most); });
    out(a.dlogits, a.rows * a.classes, [=](size_t) { return scale * (1.5e-7 + 1e-6); });
    if (a.correct != nullptr) {
      correct_there_ = a.correct;
      a.correct = &correct_here_;
    }
  }
  void mirror(kernels::SgdArgs& a) {
    in(a.gradient, a.count);
    out(a.w, a.count);
    out(a.velocity, a.count);
  }
  void mirror(kernels::AdamWArgs& a) {
    in(a.gradient, a.count);
    out(a.w, a.count);
    out(a.m, a.count), out(a.v, a.count);
  }
  // Not for a device.
  void mirror(kernels::ResizeArgs&) {}
  void mirror(kernels::PeakArgs&) {}
  void mirror(kernels::PeakReadArgs&) {}
  void mirror(kernels::RandomBitsArgs&) {}

  Kernels device_, ref_, table_;
  std::map<std::string, Count> counts_;
  std::deque<std::vector<uint64_t>> copies_;
  std::vector<Result> results_;
  const Stats* stats_there_ = nullptr;
  std::vector<kernels::StatsArgs> many_;
  std::vector<Stats> many_here_;
  std::vector<const Stats*> many_there_;
  Stats stats_here_;
  const Stats* dx_stats_ = nullptr;
  kernels::ConstFloats dx_there_;
  int64_t dx_count_ = 0;
  const int64_t* correct_there_ = nullptr;
  int64_t correct_here_ = 0;
};

}  // namespace luq::test
