// The jobs of the rows algorithm (rows.cpp): which tiles or sweeps compute some rows and columns of a plane.

#pragma once

#include <functional>
#include <vector>

#include "planes.h"

namespace tce {

// Row tiles with the same terms, one below the other. Of a sweep: `count` rows.
struct RowTiles {
  int64_t first, mr, count;
  std::vector<RowSegment> segments;
};

// Column tiles.
struct ColumnPart {
  int64_t vectors, x, result, cols;  // source column and result column of the first
  int64_t count;                     // of them, side by side
  std::vector<RowTap> taps;
};

// One pair of phases (kZipped: both column phases, in a sweep all four) and some of its row taps.
struct RowJob {
  size_t fh, fw;
  KRange jh, jw;
  bool first;             // of its phases
  int64_t sweep;          // K of the sweep, or 0
  int64_t row, row_step;  // of the first result, and from it to the next
  int64_t x_row, w_row;   // from a row of the window, of the kernel to the next, in elements
  int64_t skip;
  int64_t width, second_width;
  std::vector<ColumnPart> parts;
  std::vector<RowTiles> tiles;
};

// What the jobs depend on.
struct RowJobInput {
  const Plan& plan;
  const Axis &rows, &cols;
  const PlaneItem& item;
  const SourceRuns &packed_rows, &packed_cols;  // where planes are packed
  RowMode mode;
  int64_t C, kH, kW, source_h, source_w;
  int64_t source_row, weight_kh, weight_kw;  // strides
  std::function<bool(int64_t k, int64_t vectors)> has_sweep;
};

std::vector<RowJob> make_row_jobs(const RowJobInput& input);

// Row taps that read neighbouring source rows, from the first of these on. (Those of a gradient descend with
// the kernel's rows: there k_step is negative.)
struct RowChain {
  int64_t source;  // source row of the first tap for j = 0
  int64_t k, k_step, count;
};

// Of the row taps [t0, t1) of a phase; neighbours lie `distance` apart.
std::vector<RowChain> make_row_chains(const Axis& rows, size_t phase, size_t t0, size_t t1, int64_t distance);
inline std::vector<RowChain> make_row_chains(const Axis& rows, size_t phase, size_t t0, size_t t1) {
  return make_row_chains(rows, phase, t0, t1, rows.source_step);
}

// With a dilation the results that share sources are no neighbours, but those of a phase of this axis are.
Axis split_by_dilation(const Axis& axis);

}  // namespace tce
