// The three contractions of the trilinear form T (geometry.h), and their definition in loops.
//
//   forward      Y[n, co, oh, ow]    = bias[co] + dT / d dY
//   grad_input   dX[n, ci, ih, iw]   = bias[ci] + dT / dX      conv2d's gradient; conv_transpose2d itself
//   grad_weight  dW[co, ci, kh, kw]  = dT / dW
//
// Results are overwritten (they may hold NaN before) and are bitwise the same for any number of threads; a
// sample's Y and dX are the same bits alone or in a batch (plan.h, NOTE [Same bits]). bias may be null.
// Inputs may have any strides; results may have any strides that do not overlap.
//
// Inf and NaN of X (grad_input: of dY) reach the results that have a term with them, and no others. A weight
// (grad_weight: an element of dY) that is not finite reaches all of its terms, and may reach further elements
// of its channel of the result: the padding is multiplied as zeros, and 0 * Inf is NaN.

#pragma once

#include "../back/kernels.h"
#include "axis.h"
#include "geometry.h"
#include "plan.h"

namespace tce {

template <class scalar_t>
struct Operands {
  TensorView<const scalar_t> a;  // X (N, G*Ci, iH, iW);  grad_input: dY (N, G*Co, oH, oW)
  TensorView<const scalar_t> b;  // W (G*Co, Ci, kH, kW); grad_weight: dY
  const scalar_t* bias;          // (channels of the result) or null; grad_weight: null
  TensorView<scalar_t> result;   // Y; dX; dW
};

// Runs the contraction with the kernels of `table`, on up to `threads` threads.
template <class scalar_t>
void run(Contraction contraction, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
         const PlanOptions& options, const KernelTable& table, int threads);

// The definition: loops over every term, a double accumulator, nothing else. Never optimised; for tests.
template <class scalar_t>
void run_reference(Contraction contraction, const ConvGeometry& geometry, const Operands<scalar_t>& operands);

// One contraction each, as planned; forward.cpp, grad_input.cpp, grad_weight.cpp.
// `direct`: the direct algorithm's plan, for what Winograd leaves to it (winograd.h, NOTE [Finite tiles]).
template <class scalar_t>
void forward(const Plan& plan, const Plan& direct, const ConvGeometry& geometry,
             const Operands<scalar_t>& operands, const Kernels<scalar_t>& kernels, int threads);
template <class scalar_t>
void grad_input(const Plan& plan, const Plan& direct, const ConvGeometry& geometry,
                const Operands<scalar_t>& operands, const Kernels<scalar_t>& kernels, int threads);
template <class scalar_t>
void grad_weight(const Plan& plan, const Plan& direct, const ConvGeometry& geometry,
                 const Operands<scalar_t>& operands, const Kernels<scalar_t>& kernels, int threads);

// Channels co in [o_first, o_last) and ci of a group's dW, by the direct algorithm, on this thread; channels
// that share a panel with them are computed, too. grad_weight.cpp
struct WeightRegion {
  int64_t g;
  int64_t o_first, o_last;
  KRange ci;
};
template <class scalar_t>
void grad_weight_region(const Plan& plan, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
                        const Kernels<scalar_t>& kernels, const WeightRegion& region);

}  // namespace tce
