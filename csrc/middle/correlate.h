// The computation that forward and grad_input share:
//
//   out[n, g, o, p] = bias[g, o] + sum over c and the taps (k, position) of p of
//       w[g, o, c, k] * source[n, g, c, position]
//
// with taps given per spatial axis (axis.h). forward reads X through one phase, grad_input reads dY through
// one phase per residue of the stride. Nothing here knows which of the two it is.

#pragma once

#include <functional>

#include "../back/kernels.h"
#include "axis.h"
#include "geometry.h"
#include "pack.h"
#include "plan.h"
#include "subpixel.h"

namespace tce {

// A result larger than this will not be found in the caches by whoever reads it next. Written past them, it
// neither displaces what is in use nor is read before it is written (measured on chains of layers, too).
constexpr int64_t kStreamBytes = 12 << 20;

template <class scalar_t>
struct Correlation {
  int64_t N, G;
  int64_t C;  // summed channels per group
  int64_t O;  // result channels per group
  int64_t kH, kW;
  int64_t source_h, source_w, out_h, out_w;
  TensorView<const scalar_t> source;       // (N, G*C, ., .)
  WeightView<scalar_t> weight;             // of group 0
  int64_t weight_group;                    // its stride from group to group
  const scalar_t* bias;                    // (G*O) or null
  TensorView<scalar_t> out;                // (N, G*O, ., .)
  bool stream;                             // out is larger than kStreamBytes
  Subpixel subpixel;                       // O counts its lanes, too
  std::function<Axis(KRange)> rows, cols;  // the axes, restricted to a range of kernel elements
};

// A part of the result: channels [o_first, o_last) of group g, rows numbered over the batch (n * out_h + h).
struct Region {
  int64_t g;
  int64_t row_first, row_last, col_first, col_last;
  int64_t o_first, o_last;
};

// By the algorithm of the plan: direct (correlate.cpp), winograd (winograd.cpp), pixels (pixels.cpp),
// lanewise (lanewise.cpp) or rows (rows.cpp). `direct`: the direct algorithm's plan, for what Winograd finds
// not finite.
template <class scalar_t>
void correlate_as_planned(const Correlation<scalar_t>& correlation, const Plan& plan, const Plan& direct,
                          const Kernels<scalar_t>& kernels, int threads);

// By the direct algorithm.
template <class scalar_t>
void correlate(const Correlation<scalar_t>& correlation, const Plan& plan, const Kernels<scalar_t>& kernels,
               int threads);

// The same for a region alone, and for channels that share a panel with it; on this thread.
template <class scalar_t>
void correlate_region(const Correlation<scalar_t>& correlation, const Plan& plan,
                      const Kernels<scalar_t>& kernels, const Region& region);

}  // namespace tce
