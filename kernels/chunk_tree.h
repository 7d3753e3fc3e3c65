// Adds the chunks' results of the statistics in the order of numerics.h, one after the other as they come.
#pragma once

#include "kernels/numerics.h"

namespace luq::kernels {

class ChunkTree {
 public:
  void add(double sum_abs, double sum_sq);
  // Stores the totals of all that was added. Nothing may be added afterwards.
  void store_totals(Stats& stats);

 private:
  static constexpr int kLevels = 4;  // 2^44 elements
  struct Group {
    int count = 0;
    double sum_abs[kStatsGroup], sum_sq[kStatsGroup];
  };
  void add_to(int level, double sum_abs, double sum_sq);
  void close(int level);

  Group groups_[kLevels];
};

}  // namespace luq::kernels
