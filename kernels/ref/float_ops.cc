// Puts the float instances of float_ops.h into the table.

#include "kernels/ref/float_ops.h"

#include <cmath>
#include <cstring>

#include "kernels/ref/as_float.h"
#include "kernels/tables.h"

namespace luq::kernels {

void add_ref_float(Kernels& table) {
  using ref::Operand, ref::Result, ref::Weights;
  table.convert = {[](const ConvertArgs& a) {
                     for (int64_t i = 0; i < a.count; ++i) ref::store(a.y, i, ref::load(a.x, i));
                   },
                   "ref"};
  table.conv_forward = {[](const ConvForwardArgs& a) {
                          ref::conv_forward<float>(a.shape, Operand(a.x, a.shape.x_size()),
                                                   Weights(a.w, a.shape.w_size(), a.x.bfloat16), a.bias,
                                                   Result(a.y, a.shape.y_size()));
                        },
                        "ref"};
  table.conv_backward_data = {[](const ConvBackwardDataArgs& a) {
                                ref::conv_backward_data<float>(a.shape, Operand(a.dy, a.shape.y_size()),
                                                               Weights(a.w, a.shape.w_size(), a.dy.bfloat16),
                                                               Result(a.dx, a.shape.x_size()));
                              },
                              "ref"};
  table.conv_backward_weight = {[](const ConvBackwardWeightArgs& a) {
                                  ref::conv_backward_weight<float>(a.shape, Operand(a.dy, a.shape.y_size()),
                                                                   Operand(a.x, a.shape.x_size()), a.dw);
                                },
                                "ref"};
  table.column_sum = {[](const ColumnSumArgs& a) { ref::column_sum(a.x, a.rows, a.cols, a.sum); }, "ref"};
  table.batch_norm_stats = {[](const BatchNormStatsArgs& a) {
                              ref::batch_norm_stats<float>(Operand(a.x, a.rows * a.c), a.rows, a.c, a.mean, a.variance);
                            },
                            "ref"};
  table.batch_norm_apply = {[](const BatchNormApplyArgs& a) {
                              const int64_t count = a.rows * a.c;
                              ref::batch_norm_apply<float>(Operand(a.x, count), a.rows, a.c, a.mean, a.inverse_std,
                                                           a.gamma, a.beta, Result(a.y, count));
                            },
                            "ref"};
  table.batch_norm_backward = {[](const BatchNormBackwardArgs& a) {
                                 const int64_t count = a.rows * a.c;
                                 ref::batch_norm_backward<float>(Operand(a.x, count), Operand(a.dy, count), a.rows, a.c,
                                                                 a.mean, a.inverse_std, a.gamma, a.training,
                                                                 Result(a.dx, count), a.dgamma, a.dbeta);
                               },
                               "ref"};
  table.batch_norm_finish = {[](const BatchNormFinishArgs& a) {
                               for (int64_t c = 0; c < a.c; ++c) {
                                 a.inverse_std[c] = 1.0f / std::sqrt(a.variance[c] + a.eps);
                                 if (a.running_mean == nullptr) continue;
                                 a.running_mean[c] = (1 - a.momentum) * a.running_mean[c] + a.momentum * a.mean[c];
                                 a.running_variance[c] = (1 - a.momentum) * a.running_variance[c] +
                                                         a.momentum * (a.variance_factor * a.variance[c]);
                               }
                             },
                             "ref"};
  table.moving_average = {[](const MovingAverageArgs& a) {
#pragma omp parallel for simd schedule(static) if (parallel : a.count > 1 << 14)
                            for (int64_t i = 0; i < a.count; ++i) {
                              a.average[i] = a.decay * a.average[i] + a.rest * a.value[i];
                            }
                          },
                          "ref"};
  table.copy_rows = {[](const CopyRowsArgs& a) {
                       for (int64_t row = 0; row < a.rows; ++row) {
                         std::memcpy(static_cast<char*>(a.to) + row * a.to_stride,
                                     static_cast<const char*>(a.from) + row * a.from_stride,
                                     static_cast<size_t>(a.bytes));
                       }
                     },
                     "ref"};
  table.relu = {[](const ReluArgs& a) {
                  ref::relu<float>(Operand(a.x, a.count), a.count, Result(a.y, a.count), a.mask, a.ceiling);
                },
                "ref"};
  table.relu_backward = {[](const ReluBackwardArgs& a) {
                           ref::relu_backward<float>(Operand(a.dy, a.count), a.mask, a.count, Result(a.dx, a.count));
                         },
                         "ref"};
  table.layer_norm = {[](const LayerNormArgs& a) {
                        const int64_t count = a.rows * a.c;
                        ref::layer_norm<float>(Operand(a.x, count), a.rows, a.c, a.gamma, a.beta, a.eps,
                                               Result(a.y, count), a.mean, a.inverse_std);
                      },
                      "ref"};
  table.layer_norm_backward = {[](const LayerNormBackwardArgs& a) {
                                 const int64_t count = a.rows * a.c;
                                 ref::layer_norm_backward<float>(Operand(a.x, count), Operand(a.dy, count), a.rows, a.c,
                                                                 a.mean, a.inverse_std, a.gamma, Result(a.dx, count),
                                                                 a.dgamma, a.dbeta);
                               },
                               "ref"};
  table.attention = {[](const AttentionArgs& a) {
                       const int64_t count = a.n * a.tokens * a.heads * a.head_dim;
                       ref::attention<float>(a.n, a.tokens, a.heads, a.head_dim, Operand(a.qkv, 3 * count),
                                             Result(a.y, count), a.log_sum);
                     },
                     "ref"};
  table.attention_backward = {[](const AttentionBackwardArgs& a) {
                                const int64_t count = a.n * a.tokens * a.heads * a.head_dim;
                                ref::attention_backward<float>(
                                    a.n, a.tokens, a.heads, a.head_dim, Operand(a.qkv, 3 * count), Operand(a.y, count),
                                    a.log_sum, Operand(a.dy, count), Result(a.dqkv, 3 * count));
                              },
                              "ref"};
  table.gelu = {[](const GeluArgs& a) { ref::gelu<float>(Operand(a.x, a.count), a.count, Result(a.y, a.count)); },
                "ref"};
  table.gelu_backward = {[](const GeluBackwardArgs& a) {
                           ref::gelu_backward<float>(Operand(a.x, a.count), Operand(a.dy, a.count), a.count,
                                                     Result(a.dx, a.count));
                         },
                         "ref"};
  table.add = {[](const AddArgs& a) {
                 ref::add<float>(Operand(a.a, a.count), Operand(a.b, a.count), a.count, Result(a.y, a.count));
               },
               "ref"};
  table.dropout = {[](const DropoutArgs& a) { ref::dropout(a.x, a.count, a.probability, a.key, a.y); }, "ref"};
  table.max_pool = {[](const MaxPoolArgs& a) {
                      const PoolShape& p = a.shape;
                      ref::max_pool<float>(p, Operand(a.x, p.n * p.h * p.w * p.c),
                                           Result(a.y, p.n * p.oh() * p.ow() * p.c), a.index);
                    },
                    "ref"};
  table.max_pool_backward = {[](const MaxPoolBackwardArgs& a) {
                               const PoolShape& p = a.shape;
                               ref::max_pool_backward<float>(p, Operand(a.dy, p.n * p.oh() * p.ow() * p.c), a.index,
                                                             Result(a.dx, p.n * p.h * p.w * p.c));
                             },
                             "ref"};
  table.avg_pool = {[](const AvgPoolArgs& a) { ref::avg_pool(a.shape, a.x, a.y, a.count_include_pad); }, "ref"};
  table.avg_pool_backward = {
      [](const AvgPoolBackwardArgs& a) { ref::avg_pool_backward(a.shape, a.dy, a.dx, a.count_include_pad); }, "ref"};
  table.adaptive_avg_pool = {
      [](const AdaptiveAvgPoolArgs& a) { ref::adaptive_avg_pool(a.n, a.h, a.w, a.c, a.oh, a.ow, a.x, a.y); }, "ref"};
  table.adaptive_avg_pool_backward = {[](const AdaptiveAvgPoolBackwardArgs& a) {
                                        ref::adaptive_avg_pool_backward(a.n, a.h, a.w, a.c, a.oh, a.ow, a.dy, a.dx);
                                      },
                                      "ref"};
  table.cross_entropy = {[](const CrossEntropyArgs& a) {
                           ref::cross_entropy(a.logits, a.labels, a.rows, a.classes, a.label_smoothing, a.loss,
                                              a.dlogits, a.gradient_scale, a.correct, a.other_labels, a.label_weight);
                         },
                         "ref"};
  table.sgd = {[](const SgdArgs& a) {
                 ref::sgd(a.w, a.gradient, a.velocity, a.count, a.lr, a.momentum, a.weight_decay, a.nesterov,
                          a.first_step, a.gradient_scale);
               },
               "ref"};
  table.adamw = {[](const AdamWArgs& a) {
                   ref::adamw(a.w, a.gradient, a.m, a.v, a.count, a.lr, a.beta1, a.beta2, a.eps, a.weight_decay, a.step,
                              a.gradient_scale);
                 },
                 "ref"};
}

}  // namespace luq::kernels
