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
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/operands.h"
#include "tests/cuda_emulation/moments_by_ref.h"

namespace luq::test {

class Shadow final : private kernels::KernelArrays {
 public:
  struct Count {
    int calls = 0, wrong = 0;
    std::string first;  // difference
  };

  // Takes the device's table, or one like it; one lives at a time.
  explicit Shadow(const Kernels& device = kernels_for({DeviceType::cuda, 0}))
      : device_(device), ref_(cpu_kernel_tables().front().table), table_(device_) {
    active() = this;
#define LUQ_SHADOW_ENTRY(name, Args) \
  if (table_.name) table_.name.run = [](const kernels::Args& args) { active()->run<&Kernels::name>(#name, args); };
    LUQ_DEVICE_KERNEL_ENTRIES(LUQ_SHADOW_ENTRY)
#undef LUQ_SHADOW_ENTRY
  }
  ~Shadow() { active() = nullptr; }

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

  // An array that is written.
  struct Result {
    const void* there;  // on the device
    void* here;         // ref's
    kernels::KernelArray array;
    Bound bound;  // none: equal to the bit
  };

  // ---- Copies on the host, until the call is over -------------------------------------------------------------------

  void* fetch(const void* there, int64_t bytes) {
    copies_.emplace_back((static_cast<size_t>(bytes) + 7) / 8 + 1);
    if (bytes > 0) device_memory({DeviceType::cuda, 0})->to_host(copies_.back().data(), there, bytes);
    return copies_.back().data();
  }
  void* array(void* there, const kernels::KernelArray& of) override {
    void* here = fetch(there, of.bytes());
    if (of.written) results_.push_back({there, here, of, {}});
    return here;
  }
  Stats* value(Stats* there) override { return &stats_.emplace_back(there, Stats{}).second; }
  int64_t* value(int64_t* there) override { return &counted_.emplace_back(there, 0).second; }

  Result& result(kernels::ConstFloats here) {
    for (Result& r : results_) {
      if (r.here == here.data) return r;
    }
    throw std::logic_error("kernels/operands.h does not list a result that has a bound");
  }
  void within(kernels::ConstFloats here, Bound bound) {
    if (here) result(here).bound = std::move(bound);
  }
  // Fetches what the device gave.
  kernels::ConstFloats from_device(const Result& r) {
    kernels::ConstFloats x;
    x.data = fetch(r.there, r.array.bytes());
    x.bfloat16 = r.array.type == kernels::KernelArray::Type::bfloat16;
    return x;
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
    stats_.clear();
    counted_.clear();
    Args mirrored = args;
    visit(mirrored);
    set_bounds(mirrored);
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
  void by_ref(const Kernel<kernels::StatsManyArgs>&, const kernels::StatsManyArgs& a) {
    for (int64_t i = 0; i < a.count; ++i) ref_.stats(a.tensors[i]);
  }
  // Mean and variance of integers: exact but for the last steps, which every table takes alike.
  void by_ref(const Kernel<kernels::QConvForwardMomentsArgs>&, const kernels::QConvForwardMomentsArgs& a) {
    ref_.qconv_forward(a.conv);
    moments_by_ref(ref_, a);
  }
  // ref has no fused entries: the chains of kernels.h, in float32 and rounded at the end.
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
    // The device's dx is not ref's to the bit.
    if (a.stats != nullptr) ref_.stats({from_device(result(a.dx)), count, a.stats});
  }
  static void store(const Wide& x, kernels::Floats y) {
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
      const kernels::ConstFloats there = from_device(r);
      kernels::ConstFloats here = there;
      here.data = r.here;
      if (r.array.type == kernels::KernelArray::Type::other) {
        if (std::memcmp(there.data, here.data, static_cast<size_t>(r.array.bytes())) != 0) return name;
        continue;
      }
      const Wide got = widened(there, r.array.count), want = widened(here, r.array.count);
      for (size_t i = 0; i < got.size(); ++i) {
        const double a = static_cast<double>(got[i]), b = static_cast<double>(want[i]);
        // Two values close to each other are rounded to neighbours at most.
        const double bound = r.bound ? r.bound(i) + (here.bfloat16 ? 0x1p-7 * std::fabs(b) : 0) : 0;
        if (a == b || std::fabs(a - b) <= bound) continue;
        return name + " element " + std::to_string(i) + ": " + std::to_string(a) + ", ref " + std::to_string(b) +
               ", within " + std::to_string(bound);
      }
    }
    for (size_t i = 0; i < stats_.size(); ++i) {
      if (!same(*stats_[i].first, stats_[i].second)) return "statistics " + std::to_string(i);
    }
    for (const auto& [there, here] : counted_) {
      if (*there != here) return "count";
    }
    return "";
  }

  // ---- How far results may be apart ---------------------------------------------------------------------------------

  // They are not apart at all. A product of codes is exact, and so is everything but what is added to it afterwards, in
  // one rounding.
  template <typename Args>
  void set_bounds(const Args&) {}

  // (terms + 2): the bias, and the rounding of a product.
  static Bound sums_bound(Wide magnitude, int64_t terms) {
    return [magnitude = std::move(magnitude), terms](size_t i) {
      return static_cast<double>(terms + 2) * kTwoSums * static_cast<double>(magnitude[i]);
    };
  }
  void set_bounds(const kernels::ConvForwardArgs& a) {
    const ConvShape& s = a.shape;
    Wide y(static_cast<size_t>(s.y_size()));
    const Wide x = magnitudes(a.x, s.x_size()), w = magnitudes(a.w, s.w_size());
    const Wide bias = a.bias != nullptr ? magnitudes(a.bias, s.o) : Wide();
    ref_.conv_forward({s, x.data(), w.data(), a.bias != nullptr ? bias.data() : nullptr, y.data()});
    within(a.y, sums_bound(std::move(y), s.kh * s.kw * s.c_group()));
  }
  void set_bounds(const kernels::ConvBackwardDataArgs& a) {
    const ConvShape& s = a.shape;
    Wide dx(static_cast<size_t>(s.x_size()));
    const Wide dy = magnitudes(a.dy, s.y_size()), w = magnitudes(a.w, s.w_size());
    ref_.conv_backward_data({s, dy.data(), w.data(), dx.data()});
    within(a.dx, sums_bound(std::move(dx), s.kh * s.kw * s.o_group()));
  }
  void set_bounds(const kernels::ConvBackwardWeightArgs& a) {
    const ConvShape& s = a.shape;
    Wide dw(static_cast<size_t>(s.w_size()));
    const Wide dy = magnitudes(a.dy, s.y_size()), x = magnitudes(a.x, s.x_size());
    ref_.conv_backward_weight({s, dy.data(), x.data(), dw.data()});
    within(a.dw, sums_bound(std::move(dw), s.n * s.oh() * s.ow()));
  }
  void set_bounds(const kernels::ColumnSumArgs& a) {
    Wide sums(static_cast<size_t>(a.cols));
    const Wide x = magnitudes(a.x, a.rows * a.cols);
    ref_.column_sum({x.data(), a.rows, a.cols, sums.data()});
    within(a.sum, sums_bound(std::move(sums), a.rows));
  }

  void set_bounds(const kernels::BatchNormStatsArgs& a) {
    const double most = largest(a.x, a.rows * a.c);
    within(a.mean, [most](size_t) { return 1e-6 * most; });
    within(a.variance, [most](size_t) { return 1e-6 * most * most; });
  }

  // Holds the sums of dy and dy * xhat over the rows of each channel, and what dx takes from them.
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
  void set_norm_bounds(const Args& a, const Wide& masked) {
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
    within(a.dx, dx);
    within(a.dgamma, sums_bound(sums.dgamma, a.rows + 4));
    within(a.dbeta, sums_bound(sums.dbeta, a.rows));
  }
  void set_bounds(const kernels::BatchNormBackwardArgs& a) { set_norm_bounds(a, widened(a.dy, a.rows * a.c)); }
  void set_bounds(const kernels::BatchNormActBackwardArgs& a) {
    const int64_t count = a.rows * a.c;
    Wide masked = widened(a.dy, count);
    if (a.mask != nullptr) ref_.relu_backward({masked.data(), a.mask, count, masked.data()});
    set_norm_bounds(a, masked);
  }

  void set_bounds(const kernels::LayerNormArgs& a) {
    const int64_t count = a.rows * a.c;
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
    within(a.y, [=](size_t i) {
      const double spread = most * static_cast<double>(inverse[i / c]);
      return gamma * (relative(i / c) * 2 * spread + kTwoSums * terms * spread) + kTwoSums * spread * gamma;
    });
    within(a.mean, [=](size_t) { return kTwoSums * terms * most; });
    within(a.inverse_std, [=](size_t row) { return relative(row) * static_cast<double>(inverse[row]); });
  }
  void set_bounds(const kernels::LayerNormBackwardArgs& a) {
    const int64_t count = a.rows * a.c;
    const Wide x = widened(a.x, count), dy = widened(a.dy, count);
    const NormSums sums = norm_sums(x, dy, a.rows, a.c, [&](int64_t row, int64_t, double value) {
      return (value - static_cast<double>(a.mean[row])) * static_cast<double>(a.inverse_std[row]);
    });
    const double most = sums.dy * largest(a.gamma, a.c), terms = static_cast<double>(a.c + 8);
    const auto c = static_cast<size_t>(a.c);
    within(a.dx, [inverse = a.inverse_std, sums, most, terms, c](size_t i) {
      return kTwoSums * terms * static_cast<double>(inverse[i / c]) * most * (2 + sums.xhat * sums.xhat);
    });
    within(a.dgamma, sums_bound(sums.dgamma, a.rows + 8));
    within(a.dbeta, sums_bound(sums.dbeta, a.rows));
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
  void set_bounds(const kernels::AttentionArgs& a) {
    const double score = score_error(a, part(a, 0), part(a, 1)), v = part(a, 2);
    const double sum = kTwoSums * static_cast<double>(a.tokens);
    within(a.y, [=](size_t) { return v * (2 * score + sum); });
    within(a.log_sum, [=](size_t) { return 2 * score + sum; });
  }
  void set_bounds(const kernels::AttentionBackwardArgs& a) {
    const int64_t count = a.n * a.tokens * a.heads * a.head_dim;
    const double q = part(a, 0), k = part(a, 1), v = part(a, 2), dy = largest(a.dy, count);
    const double dim = static_cast<double>(a.head_dim), tokens = static_cast<double>(a.tokens);
    // dS = p (dP - D), both of size head_dim dy v; then a sum over the tokens of at most `tokens` probabilities.
    const double relative = 2 * score_error(a, q, k) + kTwoSums * (dim + tokens);
    const double most = tokens * std::max({q * dim * v, k * dim * v, 1.0}) * dy;
    within(a.dqkv, [=](size_t) { return 2 * relative * most; });
  }

  // Each is within 2.5e-7 |x|, and 4e-7 |dy|, of the exact value, and half a unit of the last place.
  void set_bounds(const kernels::GeluArgs& a) {
    const Wide x = magnitudes(a.x, a.count);
    within(a.y, [x](size_t i) { return (5e-7 + kTwoSums) * static_cast<double>(x[i]); });
  }
  void set_bounds(const kernels::GeluBackwardArgs& a) {
    const Wide dy = magnitudes(a.dy, a.count);
    within(a.dx, [dy](size_t i) { return 8e-7 * static_cast<double>(dy[i]); });
  }

  void set_bounds(const kernels::CrossEntropyArgs& a) {
    const double scale = std::fabs(static_cast<double>(a.gradient_scale)), most = largest(a.logits, a.rows * a.classes);
    within(a.loss, [=](size_t) { return 2e-7 + 1e-6 * (1 + most); });
    within(a.dlogits, [=](size_t) { return scale * (1.5e-7 + 1e-6); });
  }

  Kernels device_, ref_, table_;
  std::map<std::string, Count> counts_;
  std::deque<std::vector<uint64_t>> copies_;
  std::vector<Result> results_;
  // Values on the host, (the device's, ref's).
  std::deque<std::pair<const Stats*, Stats>> stats_;
  std::deque<std::pair<const int64_t*, int64_t>> counted_;
};

}  // namespace luq::test
