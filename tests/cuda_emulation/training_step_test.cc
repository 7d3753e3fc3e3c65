// Every kernel of a training step on the emulated device, against ref on the same operands.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/kernels.h"
#include "luq/core/rng.h"
#include "luq/models/registry.h"
#include "luq/ops/loss.h"
#include "tests/catch.h"

using namespace luq;
using namespace luq::kernels;

namespace {

Kernels device_table, ref_table;
std::map<std::string, int> wrong, calls;

template <typename T>
std::vector<T> fetch(const T* p, int64_t count) {
  std::vector<T> v(static_cast<size_t>(count));
  if (count > 0) device_memory({DeviceType::cuda, 0})->to_host(v.data(), p, count * static_cast<int64_t>(sizeof(T)));
  return v;
}

void check(const char* name, bool same) {
  ++calls[name];
  if (!same) ++wrong[name];
}

void shadow_stats(const StatsArgs& a) {
  device_table.stats(a);
  const auto x = fetch(a.x.as<float>(), a.count);
  Stats s;
  ref_table.stats({.x = x.data(), .count = a.count, .stats = &s});
  check("stats",
        s.sum_abs == a.stats->sum_abs && s.sum_sq == a.stats->sum_sq && s.abs_bits_max == a.stats->abs_bits_max);
}
void shadow_fp4(const EncodeFp4Args& a) {
  device_table.encode_fp4(a);
  const auto x = fetch(a.x.as<float>(), a.rows * a.cols);
  const auto got = fetch(a.codes, a.rows * packed_row_bytes(a.cols));
  auto codes = got;
  EncodeFp4Args b = a;
  b.x = x.data();
  b.codes = codes.data();
  ref_table.encode_fp4(b);
  check("encode_fp4", codes == got);
}
void shadow_data(const QConvBackwardDataArgs& a) {
  const ConvShape& s = a.shape;
  auto dx = fetch(a.dx.as<float>(), s.x_size());
  const auto dy = fetch(a.dy, s.n * s.oh() * s.ow() * packed_row_bytes(s.o));
  const auto w = fetch(a.w, s.o * s.kh * s.kw * packed_row_bytes(s.c_group()));
  device_table.qconv_backward_data(a);
  QConvBackwardDataArgs b = a;
  b.dx = dx.data();
  b.dy = dy.data();
  b.w = w.data();
  ref_table.qconv_backward_data(b);
  const auto got = fetch(a.dx.as<float>(), s.x_size());
  check(a.accumulate ? "data +" : "data", got == dx);
}
void shadow_weight(const QConvBackwardWeightArgs& a) {
  const ConvShape& s = a.shape;
  std::vector<float> dw(static_cast<size_t>(s.w_size()));
  const auto dy = fetch(a.dy, s.n * s.oh() * s.ow() * packed_row_bytes(s.o));
  const auto x = fetch(a.x, s.n * s.h * s.w * packed_row_bytes(s.c));
  device_table.qconv_backward_weight(a);
  QConvBackwardWeightArgs b = a;
  b.dw = dw.data();
  b.dy = dy.data();
  b.x = x.data();
  ref_table.qconv_backward_weight(b);
  const auto got = fetch(a.dw, s.w_size());
  check("weight", got == dw);
}
void shadow_bn(const BatchNormActBackwardArgs& a) {
  const int64_t count = a.rows * a.c;
  const auto x = fetch(a.x.as<float>(), count), dy = fetch(a.dy.as<float>(), count);
  const auto mean = fetch(a.mean, a.c), is = fetch(a.inverse_std, a.c), gamma = fetch(a.gamma, a.c);
  const auto mask = a.mask != nullptr ? fetch(a.mask, (count + 7) / 8) : std::vector<uint8_t>();
  device_table.batch_norm_act_backward(a);
  std::vector<float> masked = dy, dx(x.size()), dgamma(mean.size()), dbeta(mean.size());
  if (a.mask != nullptr)
    ref_table.relu_backward({.dy = dy.data(), .mask = mask.data(), .count = count, .dx = masked.data()});
  ref_table.batch_norm_backward({.x = x.data(),
                                 .dy = masked.data(),
                                 .rows = a.rows,
                                 .c = a.c,
                                 .mean = mean.data(),
                                 .inverse_std = is.data(),
                                 .gamma = gamma.data(),
                                 .training = a.training,
                                 .dx = dx.data(),
                                 .dgamma = dgamma.data(),
                                 .dbeta = dbeta.data()});
  const auto got = fetch(a.dx.as<float>(), count);
  float largest = 0, off = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(dx[i]));
    off = std::max(off, std::abs(dx[i] - got[i]));
  }
  check("bn backward", off <= 1e-5f * largest);
  Stats s;
  if (a.stats != nullptr) {
    ref_table.stats({.x = got.data(), .count = count, .stats = &s});
    check("bn stats", s.sum_sq == a.stats->sum_sq && s.abs_bits_max == a.stats->abs_bits_max);
  }
  if (a.dresidual) check("bn residual", fetch(a.dresidual.as<float>(), count) == masked);
}

}  // namespace

TEST_CASE("cuda: every 4-bit kernel of a training step does what ref does with its operands", "[cuda]") {
  const Device cuda{DeviceType::cuda, 0};
  device_table = kernels_for(cuda);
  ref_table = cpu_kernel_tables().front().table;
  Kernels table = device_table;
  table.stats.run = shadow_stats;
  table.encode_fp4.run = shadow_fp4;
  table.qconv_backward_data.run = shadow_data;
  table.qconv_backward_weight.run = shadow_weight;
  table.batch_norm_act_backward.run = shadow_bn;
  auto model = make_model("resnet20", {.in_channels = 1, .num_classes = 10, .image_size = 8}, 0);
  QuantPolicy policy;
  policy.spec.weights = {Format::int4, ScaleMethod::sawb, Rounding::nearest};
  policy.spec.activations = {Format::int4, ScaleMethod::sawb, Rounding::nearest};
  policy.spec.gradients = {Format::fp4, ScaleMethod::max, Rounding::stochastic};
  const QuantPlan plan(policy, model->matmul_layers());
  model->to(cuda);
  Ctx ctx;
  ctx.device = cuda;
  ctx.kernels = &table;
  ctx.quant = &plan;
  ctx.training = true;
  Tape tape;
  ctx.tape = &tape;
  Tensor images = Tensor::empty({8, 8, 8, 1}), labels = Tensor::zeros({8}, DType::int32);
  RngStream random(make_rng_key(1, "x"));
  for (int64_t i = 0; i < images.numel(); ++i) images.data<float>()[i] = 4 * random.uniform() - 2;
  for (int i = 0; i < 8; ++i) labels.data<int32_t>()[i] = i;
  const LossResult loss = softmax_cross_entropy(ctx, model->forward(ctx, Var(images.to(cuda))), labels);
  tape.backward(loss.loss, 1.0f);
  for (const auto& [name, count] : calls) {
    INFO(name << " of " << count);
    CHECK(wrong[name] == 0);
  }
}
