// What the plans of the algorithms on packed planes (planes.h) share.

#pragma once

#include <algorithm>

#include "plan_tiles.h"

namespace tce {

// Pixels of a chunk, and of a sum (plan_tiles.h has what all plans share).
constexpr int64_t kChunkPixels = 2048;
constexpr int64_t kSumPixels = 1024;
// Lines that are read side by side, and their length, where reading is all there is to do.
constexpr int64_t kStreams = 8, kLine = 4096;

// Sizes of a correlation, whichever of forward and grad_input it is.
struct Sizes {
  int64_t C, O, out_h, out_w;
  AxisBound h, w;
};

inline Sizes sizes_of(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const bool f = plan.contraction == Contraction::kForward;
  return {f ? g.Ci : g.Co,
          f ? g.Co : g.Ci,
          f ? g.oH : g.iH,
          f ? g.oW : g.iW,
          axis_bound(f, g.oH, g.iH, g.kH, g.stride_h, g.dilation_h),
          axis_bound(f, g.oW, g.iW, g.kW, g.stride_w, g.dilation_w)};
}

// Cycles to load a vector that lies anywhere: two loads a cycle up to 32 bytes, one of 64; crossing a cache
// line costs a second one.
inline double load_cycles(const Plan& plan, bool aligned) {
  const int64_t bytes = static_cast<int64_t>(plan.lanes) * plan.element_size;
  return (bytes > 32 ? 1.0 : 0.5) * (aligned ? 1.0 : 1.0 + static_cast<double>(bytes) / 64);
}

// Planes of a tensor whose columns do not lie side by side.
inline const Move& dealt(const Plan& plan, int64_t channels) {
  return plan.layout.channels_inner && channels >= 8 ? kDealt : kGathered;
}

// Sources from the first to the last that `count` neighbouring results read.
inline int64_t box_bound(const AxisBound& a, int64_t count) {
  const int64_t results = ceil_div(count, a.out_step) + 1;
  return std::clamp<int64_t>(a.source_size, 1, results * a.source_step + a.taps_span + 1);
}

// Chunks of the result: as many rows as fit, in equal parts.
template <class F>
void choose_rows(Plan& plan, int64_t out_h, int64_t most, F&& fits) {
  plan.rows = balanced(out_h, std::max<int64_t>(1, most));
  while (plan.rows > 1 && !fits(plan.rows)) plan.rows = ceil_div(plan.rows, 2);
}

// The same, with fewer channels at a time rather than so few rows that each source row is packed again and
// again.
template <class F>
void choose_rows_and_channels(Plan& plan, int64_t out_h, int64_t most, int64_t channels, int64_t taps,
                              F&& fits) {
  choose_rows(plan, out_h, most, fits);
  while (plan.rows < std::min({out_h, most, 4 * taps}) && plan.c_block > 8) {
    plan.c_block = balanced(channels, plan.c_block / 2);
    choose_rows(plan, out_h, most, fits);
  }
}

inline double chunks(const Plan& plan, int64_t out_h, int64_t out_w) {
  return static_cast<double>(ceil_div(out_h, plan.rows) * ceil_div(out_w, plan.cols));
}

}  // namespace tce
