// The 4-bit matmuls of the CPU: one driver, and one table of small functions for each instruction set.
//
// The driver (qconv_driver.cc for forward and backward-data, qconv_backward_weight.cc) is plain C++:
// it plans, cuts the work into units for the threads, unpacks codes to bytes once per unit, and walks over tiles. A
// tile is the register block of a matrix product of bytes: R rows x 16 or 32 columns of int32 sums. Only tiles and
// unpacking are written for an instruction set, in qconv_tiles.h with the vector type as a parameter.
//
// Every product is of an unsigned byte, broadcast four terms at a time, with signed bytes, [terms / 4][16 columns][4].
// A signed operand becomes unsigned by an offset, which column sums take away again; sums that still hold the offset
// may wrap, so they are added modulo 2^32. The true sum fits in int32: longer ones go to the scalar reference.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace luq::kernels {

constexpr int kMaxTileRows = 14;  // widest tile of any instruction set: 14 x 2 accumulators of 32 registers
constexpr int64_t kBlock = 16;    // columns of a block

// Forward and backward-data: row i, column j of the tile is
//   start[j] + sum over runs r and k < 4 * steps of x[i * x_stride + run_offset[r] + k] * w[r, k, j],
// converted to float, times the result's scale, plus bias; or the sum itself.
struct ConvTile {
  const uint8_t* x;
  int64_t x_stride;           // bytes between rows
  const int64_t* run_offset;  // (runs) bytes
  int64_t runs, steps;        // a run is `steps` x 4 consecutive bytes
  int64_t chain;              // steps whose products fit in int16 sums; at least 1
  const int8_t* w;            // (blocks, runs, steps, 16, 4)
  int64_t w_block;            // bytes between blocks
  const uint32_t* start;      // (blocks * 16)
  float scale;
  const float* scales;      // (channels) or null: the scale of column j is scale * scales[j]
  const float* row_scales;  // (rows) or null: the scales of the rows, in place of all that
  const float* bias;        // (channels) or null
  bool accumulate;          // add to y
  Floats y;                 // (rows, channels) with y_stride between rows
  int64_t* sums;            // the same, or null
  int64_t y_stride;
  int64_t channels;  // columns to write
  // Or null: to the sums of the columns, and `moment_stride` behind to those of their squares, what the rows add. Of
  // every 16 columns the even ones lie first.
  int64_t* moments;
  int64_t moment_stride;
};

// Backward-weight: row i, column j is the sum, over all images and steps, of four terms of dy of row i times x of
// column j, modulo 2^32. It is added to `sums`, or written there; or, where those are null, written to dw as a float,
// times the row's scale, or added to what is there, after the offset of x has been taken away.
struct WeightTile {
  const int8_t* dy;  // (images, rows of the tile, 4 * steps)
  int64_t dy_stride, dy_image;
  const uint8_t* x;  // (images, steps, x_step bytes): 16 channels of 4, and x_block bytes behind the second block's
  int64_t x_step, x_block, x_image;
  int64_t images, steps;
  int64_t chain;
  int64_t stride;  // between rows of the result
  uint32_t* sums;  // (rows of the tile, 16 * blocks)
  bool add;
  float* dw;  // (rows of the tile, channels)
  int64_t channels;
  float scale;
  const float* scales;  // (rows of the tile) or null: the scale of row i is scale * scales[i]
  bool accumulate;      // add to dw
  int offset;
  const int32_t* dy_sums;  // (rows of the tile) or null: no offset
};

struct QConvIsa {
  int max_rows;    // of a tile
  int max_blocks;  // of a tile: 1 or 2
  // Two values a byte, low nibble first: values[i] = table[code i].
  void (*unpack)(const uint8_t* packed, int64_t bytes, const uint8_t* table, uint8_t* values);
  void (*conv[2][kMaxTileRows])(const ConvTile&);      // [blocks - 1][rows - 1]
  void (*weight[2][kMaxTileRows])(const WeightTile&);  // [blocks - 1][rows - 1]
};

// Each gets the scratch memory of the call, and, unless that is all it is to do, runs.
enum class QConvTask { run, prepare };
void qconv_forward(const QConvIsa& isa, const QConvForwardArgs& args, QConvTask task);
void qconv_forward_moments(const QConvIsa& isa, const QConvForwardMomentsArgs& args, QConvTask task);
void qconv_backward_data(const QConvIsa& isa, const QConvBackwardDataArgs& args, QConvTask task);
void qconv_backward_weight(const QConvIsa& isa, const QConvBackwardWeightArgs& args, QConvTask task);

}  // namespace luq::kernels
