#include "luq/ops/matmul.h"

#include "luq/core/convert.h"
#include "luq/quant/products.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {
namespace {

constexpr float kActivationScaleMomentum = 0.1f;

// The codes of x, made once however many layers read it with the same spec and scale.
MatmulOperand quantize_activations(const Ctx& ctx, const Var& x, const QuantSpec& spec, const std::string& layer,
                                   Tensor& running_scale) {
  if (!spec.format.quantized()) return {.codes = {}, .values = x.value()};
  float& running = running_scale.data<float>()[0];
  const std::optional<float> given = !ctx.training && running > 0 ? std::optional<float>(running) : std::nullopt;
  std::vector<QuantCache::Entry>& entries = x.quant_cache().entries;
  const QTensor* codes = nullptr;
  for (const QuantCache::Entry& entry : entries) {
    if (entry.spec == spec && entry.given_scale == given) codes = &entry.codes;
  }
  if (codes == nullptr) {
    entries.push_back({spec, given,
                       quantize(*ctx.kernels, x.value(), spec, x.non_negative(), ctx.rng(layer, "activations"),
                                fmt::format("input of layer {}", layer), given, x.statistics())});
    codes = &entries.back().codes;
  }
  if (ctx.training && codes->scale > 0) {
    running = running == 0 ? codes->scale
                           : (1 - kActivationScaleMomentum) * running + kActivationScaleMomentum * codes->scale;
  }
  return {.codes = *codes, .values = {}};
}

// Codes that were given with the weights (a packed file's) count in evaluation; training makes its own.
MatmulOperand quantize_weights(const Ctx& ctx, const Var& weight, const QuantSpec& spec, const std::string& layer) {
  if (!spec.format.quantized()) return {.codes = {}, .values = weight.value()};
  for (const QuantCache::Entry& entry : weight.quant_cache().entries) {
    if (!ctx.training && entry.spec == spec) return {.codes = entry.codes, .values = {}};
  }
  std::optional<Stats> known;
  if (ctx.weight_statistics != nullptr) {
    const auto found = ctx.weight_statistics->find(weight.value().raw());
    if (found != ctx.weight_statistics->end()) known = found->second;
  }
  return {.codes = quantize(*ctx.kernels, weight.value(), spec, false, ctx.rng(layer, "weights"),
                            fmt::format("weight of layer {}", layer), std::nullopt, known),
          .values = {}};
}

std::string operand_formats(Format a, Format b, DType dtype) {
  return a.quantized() && b.quantized() ? fmt::format("{} x {}", to_string(a), to_string(b)) : to_string(dtype);
}

void describe(Ctx& ctx, const char* op, const std::string& layer, const Var& x, const Var& weight, const Var* bias,
              const Shape& output, const ConvShape& shape, const LayerQuant& quant) {
  if (ctx.plan == nullptr) return;
  const Kernels& k = *ctx.kernels;
  const auto kernel = [](Format a, Format b, const char* integer, const char* floating) {
    return a.quantized() && b.quantized() ? integer : floating;
  };
  const bool backward = x.needs_grad();
  const DType dtype = x.value().dtype();
  const Format x_format = quant.activations.format.of(x.non_negative()), w_format = quant.weights.format;
  const Format data_format = quant.gradient_for_data.format, weight_format = quant.gradient_for_weights.format;
  ctx.plan->push_back(
      {.name = layer,
       .op = op,
       .input = x.shape(),
       .output = output,
       .parameters = weight.value().numel() + (bias != nullptr ? bias->value().numel() : 0),
       .macs = shape.macs(),
       .forward = operand_formats(x_format, w_format, dtype),
       .backward_data = backward ? operand_formats(w_format, data_format, dtype) : "-",
       .backward_weight = operand_formats(weight_format, x_format, dtype),
       .forward_kernel = kernel(x_format, w_format, k.qconv_forward.implementation, k.conv_forward.implementation),
       .backward_data_kernel = backward ? kernel(w_format, data_format, k.qconv_backward_data.implementation,
                                                 k.conv_backward_data.implementation)
                                        : "-",
       .backward_weight_kernel = kernel(weight_format, x_format, k.qconv_backward_weight.implementation,
                                        k.conv_backward_weight.implementation)});
}

void trace(Ctx& ctx, const char* op, const std::string& layer, const Var& x, const Var& weight, const Var* bias,
           const ConvShape& shape, const MatmulOperand& x_operand, const MatmulOperand& w_operand, const Var& y) {
  if (ctx.trace == nullptr) return;
  TraceNode node{.op = op,
                 .layer = layer,
                 .operands = {{.role = "x", .value = x, .codes = x_operand.codes},
                              {.role = "weight", .value = weight, .codes = w_operand.codes}},
                 .attributes = {},
                 .output = y};
  if (bias != nullptr) node.operands.push_back({.role = "bias", .value = *bias});
  if (x.shape().rank() == 4) {
    node.attributes = {{"kernel", static_cast<double>(shape.kh)},
                       {"stride", static_cast<double>(shape.stride_h)},
                       {"padding", static_cast<double>(shape.pad_h)},
                       {"dilation", static_cast<double>(shape.dilation_h)},
                       {"groups", static_cast<double>(shape.groups)}};
  }
  ctx.trace->push_back(std::move(node));
}

// How one of the two products that read a layer's gradient has it quantised.
struct GradientQuantiser {
  QuantSpec spec;
  RngKey key;

  MatmulOperand operator()(const Kernels& kernels, const Tensor& dy, const std::string& layer,
                           const std::optional<Stats>& known) const {
    if (!spec.format.quantized()) return {.codes = {}, .values = dy};
    return {.codes = quantize(kernels, dy, spec, false, key, fmt::format("gradient of layer {}", layer), std::nullopt,
                              known),
            .values = {}};
  }
};

Var matmul(Ctx& ctx, const char* op, const Var& x, const Var& weight, const Var* bias, const ConvShape& shape,
           const Shape& output, const std::string& layer, Tensor& activation_scale) {
  const Kernels& kernels = *ctx.kernels;
  static const LayerQuant float32;
  const LayerQuant& quant = ctx.quant != nullptr ? (*ctx.quant)[layer] : float32;
  check_quantisers(quant, op, layer);
  check_float(op, layer, "x", x.value());
  if (weight.value().dtype() != DType::float32) fail("[{}] {}: expected w of dtype float32", op, layer);
  const DType dtype = x.value().dtype();
  if (ctx.denormals != nullptr) ctx.denormals->look("the input of layer", layer, x.value());
  MatmulOperand x_operand = quantize_activations(ctx, x, quant.activations, layer, activation_scale);
  MatmulOperand w_operand = quantize_weights(ctx, weight, quant.weights, layer);

  const bool needs_grad = ctx.tape != nullptr && (x.needs_grad() || weight.needs_grad());
  const Device device = x.value().device();
  Var y(Tensor::empty(output, dtype, device), needs_grad);
  const bool moments = ctx.training && output.rank() == 4;  // convolutions without a bias are there for a norm
  const Tensor bias_value = bias != nullptr ? bias->value() : Tensor();
  const Products products{kernels, shape, layer};
  if (auto taken = products.forward(x_operand, w_operand, bias_value, moments, y.value())) {
    y.set_channel_moments(std::move(*taken));
  }
  // The operands are kept for backward_weight anyway.
  const bool may_recompute = ctx.recompute && ctx.training && output.rank() == 4 && weight.needs_grad();
  if (may_recompute && in_integers(x_operand, w_operand)) {
    y.set_recompute([&kernels, shape, layer, output, dtype, device, x_operand, w_operand, bias_value] {
      Tensor again = Tensor::empty(output, dtype, device);
      Products{kernels, shape, layer}.forward(x_operand, w_operand, bias_value, false, again);
      return again;
    });
  }
  describe(ctx, op, layer, x, weight, bias, output, shape, quant);
  trace(ctx, op, layer, x, weight, bias, shape, x_operand, w_operand, y);
  if (!needs_grad) return y;

  if (!weight.needs_grad()) x_operand = {};  // read by backward_weight alone
  if (!x.needs_grad()) w_operand = {};
  const bool alike = quant.gradient_for_data == quant.gradient_for_weights;
  const auto quantiser = [&](const QuantSpec& spec, const char* role) {
    return GradientQuantiser{spec, ctx.rng(layer, alike ? "gradient" : role)};
  };
  ctx.tape->record(
      y, [&kernels, shape, layer, dtype, device, alike, x_operand = std::move(x_operand),
          w_operand = std::move(w_operand), for_data = quantiser(quant.gradient_for_data, "gradient_for_data"),
          for_weights = quantiser(quant.gradient_for_weights, "gradient_for_weights"), x_shape = x.shape(),
          w_shape = weight.shape(), y_slot = y.slot(), x_slot = x.slot(), w_slot = weight.slot(),
          bias_slot = bias != nullptr ? bias->slot() : nullptr, denormals = ctx.denormals](Tensor dy) mutable {
        if (denormals != nullptr) denormals->look("the gradient of the output of layer", layer, dy);
        if (bias_slot != nullptr) {
          const int64_t channels = dy.size(-1);
          Tensor db = Tensor::empty({channels}, DType::float32, device);
          const Tensor values = convert(kernels, dy, DType::float32);
          kernels.column_sum(
              {.x = values.data<float>(), .rows = dy.numel() / channels, .cols = channels, .sum = db.data<float>()});
          add_gradient(kernels, *bias_slot, std::move(db));
        }
        MatmulOperand data_dy, weights_dy;
        if (alike || x_slot != nullptr) data_dy = for_data(kernels, dy, layer, y_slot->statistics);
        if (alike) weights_dy = data_dy;
        if (!alike && w_slot != nullptr) weights_dy = for_weights(kernels, dy, layer, y_slot->statistics);
        dy = Tensor();
        const Products products{kernels, shape, layer};
        if (w_slot != nullptr) {
          Tensor dw = Tensor::empty(w_shape, DType::float32, device);
          products.backward_weight(weights_dy, x_operand, dw);
          if (denormals != nullptr) denormals->look("the gradient of the weights of layer", layer, dw);
          x_operand = {};
          add_gradient(kernels, *w_slot, std::move(dw));
        }
        if (x_slot == nullptr) return;
        if (in_integers(data_dy, w_operand) && x_slot->grad.defined() && x_slot->grad.unique()) {
          x_slot->statistics.reset();
          products.backward_data(data_dy, w_operand, true, x_slot->grad);
          return;
        }
        Tensor dx = Tensor::empty(x_shape, dtype, device);
        products.backward_data(data_dy, w_operand, false, dx);
        add_gradient(kernels, *x_slot, std::move(dx));
      });
  return y;
}

void check_bias(const char* op, const std::string& layer, const Var* bias, int64_t channels) {
  if (bias != nullptr && bias->shape() != Shape{channels}) {
    fail("[{}] {}: expected a bias of shape ({}), got {}", op, layer, channels, to_string(bias->shape()));
  }
}

}  // namespace

Var conv2d(Ctx& ctx, const Var& x, const Var& weight, const Var* bias, const Conv2dOptions& options,
           const std::string& layer, Tensor& activation_scale) {
  const Shape& xs = x.shape();
  const Shape& ws = weight.shape();
  if (xs.rank() != 4) fail("[conv2d] {}: expected x of shape (N,H,W,C), got {}", layer, to_string(xs));
  if (ws.rank() != 4) fail("[conv2d] {}: expected w of shape (O,KH,KW,C/groups), got {}", layer, to_string(ws));
  if (options.stride < 1 || options.dilation < 1 || options.groups < 1 || options.padding < 0) {
    fail("[conv2d] {}: expected stride, dilation, groups >= 1 and padding >= 0, got {}, {}, {} and {}", layer,
         options.stride, options.dilation, options.groups, options.padding);
  }
  if (xs[3] != ws[3] * options.groups) {
    fail("[conv2d] {}: expected C_in={} from w {} and groups={}, got {} in x {}", layer, ws[3] * options.groups,
         to_string(ws), options.groups, xs[3], to_string(xs));
  }
  if (ws[0] % options.groups != 0) {
    fail("[conv2d] {}: expected a number of outputs divisible by groups={}, got w {}", layer, options.groups,
         to_string(ws));
  }
  check_bias("conv2d", layer, bias, ws[0]);
  const ConvShape shape{.n = xs[0],
                        .h = xs[1],
                        .w = xs[2],
                        .c = xs[3],
                        .o = ws[0],
                        .kh = ws[1],
                        .kw = ws[2],
                        .stride_h = options.stride,
                        .stride_w = options.stride,
                        .pad_h = options.padding,
                        .pad_w = options.padding,
                        .dilation_h = options.dilation,
                        .dilation_w = options.dilation,
                        .groups = options.groups};
  if (xs[1] + 2 * options.padding < options.dilation * (ws[1] - 1) + 1 ||
      xs[2] + 2 * options.padding < options.dilation * (ws[2] - 1) + 1) {
    fail("[conv2d] {}: expected an image at least as large as the kernel {}x{} (dilation {}, padding {}), got x {}",
         layer, ws[1], ws[2], options.dilation, options.padding, to_string(xs));
  }
  return matmul(ctx, "conv2d", x, weight, bias, shape, {shape.n, shape.oh(), shape.ow(), shape.o}, layer,
                activation_scale);
}

Var linear(Ctx& ctx, const Var& x, const Var& weight, const Var* bias, const std::string& layer,
           Tensor& activation_scale) {
  const Shape& xs = x.shape();
  const Shape& ws = weight.shape();
  if (xs.rank() != 2 && xs.rank() != 3) {
    fail("[linear] {}: expected x of shape (N,C) or (N,T,C), got {}", layer, to_string(xs));
  }
  if (ws.rank() != 2) fail("[linear] {}: expected w of shape (O,C), got {}", layer, to_string(ws));
  if (xs[-1] != ws[1]) {
    fail("[linear] {}: expected C_in={} from w {}, got {} in x {}", layer, ws[1], to_string(ws), xs[-1], to_string(xs));
  }
  check_bias("linear", layer, bias, ws[0]);
  const bool tokens = xs.rank() == 3;
  const ConvShape shape{.n = tokens ? xs[0] * xs[1] : xs[0], .c = ws[1], .o = ws[0]};
  const Shape output = tokens ? Shape{xs[0], xs[1], ws[0]} : Shape{xs[0], ws[0]};
  return matmul(ctx, "linear", x, weight, bias, shape, output, layer, activation_scale);
}

}  // namespace luq
