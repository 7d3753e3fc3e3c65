// Reverse-mode differentiation by a tape of closures.
//
// Ops run eagerly and record, in order, a closure that turns the gradient of their output into gradients of their
// inputs; the order of recording is a topological order. backward() runs them from the back and destroys each one, and
// what it kept, as it goes. A closure keeps the gradient slots of its inputs and only those values that it needs.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "luq/core/statistics.h"
#include "luq/core/tensor.h"
#include "luq/quant/products.h"
#include "luq/quant/quantize.h"

namespace luq {

struct Kernels;

// Collects the gradient of one value.
struct GradSlot {
  Tensor grad;                      // undefined until the first contribution
  std::optional<Stats> statistics;  // of grad, where its maker took them; they stay while the tape hands grad on
};

// The codes of one activation: two layers that read it with the same spec and scale share them.
struct QuantCache {
  struct Entry {
    QuantSpec spec;
    std::optional<float> given_scale;  // nullopt: the tensor's own
    QTensor codes;
  };
  std::vector<Entry> entries;
};

// A value in the computation: a shared handle. Without a slot no gradient is wanted.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor value, bool needs_grad = false)
      : value_(std::move(value)),
        slot_(needs_grad ? std::make_shared<GradSlot>() : nullptr),
        cache_(std::make_shared<QuantCache>()) {}

  const Tensor& value() const { return value_; }
  Tensor& value() { return value_; }
  const Shape& shape() const { return value_.shape(); }
  bool needs_grad() const { return slot_ != nullptr; }
  const std::shared_ptr<GradSlot>& slot() const { return slot_; }
  // The gradient after backward(); undefined when nothing flowed here. Intermediate values' are consumed.
  const Tensor& grad() const { return slot_->grad; }
  // True when the graph guarantees that no element is negative (after ReLU, and what keeps that).
  bool non_negative() const { return non_negative_; }
  void set_non_negative(bool value) { non_negative_ = value; }
  QuantCache& quant_cache() const { return *cache_; }
  // The same for all handles of one value, and no other value's while a handle is left.
  const void* identity() const { return cache_.get(); }
  // Statistics of the value, where the op that made it took them.
  const std::optional<Stats>& statistics() const { return statistics_; }
  void set_statistics(const Stats& statistics) { statistics_ = statistics; }
  // The moments of the channels, which a norm that follows uses.
  const std::optional<ChannelMoments>& channel_moments() const { return channel_moments_; }
  void set_channel_moments(ChannelMoments moments) { channel_moments_ = std::move(moments); }
  // Makes the value once more, to the bit: a closure may keep this instead of the value. Empty: it must keep that.
  const std::function<Tensor()>& recompute() const { return recompute_; }
  void set_recompute(std::function<Tensor()> recompute) { recompute_ = std::move(recompute); }

 private:
  Tensor value_;
  std::shared_ptr<GradSlot> slot_;
  std::shared_ptr<QuantCache> cache_;
  std::optional<Stats> statistics_;
  std::optional<ChannelMoments> channel_moments_;
  std::function<Tensor()> recompute_;
  bool non_negative_ = false;
};

// Adds a contribution to a slot: the first is shared, not copied; later ones are added in place when the slot's buffer
// is unshared, else into a new one. statistics: of the gradient, where they are known. Throws Error when the shape or
// dtype differs from the earlier contribution.
void add_gradient(const Kernels& kernels, GradSlot& slot, Tensor gradient,
                  const std::optional<Stats>& statistics = std::nullopt);

class Tape {
 public:
  // dy: gradient of `output`, moved out of its slot (the closure may write in it when it is unique()). The closure is
  // skipped when no gradient reached the output.
  void record(const Var& output, std::function<void(Tensor dy)> backward);
  // Runs the tape from the back with d(loss)/d(loss) = seed and leaves it empty. loss: one element. after_each, where
  // given, is called when a closure has run and is gone: a slot that no closure holds any more is complete. Throws
  // Error when the loss was not recorded on this tape, or was consumed by an earlier backward().
  void backward(const Var& loss, float seed = 1.0f, const std::function<void()>& after_each = {});
  void clear() { closures_.clear(); }
  size_t size() const { return closures_.size(); }

 private:
  struct Entry {
    std::shared_ptr<GradSlot> output;
    std::function<void(Tensor)> backward;
  };
  std::vector<Entry> closures_;
};

}  // namespace luq
