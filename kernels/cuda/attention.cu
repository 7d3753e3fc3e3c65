// Scaled dot-product attention on the device: float32, by the tiles of tile.h, for any number of tokens and any
// head_dim. No matrix of all scores is made, and nothing is added by atomics.
//
// Forward: a block has 64 queries of one image and head, and 64 columns of y. It goes through the keys 64 at a time:
// S = Q K^T over head_dim; the 16 threads that share rows find the rows' largest score so far; exponentials below it go
// to shared memory, transposed, as the left operand of Y = P V; what was summed before is scaled by
// e^(old largest - new largest). Rows are divided by their sums last.
//
// Backward: one warp a row makes rowsum(dy * y); then a block has 64 queries and adds up dQ = dS K over the keys, and
// in a third kernel a block has 64 keys and adds up dV = P^T dY and dK = dS^T Q over the queries. Both make P = e^(S -
// log_sum) and dS = P (dY V^T - rowsum) / sqrt(head_dim) again.
//
// If head_dim is more than 64, each block of 64 columns makes the scores for itself: with d = head_dim and
// b = ceil(d / 64), multiply-adds of an image's head are tokens^2 d times 1 + b forward and 3 + 4 b backward, tokens
// rounded up to 64. Operands are read through L1 and L2, 64 rows of each for 64 x 64 scores. Device memory sees each
// once where the heads at work fit in L2: forward 4 and backward 13 times (n, tokens, heads, head_dim) elements (2 for
// the sums of rows, 5 for dQ, 6 for dK and dV), and some floats a row.
//
// The qkv of one image have fewer than 2^31 elements.
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/tile.h"

namespace luq::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr float kInfinity = __builtin_inff(), kLowest = -0x1.fffffep127f;

struct Shared {
  Panels panels;
  alignas(16) float left[kTile][kTileRow];  // the left operand of the second product: [step][row]
};

struct Task {
  int tokens, heads, head_dim, tiles, chunks;  // tiles of tokens and chunks of columns, 64 each
  int vectors, vectors_out, reserved;          // the inputs, out; nothing
  double scale;                                // 1 / sqrt(head_dim)
  const void *qkv, *dy;
  const float *log_sum, *correction;  // (n, heads, tokens)
  void* out;                          // y or dqkv
  float* log_sum_out;                 // or null
};

// A block's part of it.
struct Part {
  int image, head, token, column;

  __device__ __forceinline__ explicit Part(const Task& t) {
    int block = static_cast<int>(blockIdx.x);
    column = block % t.chunks * kTile;
    block /= t.chunks;
    token = block % t.tiles * kTile;
    block /= t.tiles;
    head = block % t.heads;
    image = block / t.heads;
  }
  // The token's row of (n, heads, tokens).
  __device__ __forceinline__ int64_t row(const Task& t, int of_token) const {
    return (int64_t{image} * t.heads + head) * t.tokens + of_token;
  }
  // The head's row of a token begins here in its image: of q, k, v (0, 1, 2) in (tokens, 3, heads, head_dim), or of the
  // one part of (tokens, heads, head_dim).
  __device__ __forceinline__ int begin(const Task& t, int of_token, int part, int parts) const {
    return ((of_token * parts + part) * t.heads + head) * t.head_dim;
  }
  // Elements of the images before.
  __device__ __forceinline__ int64_t before(const Task& t, int parts) const {
    return int64_t{image} * t.tokens * (parts * t.heads * t.head_dim);
  }
  template <Read R>
  __device__ __forceinline__ Matrix<int> matrix(const Task& t, const void* data, int part, int parts) const {
    const void* image_data = static_cast<const char*>(data) + before(t, parts) * (R == Read::bfloat16 ? 2 : 4);
    return {image_data, begin(t, 0, part, parts), parts * t.heads * t.head_dim, t.tokens, t.head_dim, t.vectors != 0};
  }
};

// The largest x of 16 neighbouring threads, which share the rows of their sums.
__device__ __forceinline__ float largest_of_row(float x) {
  for (int apart = 8; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, apart, 16));
  return x;
}
__device__ __forceinline__ float sum_of_row(float x) {
  for (int apart = 8; apart > 0; apart /= 2) x += __shfl_xor_sync(0xffffffffu, x, apart, 16);
  return x;
}

// The thread's sums to the left operand. All must have read what was there, which a product over head_dim in between
// sees to: it has barriers.
__device__ __forceinline__ void put_transposed(float (*to)[kTileRow], const float (&values)[4][4]) {
  for (int j = 0; j < 4; ++j) {
    *reinterpret_cast<float4*>(&to[sums_column() + j][sums_row()]) =
        make_float4(values[0][j], values[1][j], values[2][j], values[3][j]);
  }
}

__device__ __forceinline__ void get_transposed(const float (*from)[kTileRow], float (&values)[4][4]) {
  for (int j = 0; j < 4; ++j) {
    const float4 column = *reinterpret_cast<const float4*>(&from[sums_column() + j][sums_row()]);
    values[0][j] = column.x;
    values[1][j] = column.y;
    values[2][j] = column.z;
    values[3][j] = column.w;
  }
}

__device__ __forceinline__ int tokens_of_tile(const Task& t, int first) {
  return t.tokens - first < kTile ? t.tokens - first : kTile;
}

// No row has a largest score below kLowest, so that a score of -infinity gives 0 and a row of them alone 0 / 0.
template <bool Bfloat16>
__global__ void __launch_bounds__(kTileThreads, 2) attend(Task t) {
  constexpr Read kX = kActivations<Bfloat16>;
  auto& shared = luq::device::shared_memory<Shared>();
  const Part part(t);
  const Matrix<int> queries = part.matrix<kX>(t, t.qkv, 0, 3), keys = part.matrix<kX>(t, t.qkv, 1, 3),
                    values = part.matrix<kX>(t, t.qkv, 2, 3);
  const float scale = static_cast<float>(t.scale);
  float y[4][4] = {}, largest[4] = {kLowest, kLowest, kLowest, kLowest}, total[4] = {};
  for (int key = 0; key < t.tokens; key += kTile) {
    float p[4][4] = {};
    add_product(shared.panels, t.head_dim, RowsAcross<kX, int>(queries, part.token), RowsAcross<kX, int>(keys, key), p);
    for (int i = 0; i < 4; ++i) {
      float most = largest[i];
      for (int j = 0; j < 4; ++j) {
        p[i][j] = key + sums_column() + j < t.tokens ? p[i][j] * scale : -kInfinity;
        most = fmaxf(most, p[i][j]);
      }
      most = largest_of_row(most);
      const float factor = expf(largest[i] - most);
      largest[i] = most;
      total[i] *= factor;
      for (int j = 0; j < 4; ++j) {
        y[i][j] *= factor;
        p[i][j] = expf(p[i][j] - most);
        total[i] += p[i][j];
      }
    }
    put_transposed(shared.left, p);
    add_shared_product(shared.panels, tokens_of_tile(t, key), shared.left, RowsAlong<kX, int>(values, key, part.column),
                       y);
  }
  for (int i = 0; i < 4; ++i) {
    total[i] = sum_of_row(total[i]);
    for (int j = 0; j < 4; ++j) y[i][j] /= total[i];
    const int token = part.token + sums_row() + i;
    if (t.log_sum_out != nullptr && part.column == 0 && sums_column() == 0 && token < t.tokens) {
      t.log_sum_out[part.row(t, token)] = logf(total[i]) + largest[i];
    }
  }
  store_sums<Bfloat16>(t.out, part.before(t, 1) + part.begin(t, part.token, 0, 1) + part.column, t.heads * t.head_dim,
                       t.tokens - part.token, t.head_dim - part.column, t.vectors_out != 0, y);
}

// ---- Backward -------------------------------------------------------------------------------------------------------

// A warp has a row of (n, tokens, heads); lane l adds elements l, l + 32, ..., and the lanes fold.
template <bool Bfloat16>
__global__ void __launch_bounds__(kTileThreads)
    multiply_rows(const void* dy, const void* y, int64_t rows, int64_t tokens, int64_t heads, int64_t head_dim,
                  float* sums) {
  constexpr Read kX = kActivations<Bfloat16>;
  const int64_t row = int64_t{blockIdx.x} * (kTileThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= rows) return;
  float sum = 0;
  for (int64_t i = row * head_dim + lane; i < (row + 1) * head_dim; i += kWarp) {
    sum = fmaf(load1<kX>(dy, i), load1<kX>(y, i), sum);
  }
  for (int apart = kWarp / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  const int64_t head = row % heads, token = row / heads % tokens, image = row / heads / tokens;
  if (lane == 0) sums[(image * heads + head) * tokens + token] = sum;
}

template <bool Bfloat16>
__global__ void __launch_bounds__(kTileThreads, 2) attend_backward_queries(Task t) {
  constexpr Read kX = kActivations<Bfloat16>;
  auto& shared = luq::device::shared_memory<Shared>();
  const Part part(t);
  const Matrix<int> queries = part.matrix<kX>(t, t.qkv, 0, 3), keys = part.matrix<kX>(t, t.qkv, 1, 3),
                    values = part.matrix<kX>(t, t.qkv, 2, 3), dy = part.matrix<kX>(t, t.dy, 0, 1);
  const float scale = static_cast<float>(t.scale);
  float log_sum[4], correction[4], dq[4][4] = {};
  for (int i = 0; i < 4; ++i) {
    const int query = part.token + sums_row() + i;
    log_sum[i] = query < t.tokens ? t.log_sum[part.row(t, query)] : 0;
    correction[i] = query < t.tokens ? t.correction[part.row(t, query)] : 0;
  }
  for (int key = 0; key < t.tokens; key += kTile) {
    float s[4][4] = {}, dp[4][4] = {};
    add_product(shared.panels, t.head_dim, RowsAcross<kX, int>(queries, part.token), RowsAcross<kX, int>(keys, key), s);
    add_product(shared.panels, t.head_dim, RowsAcross<kX, int>(dy, part.token), RowsAcross<kX, int>(values, key), dp);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        const bool inside = key + sums_column() + j < t.tokens && part.token + sums_row() + i < t.tokens;
        const float p = expf(s[i][j] * scale - log_sum[i]);
        s[i][j] = inside ? p * (dp[i][j] - correction[i]) * scale : 0;
      }
    }
    put_transposed(shared.left, s);
    add_shared_product(shared.panels, tokens_of_tile(t, key), shared.left, RowsAlong<kX, int>(keys, key, part.column),
                       dq);
  }
  store_sums<Bfloat16>(t.out, part.before(t, 3) + part.begin(t, part.token, 0, 3) + part.column,
                       3 * t.heads * t.head_dim, t.tokens - part.token, t.head_dim - part.column, t.vectors_out != 0,
                       dq);
}

template <bool Bfloat16>
__global__ void __launch_bounds__(kTileThreads, 2) attend_backward_keys(Task t) {
  constexpr Read kX = kActivations<Bfloat16>;
  auto& shared = luq::device::shared_memory<Shared>();
  const Part part(t);
  const Matrix<int> queries = part.matrix<kX>(t, t.qkv, 0, 3), keys = part.matrix<kX>(t, t.qkv, 1, 3),
                    values = part.matrix<kX>(t, t.qkv, 2, 3), dy = part.matrix<kX>(t, t.dy, 0, 1);
  const float scale = static_cast<float>(t.scale);
  float dk[4][4] = {}, dv[4][4] = {};
  for (int query = 0; query < t.tokens; query += kTile) {
    float p[4][4] = {};
    add_product(shared.panels, t.head_dim, RowsAcross<kX, int>(keys, part.token), RowsAcross<kX, int>(queries, query),
                p);
    for (int j = 0; j < 4; ++j) {
      const int row = query + sums_column() + j;
      const float log_sum = row < t.tokens ? t.log_sum[part.row(t, row)] : 0;
      for (int i = 0; i < 4; ++i) {
        const bool inside = row < t.tokens && part.token + sums_row() + i < t.tokens;
        p[i][j] = inside ? expf(p[i][j] * scale - log_sum) : 0;
      }
    }
    put_transposed(shared.left, p);
    add_shared_product(shared.panels, tokens_of_tile(t, query), shared.left, RowsAlong<kX, int>(dy, query, part.column),
                       dv);
    float ds[4][4] = {};
    add_product(shared.panels, t.head_dim, RowsAcross<kX, int>(values, part.token), RowsAcross<kX, int>(dy, query), ds);
    get_transposed(shared.left, p);  // the thread's own, to save registers
    for (int j = 0; j < 4; ++j) {
      const int row = query + sums_column() + j;
      const float correction = row < t.tokens ? t.correction[part.row(t, row)] : 0;
      for (int i = 0; i < 4; ++i) {
        const bool inside = row < t.tokens && part.token + sums_row() + i < t.tokens;
        ds[i][j] = inside ? p[i][j] * (ds[i][j] - correction) * scale : 0;
      }
    }
    put_transposed(shared.left, ds);
    add_shared_product(shared.panels, tokens_of_tile(t, query), shared.left,
                       RowsAlong<kX, int>(queries, query, part.column), dk);
  }
  const int stride = 3 * t.heads * t.head_dim, rows = t.tokens - part.token, columns = t.head_dim - part.column;
  store_sums<Bfloat16>(t.out, part.before(t, 3) + part.begin(t, part.token, 1, 3) + part.column, stride, rows, columns,
                       t.vectors_out != 0, dk);
  store_sums<Bfloat16>(t.out, part.before(t, 3) + part.begin(t, part.token, 2, 3) + part.column, stride, rows, columns,
                       t.vectors_out != 0, dv);
}

// ---- Entries --------------------------------------------------------------------------------------------------------

int vectors_of(int64_t head_dim, const void* x, bool bfloat16) {
  return head_dim % 4 == 0 && aligned_to_4(x, bfloat16) ? 1 : 0;
}

// Args: AttentionArgs or AttentionBackwardArgs.
template <typename Args>
Task task_of(const Args& a, const Floats& out) {
  return {.tokens = static_cast<int>(a.tokens),
          .heads = static_cast<int>(a.heads),
          .head_dim = static_cast<int>(a.head_dim),
          .tiles = static_cast<int>(blocks_for(a.tokens, kTile)),
          .chunks = static_cast<int>(blocks_for(a.head_dim, kTile)),
          .vectors = vectors_of(a.head_dim, a.qkv.data, a.qkv.bfloat16),
          .vectors_out = vectors_of(a.head_dim, out.data, out.bfloat16),
          .reserved = 0,
          .scale = 1 / std::sqrt(static_cast<double>(a.head_dim)),
          .qkv = a.qkv.data,
          .dy = nullptr,
          .log_sum = nullptr,
          .correction = nullptr,
          .out = out.data,
          .log_sum_out = nullptr};
}

LaunchShape shape_of(int64_t n, const Task& t) {
  return {.blocks = n * t.heads * t.tiles * t.chunks, .threads = kTileThreads, .shared_bytes = sizeof(Shared)};
}

void attention(const AttentionArgs& a) {
  Task t = task_of(a, a.y);
  t.log_sum_out = a.log_sum;
  launch("attention", a.qkv.bfloat16 ? attend<true> : attend<false>, shape_of(a.n, t), t);
}

void attention_backward(const AttentionBackwardArgs& a) {
  const bool bfloat16 = a.qkv.bfloat16;
  const int64_t rows = a.n * a.tokens * a.heads;
  auto* correction = scratch_of<float>(rows);
  Task t = task_of(a, a.dqkv);
  t.dy = a.dy.data;
  if (vectors_of(a.head_dim, a.dy.data, bfloat16) == 0) t.vectors = 0;
  t.log_sum = a.log_sum;
  t.correction = correction;
  launch("attention_backward, rows", bfloat16 ? multiply_rows<true> : multiply_rows<false>,
         {.blocks = blocks_for(rows, kTileThreads / kWarp), .threads = kTileThreads}, a.dy.data, a.y.data, rows,
         a.tokens, a.heads, a.head_dim, correction);
  launch("attention_backward, queries", bfloat16 ? attend_backward_queries<true> : attend_backward_queries<false>,
         shape_of(a.n, t), t);
  launch("attention_backward, keys", bfloat16 ? attend_backward_keys<true> : attend_backward_keys<false>,
         shape_of(a.n, t), t);
}

}  // namespace

void add_attention(Kernels& table) {
  table.attention = {attention, "cuda"};
  table.attention_backward = {attention_backward, "cuda"};
}

}  // namespace luq::kernels::cuda
