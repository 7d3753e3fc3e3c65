#include "kernels/chunk_tree.h"

namespace luq::kernels {
namespace {

double fold(double* results, int count) {
  for (int i = count; i < kStatsGroup; ++i) results[i] = 0;
  for (int half = kStatsGroup / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) results[i] += results[i + half];
  }
  return results[0];
}

}  // namespace

void ChunkTree::add(double sum_abs, double sum_sq) { add_to(0, sum_abs, sum_sq); }

void ChunkTree::add_to(int level, double sum_abs, double sum_sq) {
  Group& group = groups_[level];
  if (group.count == kStatsGroup) close(level);
  group.sum_abs[group.count] = sum_abs;
  group.sum_sq[group.count] = sum_sq;
  ++group.count;
}

void ChunkTree::close(int level) {
  Group& group = groups_[level];
  const int count = group.count;
  group.count = 0;
  add_to(level + 1, fold(group.sum_abs, count), fold(group.sum_sq, count));
}

void ChunkTree::store_totals(Stats& stats) {
  int level = 0;
  for (; level + 1 < kLevels && groups_[level + 1].count > 0; ++level) close(level);
  Group& top = groups_[level];
  stats.sum_abs = fold(top.sum_abs, top.count);
  stats.sum_sq = fold(top.sum_sq, top.count);
}

}  // namespace luq::kernels
