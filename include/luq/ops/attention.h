// The ops of a vision transformer (Dosovitskiy et al. 2021) beside linear layers and norms.
#pragma once

#include <string>

#include "luq/autograd/ctx.h"

namespace luq {

// softmax(q k^T / sqrt(D)) v for each image and head by itself (Vaswani et al. 2017). qkv (N, T, 3 heads D): queries,
// keys and values, each (heads, D), as PyTorch's MultiheadAttention packs them; the result is (N, T, heads D). Keeps
// qkv, the result and one value for each query and head. The two products are in float, whatever the plan says, and
// stand in it. Throws Error `[attention] <layer>: ...` for a shape that does not fit.
Var attention(Ctx& ctx, const Var& qkv, int64_t heads, const std::string& layer);

// Images cut into patches as the tokens of a transformer: patches (N, H, W, C), row by row, behind a class token
// (1, 1, C), plus an embedding (1, 1 + H W, C) of their positions: (N, 1 + H W, C). Throws Error `[embed_tokens] ...`.
Var embed_tokens(Ctx& ctx, const Var& patches, const Var& class_token, const Var& positions);

// The first of T tokens: (N, T, C) -> (N, C). Throws Error `[first_token] ...`.
Var first_token(Ctx& ctx, const Var& x);

}  // namespace luq
