#include "luq/ops/attention.h"

#include "luq/core/convert.h"
#include "luq/ops/plan.h"
#include "luq/ops/trace.h"
#include "src/core/floats.h"
#include "src/ops/check.h"

namespace luq {
namespace {

// Copies `count` elements, from the offsets on, of each of `images` parts; the parts of `to` and `from` begin to_size
// and from_size elements apart.
void copy_parts(const Kernels& kernels, const Tensor& from, int64_t from_size, int64_t from_offset, Tensor& to,
                int64_t to_size, int64_t to_offset, int64_t images, int64_t count) {
  const int64_t element = size_of(to.dtype());
  kernels.copy_rows({.from = static_cast<const char*>(from.raw()) + from_offset * element,
                     .from_stride = from_size * element,
                     .rows = images,
                     .bytes = count * element,
                     .to_stride = to_size * element,
                     .to = static_cast<char*>(to.raw()) + to_offset * element});
}

kernels::Floats floats_at(Tensor& tensor, int64_t element) {
  if (tensor.dtype() == DType::bfloat16) return tensor.data<BFloat16>() + element;
  return tensor.data<float>() + element;
}

}  // namespace

Var attention(Ctx& ctx, const Var& qkv, int64_t heads, const std::string& layer) {
  check_float("attention", layer, "qkv", qkv.value());
  const Shape& s = qkv.shape();
  if (s.rank() != 3 || heads < 1 || s[2] == 0 || s[2] % (3 * heads) != 0) {
    fail("[attention] {}: expected qkv of shape (N,T,3 heads D) with {} heads, got {}", layer, heads, to_string(s));
  }
  const Kernels& kernels = *ctx.kernels;
  const int64_t images = s[0], tokens = s[1], head_dim = s[2] / (3 * heads);
  const DType dtype = qkv.value().dtype();
  const bool needs_grad = ctx.records(qkv);
  const Device device = qkv.value().device();
  Var y(Tensor::empty({images, tokens, heads * head_dim}, dtype, device), needs_grad);
  Tensor log_sum;
  if (needs_grad) log_sum = Tensor::empty({images, heads, tokens}, DType::float32, device);
  kernels.attention({.n = images,
                     .tokens = tokens,
                     .heads = heads,
                     .head_dim = head_dim,
                     .qkv = floats(qkv.value()),
                     .y = floats(y.value()),
                     .log_sum = needs_grad ? log_sum.data<float>() : nullptr});
  record_plan(ctx, "attention", layer, s, y.shape(), kernels.attention.implementation,
              needs_grad ? kernels.attention_backward.implementation : "-", 0, dtype);
  if (ctx.plan != nullptr) ctx.plan->back().macs = 2 * images * tokens * tokens * heads * head_dim;
  record_trace(ctx, "attention", qkv, y, {{"heads", static_cast<double>(heads)}});
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, images, tokens, heads, head_dim, dtype, qkv_value = qkv.value(), y_value = y.value(),
                       log_sum, slot = qkv.slot()](Tensor dy) {
    Tensor dqkv = Tensor::empty(qkv_value.shape(), dtype, qkv_value.device());
    kernels.attention_backward({.n = images,
                                .tokens = tokens,
                                .heads = heads,
                                .head_dim = head_dim,
                                .qkv = floats(qkv_value),
                                .y = floats(y_value),
                                .log_sum = log_sum.data<float>(),
                                .dy = floats(std::as_const(dy)),
                                .dqkv = floats(dqkv)});
    dy = Tensor();
    add_gradient(kernels, *slot, std::move(dqkv));
  });
  return y;
}

Var embed_tokens(Ctx& ctx, const Var& patches, const Var& class_token, const Var& positions) {
  check_float("embed_tokens", "", "patches", patches.value());
  const Shape& s = patches.shape();
  if (s.rank() != 4) fail("[embed_tokens] expected patches of shape (N,H,W,C), got {}", to_string(s));
  const int64_t images = s[0], patch_count = s[1] * s[2], c = s[3], tokens = patch_count + 1;
  if (class_token.shape() != Shape{1, 1, c} || positions.shape() != Shape{1, tokens, c}) {
    fail("[embed_tokens] expected a class token (1,1,{}) and positions (1,{},{}) for patches {}, got {} and {}", c,
         tokens, c, to_string(s), to_string(class_token.shape()), to_string(positions.shape()));
  }
  const Kernels& kernels = *ctx.kernels;
  const DType dtype = patches.value().dtype();
  const bool needs_grad =
      ctx.tape != nullptr && (patches.needs_grad() || class_token.needs_grad() || positions.needs_grad());
  Var y(Tensor::empty({images, tokens, c}, dtype, patches.value().device()), needs_grad);
  const Tensor first = convert(kernels, class_token.value(), dtype), added = convert(kernels, positions.value(), dtype);
  copy_parts(kernels, first, 0, 0, y.value(), tokens * c, 0, images, c);
  copy_parts(kernels, patches.value(), patch_count * c, 0, y.value(), tokens * c, c, images, patch_count * c);
  for (int64_t image = 0; image < images; ++image) {
    const kernels::Floats rows = floats_at(y.value(), image * tokens * c);
    kernels.add({.a = rows, .b = floats(added), .count = tokens * c, .y = rows});
  }
  record_plan(ctx, "embed_tokens", "", s, y.shape(), kernels.add.implementation,
              needs_grad ? kernels.column_sum.implementation : "-", c + tokens * c, dtype);
  if (ctx.trace != nullptr) {
    ctx.trace->push_back({.op = "embed_tokens",
                          .layer = "",
                          .operands = {{.role = "x", .value = patches},
                                       {.role = "class_token", .value = class_token},
                                       {.role = "positions", .value = positions}},
                          .attributes = {},
                          .output = y});
  }
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels, images, tokens, c, dtype, s, x_slot = patches.slot(), class_slot = class_token.slot(),
                       positions_slot = positions.slot()](Tensor dy) {
    const Tensor values = convert(kernels, dy, DType::float32);
    Tensor dpositions = Tensor::empty({1, tokens, c}, DType::float32, dy.device());
    kernels.column_sum(
        {.x = values.data<float>(), .rows = images, .cols = tokens * c, .sum = dpositions.data<float>()});
    if (class_slot != nullptr) {
      Tensor dclass = Tensor::empty({1, 1, c}, DType::float32, dy.device());
      copy_parts(kernels, dpositions, 0, 0, dclass, 0, 0, 1, c);
      add_gradient(kernels, *class_slot, std::move(dclass));
    }
    if (positions_slot != nullptr) add_gradient(kernels, *positions_slot, std::move(dpositions));
    if (x_slot == nullptr) return;
    Tensor dx = Tensor::empty(s, dtype, dy.device());
    copy_parts(kernels, dy, tokens * c, c, dx, (tokens - 1) * c, 0, images, (tokens - 1) * c);
    add_gradient(kernels, *x_slot, std::move(dx));
  });
  return y;
}

Var first_token(Ctx& ctx, const Var& x) {
  check_float("first_token", "", "x", x.value());
  const Shape& s = x.shape();
  if (s.rank() != 3 || s[1] < 1) fail("[first_token] expected x of shape (N,T,C) with T >= 1, got {}", to_string(s));
  const int64_t images = s[0], row = s[1] * s[2], c = s[2];
  const DType dtype = x.value().dtype();
  const bool needs_grad = ctx.records(x);
  Var y(Tensor::empty({images, c}, dtype, x.value().device()), needs_grad);
  copy_parts(*ctx.kernels, x.value(), row, 0, y.value(), c, 0, images, c);
  record_plan(ctx, "first_token", "", s, y.shape(), "-", "-", 0, dtype);
  record_trace(ctx, "first_token", x, y);
  if (!needs_grad) return y;

  ctx.tape->record(y, [&kernels = *ctx.kernels, images, row, c, dtype, s, slot = x.slot()](const Tensor& dy) {
    Tensor dx = Tensor::zeros(s, dtype, dy.device());
    copy_parts(kernels, dy, c, 0, dx, row, 0, images, c);
    add_gradient(kernels, *slot, std::move(dx));
  });
  return y;
}

}  // namespace luq
