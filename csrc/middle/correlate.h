// The computation that forward and grad_input share:
//
//   out[n, g, o, p] = bias[g, o] + sum over c and taps (k, position) of p of  w[g, o, c, k] * source[n, g, c,
//   position]
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

namespace tce {

template <class scalar_t>
struct Correlation {
  int64_t N, G;
  int64_t C;  // summed channels per group
  int64_t O;  // result channels per group
  int64_t kH, kW;
  int64_t source_w;
  TensorView<const scalar_t> source;       // (N, G*C, ., .)
  WeightView<scalar_t> weight;             // of group 0
  int64_t weight_group;                    // its stride from group to group
  const scalar_t* bias;                    // (G*O) or null
  TensorView<scalar_t> out;                // (N, G*O, ., .)
  std::function<Axis(KRange)> rows, cols;  // the axes, restricted to a range of kernel elements
};

template <class scalar_t>
void correlate(const Correlation<scalar_t>& correlation, const Plan& plan, const Kernels<scalar_t>& kernels,
               int threads);

}  // namespace tce
