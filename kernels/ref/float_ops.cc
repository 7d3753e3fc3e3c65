// Puts the float instances of float_ops.h into the table.

#include "kernels/ref/float_ops.h"

#include "kernels/tables.h"

namespace luq::kernels {

void add_ref_float(Kernels& table) {
  table.conv_forward = {[](const ConvForwardArgs& a) { ref::conv_forward(a.shape, a.x, a.w, a.bias, a.y); }, "ref"};
  table.conv_backward_data = {[](const ConvBackwardDataArgs& a) { ref::conv_backward_data(a.shape, a.dy, a.w, a.dx); },
                              "ref"};
  table.conv_backward_weight = {
      [](const ConvBackwardWeightArgs& a) { ref::conv_backward_weight(a.shape, a.dy, a.x, a.dw); }, "ref"};
  table.column_sum = {[](const ColumnSumArgs& a) { ref::column_sum(a.x, a.rows, a.cols, a.sum); }, "ref"};
  table.batch_norm_stats = {
      [](const BatchNormStatsArgs& a) { ref::batch_norm_stats(a.x, a.rows, a.c, a.mean, a.variance); }, "ref"};
  table.batch_norm_apply = {[](const BatchNormApplyArgs& a) {
                              ref::batch_norm_apply(a.x, a.rows, a.c, a.mean, a.inverse_std, a.gamma, a.beta, a.y);
                            },
                            "ref"};
  table.batch_norm_backward = {[](const BatchNormBackwardArgs& a) {
                                 ref::batch_norm_backward(a.x, a.dy, a.rows, a.c, a.mean, a.inverse_std, a.gamma,
                                                          a.training, a.dx, a.dgamma, a.dbeta);
                               },
                               "ref"};
  table.relu = {[](const ReluArgs& a) { ref::relu(a.x, a.count, a.y, a.mask); }, "ref"};
  table.relu_backward = {[](const ReluBackwardArgs& a) { ref::relu_backward(a.dy, a.mask, a.count, a.dx); }, "ref"};
  table.add = {[](const AddArgs& a) { ref::add(a.a, a.b, a.count, a.y); }, "ref"};
  table.dropout = {[](const DropoutArgs& a) { ref::dropout(a.x, a.count, a.probability, a.key, a.y); }, "ref"};
  table.max_pool = {[](const MaxPoolArgs& a) { ref::max_pool(a.shape, a.x, a.y, a.index); }, "ref"};
  table.max_pool_backward = {[](const MaxPoolBackwardArgs& a) { ref::max_pool_backward(a.shape, a.dy, a.index, a.dx); },
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
                                              a.dlogits, a.gradient_scale, a.correct);
                         },
                         "ref"};
  table.sgd = {[](const SgdArgs& a) {
                 ref::sgd(a.w, a.gradient, a.velocity, a.count, a.lr, a.momentum, a.weight_decay, a.nesterov,
                          a.first_step);
               },
               "ref"};
}

}  // namespace luq::kernels
